/**
 * Puts the page together: what the user does on the left hand, the modules that do it on the right.
 */

import { Asking } from "./asking.js";
import { announce, button, byId } from "./dom.js";
import { save } from "./downloads.js";
import { hideFailure, showFailure } from "./failures.js";
import { History } from "./history.js";
import { keepKey, keptKey } from "./key.js";
import { showLegend } from "./legend.js";
import { ModelChoice } from "./models.js";
import { pictureAt, pictureOf } from "./pictures.js";
import { showReport } from "./report.js";
import { Scene } from "./scene.js";
import { readFacts, readSample, ServiceError } from "./service.js";
import { SNIPPETS } from "./snippets.js";
import { listenForPictures, SAMPLES } from "./sources.js";
import { Stage } from "./stage.js";
import { showTokens } from "./tokens.js";

/** @import { Picture } from "./records.js" */
/** @import { Sample } from "./sources.js" */

const scene = new Scene();
const asking = new Asking(scene);
const history = new History();
const models = new ModelChoice();
const prompt = /** @type {HTMLInputElement} */ (byId("prompt"));
const key = /** @type {HTMLInputElement} */ (byId("key"));
const snippet = byId("snippet");
let facts = { keys: false, docs: false, url_fetch: true };
/** @type {string[]} prompts that fit the picture */
let suggestions = [];
let choices = 0; // how often a picture was chosen

/** @param {unknown} error @param {() => void} [retry] */
function fail(error, retry = ask) {
  showFailure(error, retry);
  if (error instanceof ServiceError && error.code === "unauthorized") {
    byId("key-field").hidden = false;
    key.focus();
  }
}

async function ask() {
  const { picture } = scene;
  const words = prompt.value.trim();
  if (!picture || !words) {
    prompt.focus();
    return;
  }
  hideFailure();
  history.add(words);
  showPrompts();
  try {
    await asking.ask({ picture, prompt: words, modelId: models.value, key: key.value });
  } catch (error) {
    fail(error);
  }
}

/** @param {Picture} picture @param {string[]} prompts */
function use(picture, prompts) {
  hideFailure();
  suggestions = prompts;
  scene.show(picture);
  asking.forget();
  showPrompts();
  announce(`${picture.name} is on the page.`);
}

/**
 * Uses a picture when it is there, unless another one was chosen meanwhile.
 * @param {Promise<Picture>} coming
 * @param {string[]} prompts
 * @param {() => void} [retry]
 * @returns {Promise<boolean>}  whether it is used
 */
async function useNewest(coming, prompts, retry) {
  choices += 1;
  const choice = choices;
  try {
    const picture = await coming;
    if (choice === choices) use(picture, prompts);
    else picture.bitmap?.close();
  } catch (error) {
    if (choice === choices) fail(error, retry);
    return false;
  }
  return choice === choices;
}

/** @param {Blob} file @param {string} name */
async function useFile(file, name) {
  if (await useNewest(pictureOf(file, name), [])) prompt.focus();
}

/** @param {string} url */
function useUrl(url) {
  if (facts.url_fetch || /^data:/i.test(url)) void useNewest(Promise.resolve(pictureAt(url)), []);
  else fail(new Error("This server fetches no pictures from the web: save the picture, and choose its file."));
}

/** @param {Sample} sample */
async function useSample(sample) {
  const coming = readSample(sample.file).then((file) => pictureOf(file, sample.file));
  await useNewest(coming, sample.prompts, () => void useSample(sample));
}

/** Prompts to be asked with one click: those that fit the picture, and the last ones. */
function showPrompts() {
  const chip = (/** @type {string} */ words) =>
    button(words, () => {
      prompt.value = words;
      void ask();
    });
  byId("suggestions").replaceChildren(...suggestions.map(chip));
  byId("suggested").hidden = suggestions.length === 0;
  const others = history.prompts.filter((words) => !suggestions.includes(words));
  byId("recent").replaceChildren(...others.map(chip));
  byId("history").hidden = others.length === 0;
}

function showAnswer() {
  const { answer, isRunning } = asking;
  document.body.classList.toggle("running", isRunning);
  byId("run").textContent = isRunning ? "Cancel" : "Segment";
  byId("results").hidden = !answer;
  byId("waiting").hidden = Boolean(answer) || isRunning || scene.objects.length > 0;
  byId("report").hidden = !answer;
  if (!answer) {
    byId("remarks").replaceChildren();
    return;
  }
  showTokens(scene, answer.text);
  showReport(answer, asking.tookMs);
  showSnippet();
}

function showSnippet() {
  const { question } = asking;
  const chosen = /** @type {HTMLInputElement | null} */ (document.querySelector("input[name=language]:checked"));
  if (!question || !chosen) return;
  const { picture, prompt, modelId } = question; // not what the page's fields say by now
  const address = new URL(".", location.href).href;
  const call = { address, picture, prompt, modelId, keys: facts.keys };
  snippet.textContent = SNIPPETS[chosen.value](call);
}

async function copySnippet() {
  const copy = byId("copy");
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(snippet.textContent ?? "");
    copy.textContent = "Copied";
  } else {
    getSelection()?.selectAllChildren(snippet); // over plain http, browsers let only the user copy
    copy.textContent = "Selected: press Ctrl+C";
  }
  announce(copy.textContent);
  copy.addEventListener("blur", () => (copy.textContent = "Copy"), { once: true });
}

async function loadModels() {
  try {
    await models.load(key.value);
    hideFailure();
  } catch (error) {
    fail(error, loadModels);
  }
}

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (asking.isRunning) asking.cancel();
    else void ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) asking.cancel();
  });
  asking.addEventListener("change", showAnswer);
  listenForPictures({
    onFile: useFile,
    onUrl: useUrl,
    onSample: (sample) => void useSample(sample),
    onError: fail,
  });
  byId("forget").addEventListener("click", () => {
    history.clear();
    showPrompts();
    prompt.focus();
  });
  const opacity = /** @type {HTMLInputElement} */ (byId("opacity"));
  opacity.addEventListener("input", () => {
    scene.opacity = opacity.valueAsNumber / 100;
    scene.changed();
  });
  for (const layer of /** @type {const} */ (["masks", "boxes", "labels"])) {
    byId(layer).addEventListener("change", (event) => {
      scene.layers[layer] = /** @type {HTMLInputElement} */ (event.target).checked;
      scene.changed();
    });
  }
  for (const kind of /** @type {const} */ (["mask", "cutout", "overlay", "json", "coco"])) {
    byId(`save-${kind}`).addEventListener("click", () => {
      if (asking.answer) save(kind, scene, asking.answer).catch(fail);
    });
  }
  for (const language of document.querySelectorAll("input[name=language]")) {
    language.addEventListener("change", showSnippet);
  }
  byId("copy").addEventListener("click", copySnippet);
  byId("key-field").addEventListener("submit", (event) => {
    event.preventDefault();
    key.blur(); // which is a change
  });
  key.addEventListener("change", () => {
    keepKey(key.value);
    void loadModels();
  });
}

async function start() {
  new Stage(scene);
  showLegend(scene);
  listen();
  showAnswer();
  await useSample(SAMPLES[0]);
  try {
    facts = await readFacts();
  } catch (error) {
    fail(error, () => location.reload());
    return;
  }
  byId("docs-link").hidden = !facts.docs;
  byId("open-url").hidden = !facts.url_fetch;
  byId("key-field").hidden = !facts.keys;
  key.value = facts.keys ? keptKey() : "";
  if (!facts.keys || key.value) await loadModels();
  document.body.classList.add("ready");
}

void start();
