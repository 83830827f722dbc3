/**
 * Makes the record of a picture from a file or an address. The browser turns a photograph upright by its EXIF
 * orientation, as the service does. A picture that the browser cannot show, such as HEIC, and one on the web, which
 * the page must not load, are shown when the service has sent what the model saw.
 */

/** @import { Answer, Picture } from "./records.js" */

const UNKNOWN_SIZE = { width: 800, height: 600 }; // until the service has said
const NAMES = /\.(avif|bmp|gif|heic|heif|jpe?g|png|tiff?|webp)$/i;

/** The file is no picture. */
export class NoPicture extends Error {}

/**
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Picture>}
 */
export async function pictureOf(file, name) {
  if (!file.type.startsWith("image/") && !NAMES.test(name)) {
    throw new NoPicture(`${name} is not a picture: use JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC.`);
  }
  const bitmap = await bitmapOf(file);
  const { width, height } = bitmap ?? UNKNOWN_SIZE;
  return { file, url: "", name, bitmap, width, height };
}

/** @param {string} url @returns {Picture} */
export function pictureAt(url) {
  const last = url.startsWith("data:") ? "" : (url.split(/[?#]/)[0].split("/").pop() ?? "");
  return { file: null, url, name: last || "picture.png", bitmap: null, ...UNKNOWN_SIZE };
}

/**
 * The same picture as the answer shows it, where it was not to be seen before.
 * @param {Picture} picture
 * @param {Answer} answer
 * @returns {Promise<Picture>}
 */
export async function withSightOf(picture, answer) {
  if (picture.bitmap || !answer.image) return picture;
  const bytes = Uint8Array.from(atob(answer.image), (character) => character.charCodeAt(0));
  return { ...picture, ...answer.image_size, bitmap: await bitmapOf(new Blob([bytes], { type: "image/png" })) };
}

/** @param {Blob} file @returns {Promise<ImageBitmap | null>} */
async function bitmapOf(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
}
