/**
 * The API key, kept by the browser until the tab is closed; where it keeps nothing, the key lasts as long as the page.
 */

const NAME = "paligemma.key";

/** @returns {string} "" for none */
export function keptKey() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} key */
export function keepKey(key) {
  try {
    sessionStorage.setItem(NAME, key);
  } catch {
    // kept nowhere
  }
}
