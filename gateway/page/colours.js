/**
 * A colour for each label. A label keeps its colour from picture to picture, unless another label of the picture was
 * given it before.
 */

// Light enough for dark letters. Nobody has to tell objects apart by colour alone: each also has its name.
const PALETTE = ["#4d9bff", "#ff7a59", "#2fc98f", "#ffc233", "#c58bff", "#27c4e0", "#ff7db0", "#a6d13c"];

export class Colours {
  /** @type {Map<string, string>} */
  #taken = new Map();
  /** @type {Map<string, number>} places in the palette, of all labels so far */
  #known = new Map();

  /** Forgets which labels the last picture had. */
  clear() {
    this.#taken.clear();
  }

  /** @param {string} label @returns {string} */
  of(label) {
    const taken = this.#taken.get(label);
    if (taken) return taken;
    const used = new Set(this.#taken.values());
    let index = this.#known.get(label) ?? hash(label) % PALETTE.length;
    if (used.size < PALETTE.length) while (used.has(PALETTE[index])) index = (index + 1) % PALETTE.length;
    this.#taken.set(label, PALETTE[index]);
    this.#known.set(label, index);
    return PALETTE[index];
  }
}

/** FNV-1a, 32 bits. @param {string} text */
function hash(text) {
  let value = 0x811c9dc5;
  for (const character of text) value = Math.imul(value ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return value;
}
