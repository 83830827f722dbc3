/**
 * The picture on the page: a canvas that follows the scene, zooms and pans, and names the object under the pointer.
 */

import { byId, make } from "./dom.js";
import { listen, within } from "./gestures.js";
import { outline, paintObjects } from "./paint.js";
import { Viewport } from "./viewport.js";

/** @import { Found } from "./records.js" */
/** @import { Scene } from "./scene.js" */

export class Stage {
  #box = byId("stage");
  #canvas = /** @type {HTMLCanvasElement} */ (byId("canvas"));
  #tag = byId("hover-tag");
  #viewport = new Viewport();
  #waits = false;
  /** @type {unknown} */
  #picture = null;

  /** @param {Scene} scene */
  constructor(scene) {
    this.scene = scene;
    const gestures = listen(this.#box, this.#viewport, () => this.#redraw());
    byId("zoom-in").addEventListener("click", () => gestures.step(1));
    byId("zoom-out").addEventListener("click", () => gestures.step(-1));
    byId("zoom-fit").addEventListener("click", () => gestures.step(0));
    scene.addEventListener("change", () => {
      if (scene.picture?.bitmap !== this.#picture) {
        this.#picture = scene.picture?.bitmap;
        gestures.step(0);
      }
      this.#redraw();
    });
    new ResizeObserver(() => this.#redraw()).observe(this.#box);
    this.#box.addEventListener("pointermove", (event) => this.#name(event));
    this.#box.addEventListener("pointerleave", () => this.#unname());
  }

  /** Draws once before the next frame, however often it is asked to. */
  #redraw() {
    if (this.#waits) return;
    this.#waits = true;
    requestAnimationFrame(() => {
      this.#waits = false;
      this.#draw();
    });
  }

  #draw() {
    const { picture } = this.scene;
    if (!picture) return;
    this.#box.style.setProperty("--ratio", String(picture.width / picture.height));
    const { clientWidth: width, clientHeight: height } = this.#box;
    this.#viewport.fit({ width, height }, picture);
    const { scale, corner } = this.#viewport;
    const dots = window.devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * dots);
    this.#canvas.height = Math.round(height * dots);
    const context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    context.setTransform(scale * dots, 0, 0, scale * dots, corner.x * dots, corner.y * dots);
    context.imageSmoothingQuality = "high";
    if (picture.bitmap) context.drawImage(picture.bitmap, 0, 0, picture.width, picture.height);
    paintObjects(context, picture, this.scene.shown, this.scene, scale);
    byId("unseen").hidden = Boolean(picture.bitmap);
    byId("zoom-level").textContent = `${Math.round(this.#viewport.magnification * 100)} %`;
    this.#describe();
  }

  /** What a screen reader says instead of the picture. */
  #describe() {
    const { picture, objects } = this.scene;
    const names = objects.map(({ entry }) => entry.label).join(", ");
    const found = objects.length ? `${objects.length} found: ${names}` : "nothing marked yet";
    this.#canvas.setAttribute("aria-label", `${picture?.name}, ${found}`);
  }

  /** @param {PointerEvent} event */
  #name(event) {
    const { x, y } = within(this.#box, event);
    const found = event.buttons ? null : this.#at(x, y);
    this.scene.isolate(found);
    this.#tag.hidden = !found;
    if (!found) return;
    const { label, score } = found.entry;
    this.#tag.replaceChildren(make("span", { class: "dot" }), `${label} · ${score.toFixed(2)}`);
    this.#tag.style.setProperty("--dot", found.colour);
    const room = this.#box.clientWidth - this.#tag.offsetWidth - 8;
    this.#tag.style.transform = `translate(${Math.min(x + 14, Math.max(0, room))}px, ${Math.max(0, y - 38)}px)`;
  }

  #unname() {
    this.#tag.hidden = true;
    this.scene.isolate(null);
  }

  /** The smallest object there: what lies upon another is smaller. @param {number} x @param {number} y @returns {Found | null} */
  #at(x, y) {
    const { picture } = this.scene;
    const context = this.#canvas.getContext("2d");
    if (!picture || !context) return null;
    const point = this.#viewport.toPicture(x, y);
    context.setTransform(1, 0, 0, 1, 0, 0);
    const here = this.scene.shown.filter((found) =>
      context.isPointInPath(outline(found, picture), point.x, point.y, "evenodd"),
    );
    here.sort((one, other) => area(one) - area(other));
    return here[0] ?? null;
  }
}

/** @param {Found} found */
function area({ entry: { coordinates: [x, y, right, bottom] } }) {
  return (right - x) * (bottom - y);
}
