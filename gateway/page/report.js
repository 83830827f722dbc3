/**
 * What the service says beside the objects: how the answer to each target ended, how long each phase took, which model
 * answered, and the request's id.
 */

import { byId, make } from "./dom.js";

/** @import { Answer } from "./records.js" */

const PHASES = ["receive", "fetch", "inference", "encode"]; // in the order in which they begin

/** @type {Record<string, string>} */
const ENDS = {
  length: "was cut off at the limit on tokens; there may be more",
  deadline: "was cut off because its time was up; there may be more",
  repeat: "was ended because the model began to repeat an object",
  cancelled: "was cancelled",
  error: "failed; the others stand",
};

/**
 * What is to be said of an answer: its words if it is nothing else; targets of which nothing was found, and those that
 * did not end well.
 * @param {Answer} answer
 * @returns {string[]}
 */
export function remarks({ masks, targets, text }) {
  if (text && !masks.length) return [`The model says: ${text}`];
  return targets.flatMap(({ target, finish_reason: reason }, index) => {
    if (reason !== "eos") return [`“${target}” ${ENDS[reason] ?? `ended with ${reason}`}.`];
    return masks.some((entry) => entry.target === index) ? [] : [`“${target}” was not found.`];
  });
}

/** @param {Answer} answer @param {number} totalMs  as the page measured it */
export function showReport(answer, totalMs) {
  byId("remarks").replaceChildren(...remarks(answer).map((text) => make("li", {}, text)));
  const timings = Object.entries(answer.timings_ms);
  timings.sort(([one], [other]) => PHASES.indexOf(one) - PHASES.indexOf(other));
  const known = timings.reduce((sum, [, value]) => sum + value, 0);
  timings.push(["network", Math.max(0, totalMs - known)]);
  const whole = Math.max(totalMs, known);
  byId("timing-bar").replaceChildren(
    ...timings.map(([phase, value]) => {
      const part = make("span", { class: `phase ${phase}` });
      part.style.flexGrow = String(value / whole);
      return part;
    }),
  );
  byId("timings").replaceChildren(
    ...timings.map(([phase, value]) =>
      make("div", { class: phase }, make("dt", {}, phase), make("dd", {}, `${value.toFixed(value < 10 ? 1 : 0)} ms`)),
    ),
    make("div", { class: "total" }, make("dt", {}, "in all"), make("dd", {}, `${whole.toFixed(0)} ms`)),
  );
  byId("answered-by").textContent = answer.model_id;
  byId("request-id").textContent = answer.request_id;
  byId("report").hidden = false;
}
