/**
 * Saves what was found: as pictures in the original's size (the objects that are shown), or as data (all of them).
 */

import { cocoOf } from "./coco.js";
import { outline, paintObjects } from "./paint.js";

/** @import { Answer, Found, Picture } from "./records.js" */
/** @import { Scene } from "./scene.js" */
/** @typedef {"mask" | "cutout" | "overlay" | "json" | "coco"} Kind */

const HALF = 128; // of 255: a pixel that the outline covers at least by half is inside
const OVERLAY_PIXELS = 900; // lines and letters on a picture of this width are as thick as on the page

/**
 * @param {Kind} kind
 * @param {Scene} scene  with a picture
 * @param {Answer} answer
 */
export async function save(kind, scene, answer) {
  const picture = /** @type {Picture} */ (scene.picture);
  const stem = picture.name.replace(/\.\w+$/, "") || "picture";
  if (kind === "json") return hand(JSON.stringify(answer, null, 1), `${stem}.json`);
  if (kind === "coco") {
    const coco = cocoOf(picture, scene.objects, (found) => bytesOf(maskOf([found], picture)));
    return hand(JSON.stringify(coco), `${stem}-coco.json`);
  }
  const canvas = { mask: drawMask, cutout: drawCutout, overlay: drawOverlay }[kind](scene, picture);
  return hand(await canvas.convertToBlob({ type: "image/png" }), `${stem}-${kind}.png`);
}

/** White objects on black. @param {Scene} scene @param {Picture} picture */
function drawMask(scene, picture) {
  const { canvas, context } = sheet(picture);
  const mask = bytesOf(maskOf(scene.shown, picture));
  const pixels = context.createImageData(canvas.width, canvas.height);
  mask.forEach((inside, index) => pixels.data.set([inside, inside, inside, 255], 4 * index));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The objects, and nothing around them. @param {Scene} scene @param {Picture} picture */
function drawCutout(scene, picture) {
  const { canvas, context } = sheet(picture);
  if (picture.bitmap) context.drawImage(picture.bitmap, 0, 0, picture.width, picture.height);
  context.globalCompositeOperation = "destination-in";
  context.drawImage(maskOf(scene.shown, picture), 0, 0);
  return canvas;
}

/** What the page shows. @param {Scene} scene @param {Picture} picture */
function drawOverlay(scene, picture) {
  const { canvas, context } = sheet(picture);
  if (picture.bitmap) context.drawImage(picture.bitmap, 0, 0, picture.width, picture.height);
  const { opacity, layers } = scene;
  paintObjects(context, picture, scene.shown, { opacity, layers, isolated: null }, OVERLAY_PIXELS / picture.width);
  return canvas;
}

/** Opaque where one of the objects is. @param {Found[]} objects @param {Picture} picture */
function maskOf(objects, picture) {
  const { canvas, context } = sheet(picture);
  for (const found of objects) context.fill(outline(found, picture), "evenodd");
  return canvas;
}

/** 255 inside, 0 outside, one byte a pixel. @param {OffscreenCanvas} canvas */
function bytesOf(canvas) {
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return new Uint8Array(canvas.width * canvas.height).map((_, index) => (data[4 * index + 3] >= HALF ? 255 : 0));
}

/** @param {Picture} picture */
function sheet({ width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  return { canvas, context };
}

/** Lets the browser save a file. @param {BlobPart} content @param {string} name */
function hand(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be reading it
}
