/**
 * Where the picture lies on the stage: fitted into it, then magnified and moved by the user. Lengths are CSS pixels.
 */

const MAX_MAGNIFICATION = 16;

export class Viewport {
  magnification = 1;
  #stage = { width: 1, height: 1 };
  #picture = { width: 1, height: 1 };
  #x = 0;
  #y = 0;

  /** The whole picture again. */
  reset() {
    this.magnification = 1;
    this.#x = this.#y = 0;
  }

  /** @param {{width: number, height: number}} stage @param {{width: number, height: number}} picture */
  fit(stage, picture) {
    this.#stage = stage;
    this.#picture = picture;
    this.#clamp();
  }

  /** CSS pixels for one pixel of the picture. */
  get scale() {
    const { width, height } = this.#picture;
    return Math.min(this.#stage.width / width, this.#stage.height / height) * this.magnification;
  }

  /** The picture's upper left corner on the stage. */
  get corner() {
    return {
      x: (this.#stage.width - this.#picture.width * this.scale) / 2 + this.#x,
      y: (this.#stage.height - this.#picture.height * this.scale) / 2 + this.#y,
    };
  }

  /** The pixel of the picture under a point of the stage. @param {number} x @param {number} y */
  toPicture(x, y) {
    const { scale, corner } = this;
    return { x: (x - corner.x) / scale, y: (y - corner.y) / scale };
  }

  /** @param {number} right @param {number} down */
  move(right, down) {
    this.#x += right;
    this.#y += down;
    this.#clamp();
  }

  /**
   * Magnifies; the point stays where it is.
   * @param {number} factor @param {number} [x] @param {number} [y]  the stage's middle if left out
   */
  zoom(factor, x = this.#stage.width / 2, y = this.#stage.height / 2) {
    const under = this.toPicture(x, y);
    this.magnification = Math.min(MAX_MAGNIFICATION, Math.max(1, this.magnification * factor));
    const { scale, corner } = this;
    this.move(x - corner.x - under.x * scale, y - corner.y - under.y * scale);
  }

  /** No more than the picture's edge comes to the middle of what was empty: it never leaves the stage. */
  #clamp() {
    const freeX = Math.max(0, (this.#picture.width * this.scale - this.#stage.width) / 2);
    const freeY = Math.max(0, (this.#picture.height * this.scale - this.#stage.height) / 2);
    this.#x = Math.min(freeX, Math.max(-freeX, this.#x));
    this.#y = Math.min(freeY, Math.max(-freeY, this.#y));
  }
}
