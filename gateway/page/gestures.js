/**
 * Zoom and pan by mouse, fingers and keys. A turn of the wheel scrolls the page as everywhere, unless Ctrl or ⌘ is
 * held or the picture is magnified already; one finger scrolls the page, too, until the picture is magnified.
 */

/** @import { Viewport } from "./viewport.js" */

const STEP = 1.4;
const KEY_PIXELS = 48;

/** @type {Record<string, (viewport: Viewport) => void>} */
const KEYS = {
  "+": (viewport) => viewport.zoom(STEP),
  "=": (viewport) => viewport.zoom(STEP),
  "-": (viewport) => viewport.zoom(1 / STEP),
  0: (viewport) => viewport.reset(),
  ArrowLeft: (viewport) => viewport.move(KEY_PIXELS, 0),
  ArrowRight: (viewport) => viewport.move(-KEY_PIXELS, 0),
  ArrowUp: (viewport) => viewport.move(0, KEY_PIXELS),
  ArrowDown: (viewport) => viewport.move(0, -KEY_PIXELS),
};

/**
 * @param {HTMLElement} stage
 * @param {Viewport} viewport
 * @param {() => void} redraw
 */
export function listen(stage, viewport, redraw) {
  const changed = () => {
    stage.classList.toggle("magnified", viewport.magnification > 1);
    redraw();
  };
  stage.addEventListener("keydown", (event) => {
    const magnified = viewport.magnification > 1;
    const known = KEYS[event.key];
    if (event.target !== stage || !known || event.ctrlKey || event.metaKey) return;
    if (event.key.startsWith("Arrow") && !magnified) return;
    event.preventDefault();
    known(viewport);
    changed();
  });
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && viewport.magnification === 1) return;
      event.preventDefault();
      const { x, y } = within(stage, event);
      viewport.zoom(Math.exp(-event.deltaY * 0.0022), x, y);
      changed();
    },
    { passive: false },
  );
  stage.addEventListener("dblclick", (event) => {
    if (event.target instanceof Element && event.target.closest("button")) return;
    const { x, y } = within(stage, event);
    viewport.zoom(STEP * STEP, x, y);
    changed();
  });
  followPointers(stage, viewport, changed);
  return {
    /** @param {number} direction  1 closer, -1 away, 0 the whole picture */
    step(direction) {
      if (direction === 0) viewport.reset();
      else viewport.zoom(direction > 0 ? STEP : 1 / STEP);
      changed();
    },
  };
}

/** One pointer moves the picture, two pinch it. @param {HTMLElement} stage @param {Viewport} viewport @param {() => void} changed */
function followPointers(stage, viewport, changed) {
  /** @type {Map<number, {x: number, y: number}>} */
  const pointers = new Map();
  stage.addEventListener("pointerdown", (event) => {
    if (event.target instanceof Element && event.target.closest("button")) return;
    pointers.set(event.pointerId, within(stage, event));
    if (viewport.magnification > 1 || pointers.size > 1) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = within(stage, event);
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    if (other) viewport.zoom(distance(now, other) / (distance(before, other) || 1), other.x, other.y);
    else viewport.move(now.x - before.x, now.y - before.y);
    pointers.set(event.pointerId, now);
    changed();
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
    stage.addEventListener(end, (event) => pointers.delete(/** @type {PointerEvent} */ (event).pointerId));
  }
}

/** The place of a pointer on the stage. @param {HTMLElement} stage @param {MouseEvent} event */
export function within(stage, event) {
  const { left, top } = stage.getBoundingClientRect();
  return { x: event.clientX - left, y: event.clientY - top };
}

/** @param {{x: number, y: number}} one @param {{x: number, y: number}} other */
function distance(one, other) {
  return Math.hypot(one.x - other.x, one.y - other.y);
}
