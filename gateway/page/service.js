/**
 * Calls the service. What goes wrong becomes a ServiceError with the service's own code and words; a request that the
 * user cancels ends with the browser's AbortError.
 */

import { readEvents } from "./stream.js";

/** @import { Answer, Entry, Facts, Models, Question } from "./records.js" */

/** The gateway cannot be reached at all: the one code that the service itself does not have. */
export const UNREACHABLE = "unreachable";

/** An answer other than success. */
export class ServiceError extends Error {
  /** @param {{code: string, detail: string, request_id?: string}} body @param {number} status @param {number} retryAfterS */
  constructor(body, status = 0, retryAfterS = 0) {
    super(body.detail);
    this.code = body.code;
    this.status = status;
    this.requestId = body.request_id ?? "";
    this.retryAfterS = retryAfterS;
  }
}

/** @returns {Promise<Facts>} */
export async function readFacts() {
  return (await call("demo/facts.json", {})).json();
}

/** @param {string} key @returns {Promise<Models>} */
export async function readModels(key) {
  return (await call("models", { headers: keyHeader(key) })).json();
}

/** One of the pictures that come with the page. @param {string} file @returns {Promise<Blob>} */
export async function readSample(file) {
  return (await call(`demo/samples/${file}`, {})).blob();
}

/**
 * Asks about a picture.
 * @param {Question} question
 * @param {AbortSignal} signal
 * @param {(targets: string[]) => void} onTargets  called with what the prompt asks for
 * @param {(entry: Entry) => void} onObject  called with each object as it is found
 * @returns {Promise<Answer>}
 */
export async function segment(question, signal, onTargets, onObject) {
  const body = formOf(question);
  const response = await call("segment/stream", { method: "POST", body, headers: keyHeader(question.key), signal });
  if (!response.body) throw new ServiceError({ code: UNREACHABLE, detail: "the answer was empty" });
  /** @type {Entry[]} */
  const masks = [];
  let requestId = response.headers.get("X-Request-ID") ?? "";
  for await (const { event, data } of unbroken(readEvents(response.body))) {
    if (event === "accepted") {
      requestId = data.request_id;
      onTargets(data.targets);
    }
    if (event === "error") throw new ServiceError(data, response.status);
    if (event === "object") {
      masks.push(data.object);
      onObject(data.object);
    }
    if (event === "done") {
      masks.sort((one, other) => one.target - other.target);
      return { ...data, masks, request_id: requestId };
    }
  }
  throw brokenOff();
}

/** @param {Question} question */
function formOf({ picture, prompt, modelId }) {
  const form = new FormData();
  if (picture.file) form.set("image_file", picture.file, picture.name);
  else form.set("image_url", picture.url);
  form.set("prompt", prompt);
  if (modelId) form.set("model_id", modelId);
  form.set("mask_format", "polygon");
  form.set("coordinate_space", "normalized");
  form.set("return_image", String(!picture.bitmap));
  return form;
}

/**
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<Response>}  a success
 */
async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ServiceError({ code: UNREACHABLE, detail: "the service does not answer" });
  }
  if (response.ok) return response;
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  const body = await response.json().catch(() => null);
  throw new ServiceError(
    body?.code ? body : { code: "", detail: `the answer was ${response.status} ${response.statusText}` },
    response.status,
    retryAfterS,
  );
}

/** Passes events on; a connection that breaks becomes a ServiceError. @template T @param {AsyncGenerator<T>} events */
async function* unbroken(events) {
  try {
    yield* events;
  } catch (error) {
    if (isAbort(error)) throw error;
    throw brokenOff();
  }
}

function brokenOff() {
  return new ServiceError({ code: UNREACHABLE, detail: "the connection broke off before the answer was whole" });
}

/** @param {unknown} error */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/**
 * Raises ServiceError for a key that no header can hold: `fetch` would fail as if the service were gone.
 * @param {string} key
 * @returns {Record<string, string>}
 */
function keyHeader(key) {
  if (/[^\x20-\x7e]/.test(key)) {
    const detail = "a key has printable ASCII characters only: type it again";
    throw new ServiceError({ code: "unauthorized", detail });
  }
  return key ? { "X-API-Key": key } : {};
}
