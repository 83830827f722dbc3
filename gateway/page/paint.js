/**
 * Draws objects over a picture, in the picture's pixels: for the canvas of the page and for the picture to save.
 */

/** @import { Found, Picture } from "./records.js" */
/** @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Context */
/** @typedef {{opacity: number, layers: {masks: boolean, boxes: boolean, labels: boolean}, isolated: Found | null}} Style */

const LINE_PIXELS = 2; // of the screen
const FONT_PIXELS = 13;
const LETTERS = "#10131a";
const FAINT = 0.12; // what is left of the others while one object is looked at

/**
 * The object's outline in the picture's pixels, to be filled by the even-odd rule: its mask, or its box without one.
 * @param {Found} found
 * @param {Picture} picture
 */
export function outline({ entry }, { width, height }) {
  const path = new Path2D();
  const [x, y, right, bottom] = entry.coordinates;
  if (!entry.mask) path.rect(x * width, y * height, (right - x) * width, (bottom - y) * height);
  for (const ring of entry.mask ?? []) {
    ring.forEach(([pointX, pointY], index) => path[index ? "lineTo" : "moveTo"](pointX * width, pointY * height));
    path.closePath();
  }
  return path;
}

/**
 * @param {Context} context  whose unit is a pixel of the picture
 * @param {Picture} picture
 * @param {Found[]} objects  drawn in this order
 * @param {Style} style
 * @param {number} zoom  pixels of the screen for one of the picture: lines and letters keep their size
 */
export function paintObjects(context, picture, objects, style, zoom) {
  context.lineWidth = LINE_PIXELS / zoom;
  context.lineJoin = "round";
  for (const found of objects) {
    const path = outline(found, picture);
    const strength = !style.isolated || style.isolated === found ? 1 : FAINT;
    context.fillStyle = context.strokeStyle = found.colour;
    if (style.layers.masks && found.entry.mask) {
      context.globalAlpha = style.opacity * strength;
      context.fill(path, "evenodd");
      context.globalAlpha = strength;
      context.stroke(path);
    }
    context.globalAlpha = strength;
    if (style.layers.boxes) paintBox(context, found, picture, zoom);
  }
  for (const found of objects) {
    context.globalAlpha = !style.isolated || style.isolated === found ? 1 : FAINT;
    if (style.layers.labels) paintLabel(context, found, picture, zoom);
  }
  context.globalAlpha = 1;
}

/** @param {Context} context @param {Found} found @param {Picture} picture @param {number} zoom */
function paintBox(context, found, { width, height }, zoom) {
  const [x, y, right, bottom] = found.entry.coordinates;
  context.save();
  if (found.entry.mask) {
    context.lineWidth /= 2;
    context.setLineDash([5 / zoom, 4 / zoom]);
  }
  context.strokeRect(x * width, y * height, (right - x) * width, (bottom - y) * height);
  context.restore();
}

/**
 * The label stands over its box, or within it where there is no room above; it never leaves the picture to the right.
 * @param {Context} context @param {Found} found @param {Picture} picture @param {number} zoom
 */
function paintLabel(context, found, { width, height }, zoom) {
  const font = FONT_PIXELS / zoom;
  const padding = 5 / zoom;
  const tall = font + 1.4 * padding;
  context.font = `600 ${font}px system-ui, sans-serif`;
  const wide = context.measureText(found.entry.label).width + 2 * padding;
  const [x, y] = found.entry.coordinates;
  const left = Math.max(0, Math.min(x * width, width - wide));
  const top = y * height >= tall ? y * height - tall : y * height;
  context.fillStyle = found.colour;
  context.beginPath();
  context.roundRect(left, top, wide, tall, 4 / zoom);
  context.fill();
  context.fillStyle = LETTERS;
  context.textBaseline = "middle";
  context.fillText(found.entry.label, left + padding, top + tall / 2);
}
