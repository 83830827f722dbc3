/**
 * Which model answers: the choice at the top of the page, and what is said while it is the small demo model.
 */

import { byId, make } from "./dom.js";
import { readModels } from "./service.js";

/** @import { Models } from "./records.js" */

const DEMO_MODEL = /^(local\/)?paligemma2-demo/;
const ANOTHER = "another";

export class ModelChoice {
  #select = /** @type {HTMLSelectElement} */ (byId("model"));
  #other = /** @type {HTMLInputElement} */ (byId("other-model"));
  #default = "";

  constructor() {
    this.#select.addEventListener("change", () => this.#show());
    this.#other.addEventListener("input", () => this.#show());
  }

  /** Asks the service what there is; raises ServiceError. @param {string} key */
  async load(key) {
    const models = await readModels(key);
    this.#default = models.default;
    const chosen = this.#select.value;
    this.#select.replaceChildren(...options(models));
    if ([...this.#select.options].some(({ value }) => value === chosen)) this.#select.value = chosen;
    this.#other.placeholder = models.allowed.find(isPattern) ?? "";
    this.#show();
  }

  /** "" for the default. */
  get value() {
    return this.#select.value === ANOTHER ? this.#other.value.trim() : this.#select.value;
  }

  #show() {
    this.#other.hidden = this.#select.value !== ANOTHER;
    byId("demo-notice").hidden = !DEMO_MODEL.test(this.value || this.#default);
  }
}

/** The default, what else is in memory, what else may be named, and a field for what a pattern allows. @param {Models} models */
function options(models) {
  const further = new Set([...models.loaded, ...models.loading, ...models.allowed.filter((id) => !isPattern(id))]);
  further.delete(models.default);
  const known = [...further].map((id) => {
    const state = models.loaded.includes(id) ? "" : models.loading.includes(id) ? " (loading)" : " (not loaded)";
    return make("option", { value: id }, id + state);
  });
  const another = models.allowed.some(isPattern) ? [make("option", { value: ANOTHER }, "Another model …")] : [];
  return [make("option", { value: "" }, models.default), ...known, ...another];
}

/** @param {string} id */
function isPattern(id) {
  return /[*?[]/.test(id);
}
