/**
 * Writes an answer as a COCO data set of one picture. Masks are compressed run lengths, as pycocotools writes them:
 * outlines with holes cannot be told as COCO's polygons.
 */

/** @import { Entry, Found, Picture } from "./records.js" */

/**
 * @param {Picture} picture
 * @param {Found[]} objects
 * @param {(found: Found) => Uint8Array} maskOf  one byte a pixel, row by row, 0 outside
 */
export function cocoOf(picture, objects, maskOf) {
  const { width, height, name } = picture;
  const labels = [...new Set(objects.map(({ entry }) => entry.label))];
  return {
    images: [{ id: 1, file_name: name, width, height }],
    categories: labels.map((label, index) => ({ id: index + 1, name: label })),
    annotations: objects.map((found, index) => {
      const mask = found.entry.mask ? maskOf(found) : null;
      const bbox = boxOf(found.entry, width, height);
      return {
        id: index + 1,
        image_id: 1,
        category_id: labels.indexOf(found.entry.label) + 1,
        bbox,
        area: mask ? mask.reduce((sum, value) => sum + (value ? 1 : 0), 0) : bbox[2] * bbox[3],
        segmentation: mask ? { size: [height, width], counts: compress(runLengths(mask, width, height)) } : [],
        iscrowd: 0,
        score: found.entry.score,
      };
    }),
  };
}

/** x, y, width, height in pixels. @param {Entry} entry @param {number} width @param {number} height */
function boxOf({ coordinates: [x, y, right, bottom] }, width, height) {
  return [x * width, y * height, (right - x) * width, (bottom - y) * height].map((value) => Math.round(value * 100) / 100);
}

/**
 * Lengths of runs of the same value, column by column, the first one outside the mask.
 * @param {Uint8Array} mask @param {number} width @param {number} height
 */
export function runLengths(mask, width, height) {
  const runs = [];
  let [inside, length] = [false, 0];
  for (let x = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1) {
      if (Boolean(mask[y * width + x]) !== inside) {
        runs.push(length);
        [inside, length] = [!inside, 0];
      }
      length += 1;
    }
  }
  runs.push(length);
  return runs;
}

/**
 * COCO's text for run lengths: from the fourth on, the difference to the one before the last; five bits a character,
 * the lowest first; bit 5 says that more follow.
 * @param {number[]} runs
 */
export function compress(runs) {
  let text = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run;
    for (let more = true; more; ) {
      const bits = value & 31;
      value >>= 5;
      more = value !== (bits & 16 ? -1 : 0);
      text += String.fromCharCode((more ? bits | 32 : bits) + 48);
    }
  });
  return text;
}
