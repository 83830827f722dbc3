/**
 * The same request as a program, to be copied: for a shell, for Python, and for JavaScript. A key is never written
 * into it.
 */

/** @import { Picture } from "./records.js" */
/** @typedef {{address: string, picture: Picture, prompt: string, modelId: string, keys: boolean}} Call */

/** @type {Record<string, (call: Call) => string>} */
export const SNIPPETS = { curl, python, javascript };

/** @param {Call} call */
function curl({ address, picture, prompt, modelId, keys }) {
  const lines = [`curl -s ${quoted(`${address}segment`)}`];
  if (keys) lines.push('-H "X-API-Key: $API_KEY"');
  const name = picture.name.replaceAll(/[\\"]/g, "\\$&");
  lines.push(picture.file ? `-F ${quoted(`image_file=@"${name}"`)}` : `--form-string ${quoted(`image_url=${picture.url}`)}`);
  lines.push(`--form-string ${quoted(`prompt=${prompt}`)}`);
  if (modelId) lines.push(`--form-string ${quoted(`model_id=${modelId}`)}`);
  lines.push("-F return_image=false");
  return lines.join(" \\\n  ");
}

/** @param {Call} call */
function python({ address, picture, prompt, modelId, keys }) {
  const fields = { prompt, ...(modelId && { model_id: modelId }), ...(!picture.file && { image_url: picture.url }) };
  const data = Object.entries(fields).map(([name, value]) => `"${name}": ${JSON.stringify(value)}`);
  return [
    ...(keys ? ["import os", ""] : []),
    "import requests",
    "",
    "response = requests.post(",
    `    ${JSON.stringify(`${address}segment`)},`,
    `    data={${data.join(", ")}},`,
    ...(picture.file ? [`    files={"image_file": open(${JSON.stringify(picture.name)}, "rb")},`] : []),
    ...(keys ? ['    headers={"X-API-Key": os.environ["API_KEY"]},'] : []),
    ")",
    "response.raise_for_status()",
    'for found in response.json()["masks"]:',
    '    print(found["label"], found["coordinates"], found["score"])',
  ].join("\n");
}

/** @param {Call} call */
function javascript({ address, picture, prompt, modelId, keys }) {
  return [
    "const form = new FormData();",
    picture.file
      ? 'form.set("image_file", document.querySelector("input[type=file]").files[0]);'
      : `form.set("image_url", ${JSON.stringify(picture.url)});`,
    `form.set("prompt", ${JSON.stringify(prompt)});`,
    ...(modelId ? [`form.set("model_id", ${JSON.stringify(modelId)});`] : []),
    `const response = await fetch(${JSON.stringify(`${address}segment`)}, {`,
    '  method: "POST",',
    "  body: form,",
    ...(keys ? ['  headers: { "X-API-Key": apiKey },'] : []),
    "});",
    "const { masks } = await response.json();",
    "for (const { label, coordinates, score } of masks) console.log(label, coordinates, score);",
  ].join("\n");
}

/** For a shell. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
