/**
 * The model's own answer. Its tokens are coloured like the object that they describe, and explained one by one: four
 * places of a box, <loc0000> to <loc1023>, and sixteen codes of a mask, <seg000> to <seg127>.
 */

import { byId, make } from "./dom.js";

/** @import { Found } from "./records.js" */
/** @import { Scene } from "./scene.js" */
/** @typedef {{text: string, kind: "loc" | "seg" | "words", value: number, place: number, group: number}} Token */

const TOKEN = /<(loc)(\d{4})>|<(seg)(\d{3})>/g;
const LAST_BIN = 1023; // 1023 is the right or lower edge
const LOCS = 4;
const SIDES = ["y_min, the upper edge", "x_min, the left edge", "y_max, the lower edge", "x_max, the right edge"];
const NEAR = 1e-4; // of the width; the service rounds to six decimals
const RESTING = "Point at a token, or go from one to the next with the arrow keys, to see what it means.";

/**
 * Takes an answer apart.
 * @param {string} text
 * @returns {Token[]}  `group` counts the objects, -1 before the first; `place` counts within its loc or seg tokens
 */
export function readTokens(text) {
  /** @type {Token[]} */
  const tokens = [];
  let [end, group, place] = [0, -1, 0];
  for (const match of text.matchAll(TOKEN)) {
    if (match.index > end) tokens.push({ text: text.slice(end, match.index), kind: "words", value: 0, place: 0, group });
    const before = match.index === end ? tokens.at(-1)?.kind : undefined;
    const kind = match[1] ? "loc" : "seg";
    place = before === kind && !(kind === "loc" && place === LOCS - 1) ? place + 1 : 0;
    if (kind === "loc" && place === 0) group += 1;
    tokens.push({ text: match[0], kind, value: Number(match[2] ?? match[4]), place, group });
    end = match.index + match[0].length;
  }
  if (end < text.length) tokens.push({ text: text.slice(end), kind: "words", value: 0, place: 0, group });
  return tokens;
}

/** @param {Token} token @param {{width: number, height: number}} size  of the picture in pixels */
export function explain(token, size) {
  if (token.kind === "seg") {
    return `Code ${token.place + 1} of the mask's 16: entry ${token.value} of 128 in the decoder's codebook, one cell of 4 × 4 over the box.`;
  }
  const share = token.value / LAST_BIN;
  const [axis, length] = token.place % 2 ? ["width", size.width] : ["height", size.height];
  const pixels = Math.round(share * length);
  return `${SIDES[token.place]}: ${token.value} of ${LAST_BIN} is ${(100 * share).toFixed(1)} % of the ${axis}, pixel ${pixels}.`;
}

/**
 * Shows an answer; pointing at a token shows its object alone.
 * @param {Scene} scene
 * @param {string} text
 */
export function showTokens(scene, text) {
  const line = byId("tokens");
  const explanation = byId("explanation");
  const tokens = readTokens(text);
  const owners = tokens.map(({ group }) => ownerOf(tokens.filter((token) => token.group === group), scene.objects));
  const marks = tokens.map((token, index) => {
    if (token.kind === "words") return make("span", { class: "words" }, token.text);
    const mark = make("span", { class: `token ${token.kind}`, role: "listitem", tabindex: "-1" }, token.text);
    const owner = owners[index];
    if (owner) mark.style.setProperty("--dot", owner.colour);
    const enter = () => {
      explanation.textContent = scene.picture ? `${token.text} — ${explain(token, scene.picture)}` : "";
      scene.isolate(owner);
    };
    const leave = () => scene.isolate(null);
    mark.addEventListener("pointerenter", enter);
    mark.addEventListener("pointerleave", leave);
    mark.addEventListener("focus", enter);
    mark.addEventListener("blur", leave);
    return mark;
  });
  line.replaceChildren(...marks);
  explanation.textContent = marks.some((mark) => mark.classList.contains("token")) ? RESTING : "";
  roam(marks.filter((mark) => mark.classList.contains("token")));
}

/** One stop of the tab key for all tokens; arrow keys go between them. @param {HTMLElement[]} marks */
function roam(marks) {
  marks[0]?.setAttribute("tabindex", "0");
  marks.forEach((mark, index) => {
    mark.addEventListener("keydown", ({ key }) => {
      const next = key === "ArrowRight" ? marks[index + 1] : key === "ArrowLeft" ? marks[index - 1] : undefined;
      if (!next) return;
      mark.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

/** The object whose box these tokens are. @param {Token[]} group @param {Found[]} objects @returns {Found | null} */
function ownerOf(group, objects) {
  const bins = group.filter(({ kind }) => kind === "loc").map(({ value }) => value / LAST_BIN);
  if (bins.length !== LOCS) return null;
  const box = [bins[1], bins[0], bins[3], bins[2]];
  const isIts = (/** @type {Found} */ { entry }) =>
    entry.coordinates.every((value, index) => Math.abs(value - box[index]) < NEAR);
  return objects.find(isIts) ?? null;
}
