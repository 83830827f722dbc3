/**
 * A colour for each label: the same label has the same colour on every picture, as far as two labels of one picture
 * do not claim the same one.
 */

// Told apart by people who see few colours, too: they differ in lightness, and every object also has its name.
const PALETTE = ["#2f6fed", "#e4572e", "#0f9d75", "#d9a400", "#9b4dca", "#00a3c4", "#d6336c", "#7a8b00", "#8d5a2b", "#4b5bd6"];

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
