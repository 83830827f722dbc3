/**
 * Takes a picture with the camera. It runs only while its window is open.
 */

import { byId } from "./dom.js";

const JPEG_QUALITY = 0.92;

let isOpening = false; // one camera at a time: nothing would stop a second one

/**
 * @param {(file: Blob) => void} onPicture
 * @param {(error: Error) => void} onError
 */
export async function openCamera(onPicture, onError) {
  if (isOpening) return;
  isOpening = true;
  const dialog = /** @type {HTMLDialogElement} */ (byId("camera-dialog"));
  const video = /** @type {HTMLVideoElement} */ (byId("video"));
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    onError(new Error("The camera cannot be used: allow it for this page in the browser, or choose a file instead."));
    return;
  } finally {
    isOpening = false;
  }
  const take = /** @type {HTMLButtonElement} */ (byId("take-picture"));
  take.disabled = true; // until there is a frame
  video.onloadeddata = () => (take.disabled = false);
  video.srcObject = stream;
  take.onclick = async () => {
    const file = await still(video);
    dialog.close();
    if (file) onPicture(file);
  };
  byId("close-camera").onclick = () => dialog.close();
  dialog.onclose = () => {
    stream.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
  dialog.showModal();
}

/** @param {HTMLVideoElement} video @returns {Promise<Blob | null>} */
function still(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d")?.drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
}
