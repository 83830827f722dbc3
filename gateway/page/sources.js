/**
 * Every way in which a picture comes to the page: a sample, a file, a drop, the clipboard, the camera, an address.
 */

import { openCamera } from "./camera.js";
import { byId, make } from "./dom.js";

/** @typedef {{file: string, name: string, prompts: string[]}} Sample */
/**
 * @typedef {object} Takers
 * @property {(file: Blob, name: string) => void} onFile
 * @property {(url: string) => void} onUrl
 * @property {(sample: Sample) => void} onSample
 * @property {(error: Error) => void} onError
 */

/** @type {Sample[]} */
export const SAMPLES = [
  {
    file: "everyday.jpg",
    name: "everyday things",
    prompts: ["penguin ; mushroom ; yellow apple ; watermelon", "detect mushroom", "penguin", "red car"],
  },
  { file: "sample.png", name: "shapes", prompts: ["blue star ; cyan ring", "yellow heart", "detect green diamond", "left shape"] },
];

/** @param {Takers} takers */
export function listenForPictures(takers) {
  showSamples(takers.onSample);
  listenForFiles(takers);
  listenForDrops(takers);
  document.addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    takers.onFile(file, file.name);
  });
  const url = /** @type {HTMLInputElement} */ (byId("url"));
  const dialog = /** @type {HTMLDialogElement} */ (byId("url-dialog"));
  byId("open-url").addEventListener("click", () => dialog.showModal());
  byId("url-form").addEventListener("submit", () => takers.onUrl(url.value.trim()));
  byId("close-url").addEventListener("click", () => dialog.close());
  const camera = byId("open-camera");
  camera.hidden = !navigator.mediaDevices; // browsers offer it only over https and on this machine
  camera.addEventListener("click", () => openCamera((file) => takers.onFile(file, "camera.jpg"), takers.onError));
}

/** @param {(sample: Sample) => void} onSample */
function showSamples(onSample) {
  byId("samples").replaceChildren(
    ...SAMPLES.map((sample) => {
      const image = make("img", { src: `demo/samples/${sample.file}`, alt: "", width: "64", height: "48" });
      const choose = make("button", { type: "button", "aria-label": `Sample: ${sample.name}` }, image);
      choose.addEventListener("click", () => onSample(sample));
      return make("li", {}, choose);
    }),
  );
}

/** @param {Takers} takers */
function listenForFiles({ onFile }) {
  const input = /** @type {HTMLInputElement} */ (byId("file"));
  byId("open-file").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const [file] = input.files ?? [];
    if (file) onFile(file, file.name);
    input.value = ""; // so that the same file can be chosen again
  });
}

/** Anywhere on the page. @param {Takers} takers */
function listenForDrops({ onFile, onUrl }) {
  const show = (/** @type {boolean} */ over) => document.body.classList.toggle("dragging", over);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    show(true);
  });
  document.addEventListener("dragleave", (event) => show(event.relatedTarget !== null));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    show(false);
    const [file] = event.dataTransfer?.files ?? [];
    const url = event.dataTransfer?.getData("text/uri-list").split("\n")[0];
    if (file) onFile(file, file.name);
    else if (url) onUrl(url.trim());
  });
}

/** @param {DataTransfer | null} data @returns {File | undefined} */
function pictureIn(data) {
  return [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
}
