/**
 * The last prompts, kept by the browser; where it keeps nothing, such as in some private windows, they last as long as
 * the page.
 */

const NAME = "paligemma.prompts";
const MOST = 6;

export class History {
  /** @type {string[]} the latest first */
  prompts = read();

  /** @param {string} prompt */
  add(prompt) {
    this.#keep([prompt, ...this.prompts.filter((other) => other !== prompt)].slice(0, MOST));
  }

  clear() {
    this.#keep([]);
  }

  /** @param {string[]} prompts */
  #keep(prompts) {
    this.prompts = prompts;
    try {
      localStorage.setItem(NAME, JSON.stringify(prompts));
    } catch {
      // kept nowhere
    }
  }
}

/** @returns {string[]} */
function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(kept) ? kept.filter((prompt) => typeof prompt === "string").slice(0, MOST) : [];
  } catch {
    return [];
  }
}
