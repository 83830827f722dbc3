/**
 * The records that the page's modules hand to each other. Types only: nothing here runs.
 *
 * Coordinates are shares of the picture's width and height, in [0, 1], unless a name says pixels.
 */

/** @typedef {[number, number, number, number]} Box  x_min, y_min, x_max, y_max */
/** @typedef {[number, number][]} Ring  a closed line of points x, y */

/**
 * One object of the service's answer, as `masks` of POST /segment has it with mask_format=polygon.
 * @typedef {object} Entry
 * @property {Ring[] | null} mask  null where the prompt asked for boxes only
 * @property {Box} coordinates
 * @property {string} label
 * @property {number} score  of the box, in [0, 1]
 * @property {number | null} mask_score
 * @property {number} target  index of the target that it answers
 */

/**
 * An object on the picture.
 * @typedef {object} Found
 * @property {Entry} entry
 * @property {string} colour  as CSS has it
 * @property {boolean} shown
 */

/**
 * A picture that can be asked about.
 * @typedef {object} Picture
 * @property {Blob | null} file  null for a picture on the web
 * @property {string} url  of a picture on the web; else ""
 * @property {string} name  of the file
 * @property {ImageBitmap | null} bitmap  null until the service has sent it, where the browser cannot show it itself
 * @property {number} width  in pixels, upright
 * @property {number} height
 */

/** @typedef {{target: string, finish_reason: string}} TargetEnd */

/**
 * The service's answer, as POST /segment has it.
 * @typedef {object} Answer
 * @property {Entry[]} masks
 * @property {TargetEnd[]} targets
 * @property {string} text
 * @property {string} model_id
 * @property {{width: number, height: number}} image_size
 * @property {Record<string, number>} timings_ms
 * @property {string} request_id
 * @property {string | null} [image]
 */

/**
 * What is asked of a picture.
 * @typedef {object} Question
 * @property {Picture} picture
 * @property {string} prompt
 * @property {string} modelId  "" for the default
 * @property {string} key  "" for none
 */

/** @typedef {{default: string, allowed: string[], loaded: string[], loading: string[], dtypes: Record<string, string[]>}} Models */
/** @typedef {{keys: boolean, docs: boolean, url_fetch: boolean}} Facts */

export {};
