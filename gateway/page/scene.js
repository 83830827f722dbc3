/**
 * What the page shows: the picture, the objects found on it, and how they are drawn. The one place for state that
 * changes; whoever draws from it listens for "change".
 */

import { Colours } from "./colours.js";

/** @import { Entry, Found, Picture } from "./records.js" */

export class Scene extends EventTarget {
  /** @type {Picture | null} */
  picture = null;
  /** @type {Found[]} in the order in which they came */
  objects = [];
  /** @type {Found | null} the one that is looked at alone */
  isolated = null;
  opacity = 0.45;
  layers = { masks: true, boxes: true, labels: true };

  #colours = new Colours();

  /** Shows a picture without objects. @param {Picture} picture */
  show(picture) {
    if (this.picture?.bitmap !== picture.bitmap) this.picture?.bitmap?.close(); // frees its pixels at once
    this.picture = picture;
    this.clear();
  }

  /** The picture has become visible; its objects stay. @param {Picture} picture */
  reveal(picture) {
    this.picture = picture;
    this.changed();
  }

  /** Takes all objects away. */
  clear() {
    this.objects = [];
    this.isolated = null;
    this.#colours.clear();
    this.changed();
  }

  /** Gives labels their colours, so that these do not depend on what is found first. @param {string[]} labels */
  expect(labels) {
    for (const label of labels) this.#colours.of(label);
  }

  /** @param {Entry} entry */
  add(entry) {
    this.objects.push({ entry, colour: this.#colours.of(entry.label), shown: true });
    this.changed();
  }

  /** @param {Found} found */
  toggle(found) {
    found.shown = !found.shown;
    this.changed();
  }

  /** @param {Found | null} found */
  isolate(found) {
    if (this.isolated === found) return;
    this.isolated = found;
    this.changed();
  }

  /** @returns {Found[]} */
  get shown() {
    return this.objects.filter((found) => found.shown);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
