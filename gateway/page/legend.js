/**
 * The list of what was found. Pointing at an object shows it alone, a click takes it off the picture and puts it back.
 * It grows with each object that comes, so the row that has the keyboard's focus keeps it.
 */

import { byId, make } from "./dom.js";
import { outline } from "./paint.js";

/** @import { Found, Picture } from "./records.js" */
/** @import { Scene } from "./scene.js" */

const THUMBNAIL_PIXELS = 44;

/** @param {Scene} scene */
export function showLegend(scene) {
  const list = byId("objects");
  /** @type {Map<Found, HTMLLIElement>} */
  const rows = new Map();
  scene.addEventListener("change", () => {
    for (const [found, row] of rows) {
      if (scene.objects.includes(found)) continue;
      row.remove();
      rows.delete(found);
    }
    for (const found of scene.objects) {
      const row = rows.get(found) ?? rowOf(scene, found);
      if (!rows.has(found)) list.append(row);
      rows.set(found, row);
      row.classList.toggle("isolated", scene.isolated === found);
      row.querySelector("button")?.setAttribute("aria-pressed", String(found.shown));
      if (scene.picture?.bitmap && !row.dataset.drawn) drawThumbnail(row, found, scene.picture);
    }
    byId("object-count").textContent = scene.objects.length ? String(scene.objects.length) : "";
  });
}

/** @param {Scene} scene @param {Found} found */
function rowOf(scene, found) {
  const { label, score, mask_score: maskScore } = found.entry;
  const scores = make("span", { class: "scores" }, `box ${score.toFixed(2)}`);
  if (maskScore !== null) scores.append(` · mask ${maskScore.toFixed(2)}`);
  const thumbnail = make("canvas", { width: String(2 * THUMBNAIL_PIXELS), height: String(2 * THUMBNAIL_PIXELS) });
  thumbnail.setAttribute("aria-hidden", "true");
  const toggle = make(
    "button",
    { type: "button", "aria-pressed": "true", title: "Show or hide" },
    thumbnail,
    make("span", { class: "names" }, make("span", { class: "label" }, make("span", { class: "dot" }), label), scores),
    make("span", { class: "eye", "aria-hidden": "true" }),
  );
  toggle.style.setProperty("--dot", found.colour);
  toggle.addEventListener("click", () => scene.toggle(found));
  const row = make("li", {}, toggle);
  for (const begin of ["pointerenter", "focusin"]) row.addEventListener(begin, () => scene.isolate(found));
  for (const end of ["pointerleave", "focusout"]) row.addEventListener(end, () => scene.isolate(null));
  return row;
}

/** The object cut out, as large as fits. @param {HTMLElement} row @param {Found} found @param {Picture} picture */
function drawThumbnail(row, found, picture) {
  const context = row.querySelector("canvas")?.getContext("2d");
  if (!context || !picture.bitmap) return;
  row.dataset.drawn = "yes";
  const [x, y, right, bottom] = found.entry.coordinates;
  const width = Math.max(1, (right - x) * picture.width);
  const height = Math.max(1, (bottom - y) * picture.height);
  const size = context.canvas.width;
  const scale = (0.86 * size) / Math.max(width, height);
  context.translate((size - width * scale) / 2, (size - height * scale) / 2);
  context.scale(scale, scale);
  context.translate(-x * picture.width, -y * picture.height);
  context.clip(outline(found, picture), "evenodd");
  context.drawImage(picture.bitmap, 0, 0, picture.width, picture.height);
}
