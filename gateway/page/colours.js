/**
 * A colour for each label: the same label has the same colour on every picture, as far as two labels of one picture
 * do not claim the same one.
 */

// Light enough for dark letters. Nobody has to tell objects apart by colour alone: each also has its name.
const PALETTE = ["#4d9bff", "#ff7a59", "#2fc98f", "#ffc233", "#c58bff", "#27c4e0", "#ff7db0", "#a6d13c"];

export class Colours {
  /** @type {Map<string, string>} */
  #taken = new Map();

  /** Forgets which labels the last picture had. */
  clear() {
    this.#taken.clear();
  }

  /** @param {string} label @returns {string} */
  of(label) {
    const known = this.#taken.get(label);
    if (known) return known;
    const used = new Set(this.#taken.values());
    let index = hash(label) % PALETTE.length;
    if (used.size < PALETTE.length) while (used.has(PALETTE[index])) index = (index + 1) % PALETTE.length;
    this.#taken.set(label, PALETTE[index]);
    return PALETTE[index];
  }
}

/** FNV-1a, 32 bits. @param {string} text */
function hash(text) {
  let value = 0x811c9dc5;
  for (const character of text) value = Math.imul(value ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return value;
}
