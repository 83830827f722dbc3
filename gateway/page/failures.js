/**
 * Says in words what went wrong and what to do. The service's own detail comes with it: it names the field or the
 * limit.
 */

import { button, byId, make } from "./dom.js";
import { ServiceError, UNREACHABLE } from "./service.js";

/** @typedef {{title: string, advice: string}} Words */

/** @type {Record<string, Words>} by the service's codes */
const WORDS = {
  unauthorized: { title: "A key is needed", advice: "Type your API key into the field at the top of the page." },
  request_too_large: { title: "The picture is too large", advice: "Scale it down, or save it as JPEG or WebP." },
  image_too_large: { title: "The picture is too large", advice: "Scale it down, or save it as JPEG or WebP." },
  invalid_image: { title: "The picture cannot be read", advice: "The file may be damaged. Choose another one." },
  unsupported_media_type: { title: "This is not a picture", advice: "Choose a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC file." },
  invalid_prompt: { title: "This prompt cannot be answered", advice: "Change it: at most eight things, separated by “ ; ”." },
  invalid_request: { title: "A value is not allowed", advice: "Change what the message names." },
  invalid_url: { title: "This address cannot be used", advice: "Give the address of a picture, or upload the picture." },
  fetch_failed: { title: "The address could not be fetched", advice: "Check it, or download the picture and upload it here." },
  model_not_allowed: { title: "This model is not offered here", advice: "Choose another model at the top of the page." },
  model_not_found: { title: "There is no such model", advice: "Check its name, or choose another model at the top of the page." },
  model_gated: { title: "This model is gated", advice: "Whoever runs this server has to accept its licence and give it a token." },
  loading: { title: "The model is being loaded", advice: "This takes a while the first time. Try again in a moment." },
  overloaded: { title: "The server is busy", advice: "Try again in a moment." },
  unavailable: { title: "The model server does not answer", advice: "It may be starting. Try again in a moment." },
  deadline: { title: "The answer took too long", advice: "Try again, with fewer things in one prompt." },
  [UNREACHABLE]: { title: "The service cannot be reached", advice: "Check that it runs and that you are connected, then try again." },
};
const OTHER = { title: "That did not work", advice: "Try again. If it stays like this, give the request id to whoever runs this server." };
const PASSING = new Set(["loading", "overloaded", "unavailable", "lookup_failed", "deadline", UNREACHABLE]);

/**
 * @param {unknown} error
 * @param {() => void} retry
 */
export function showFailure(error, retry) {
  const panel = byId("failure");
  const failed = error instanceof ServiceError ? error : null;
  const { title, advice } = failed ? (WORDS[failed.code] ?? OTHER) : { ...OTHER, advice: "" };
  const detail = error instanceof Error ? error.message : String(error);
  const notes = [failed?.status, failed?.code, failed?.requestId && `request ${failed.requestId}`].filter(Boolean);
  panel.replaceChildren(
    make("strong", {}, title),
    make("p", {}, sentence(detail)),
    ...(advice ? [make("p", {}, advice)] : []),
    ...(failed && PASSING.has(failed.code) ? [button(waiting(failed.retryAfterS), retry, { class: "quiet" })] : []),
    ...(notes.length ? [make("p", { class: "small" }, notes.join(" · "))] : []),
  );
  panel.hidden = false;
}

export function hideFailure() {
  byId("failure").hidden = true;
  byId("failure").replaceChildren();
}

/** @param {number} seconds */
function waiting(seconds) {
  return seconds > 1 ? `Try again (the server says in ${seconds} s)` : "Try again";
}

/** The service writes a detail without capital and stop. @param {string} text */
function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
