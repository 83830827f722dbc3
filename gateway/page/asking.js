/**
 * One question at a time: sends it, shows each object as it comes, and ends it when the user cancels or asks again.
 */

import { announce } from "./dom.js";
import { withSightOf } from "./pictures.js";
import { isAbort, segment } from "./service.js";

/** @import { Answer, Question } from "./records.js" */
/** @import { Scene } from "./scene.js" */

export class Asking extends EventTarget {
  /** @type {AbortController | null} while a question is asked */
  #running = null;
  /** @type {Answer | null} the last whole answer, until the next question */
  answer = null;
  /** @type {Question | null} what it answers */
  question = null;
  /** how long it took, as the page measured it */
  tookMs = 0;

  /** @param {Scene} scene */
  constructor(scene) {
    super();
    this.scene = scene;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** Ends the question that is being asked, and forgets the last answer. */
  forget() {
    this.#running?.abort();
    this.#running = null;
    this.answer = this.question = null;
    this.#changed();
  }

  cancel() {
    if (!this.#running) return;
    this.forget();
    announce("Cancelled.");
  }

  /**
   * Raises ServiceError. Ends without an answer if it is cancelled.
   * @param {Question} question
   */
  async ask(question) {
    this.forget();
    this.scene.clear();
    const running = (this.#running = new AbortController());
    this.#changed();
    const began = performance.now();
    try {
      const answer = await segment(
        question,
        running.signal,
        (targets) => this.scene.expect(targets),
        (entry) => this.scene.add(entry),
      );
      const picture = await withSightOf(question.picture, answer);
      if (running.signal.aborted) return;
      this.tookMs = performance.now() - began;
      this.answer = answer;
      this.question = question;
      this.scene.reveal(picture);
      announce(inWords(answer));
    } catch (error) {
      if (!isAbort(error)) throw error;
    } finally {
      if (this.#running === running) this.#running = null;
      this.#changed();
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {Answer} answer */
function inWords({ masks, text }) {
  if (!masks.length) return text ? `The answer: ${text}` : "Nothing was found.";
  return `${masks.length} found: ${masks.map(({ label }) => label).join(", ")}.`;
}
