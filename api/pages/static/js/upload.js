// Uploads with progress: a file in one request, or a large one in pieces that go on where they were cut (tus).

import { ServiceAway, json, tellAway, toProblem } from "./api.js";

const LARGE_BYTES = 64 << 20;
const PIECE_BYTES = 32 << 20;
const RETRY_MS = [1000, 2000, 4000, 8000, 15000, 15000, 30000, 30000, 60000];

/** Bring files as one scan, with a DICOM file as `template` or none; gives the scan. `onProgress` gets bytes sent and bytes in all; `signal` cancels. */
export function upload(files, { template, onProgress, signal }) {
  const body = toBody(files, template);
  if (body instanceof File && body.size >= LARGE_BYTES) return inPieces(body, onProgress, signal);
  return atOnce(body, onProgress, signal);
}

/** The file itself, or a form of what belongs together: BART's pair, a template. Raises Error. */
function toBody(files, template) {
  const [data, header] = files.length === 1 ? [files[0], null] : pair(files);
  if (!header && !template) return data;
  const form = new FormData();
  form.append("file", data, data.name);
  if (header) form.append("header", header, header.name);
  if (template) form.append("template", template, "template.dcm"); // its own name may be the patient's
  return form;
}

/** BART's .cfl and .hdr. Raises Error. */
function pair(files) {
  const ending = (file) => file.name.toLowerCase().split(".").pop();
  const header = files.find((file) => ending(file) === "hdr");
  const data = files.find((file) => ending(file) === "cfl");
  if (files.length !== 2 || !header || !data) {
    throw new Error("one scan at a time: a file, a .cfl with its .hdr, or a folder packed as .zip");
  }
  return [data, header];
}

function atOnce(body, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", "/v1/scans");
    if (body instanceof File) {
      sending.setRequestHeader("Content-Type", "application/octet-stream");
      sending.setRequestHeader("X-Filename", headerText(body.name)); // not in the query: logs of proxies keep URLs
    }
    sending.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    sending.addEventListener("load", () => {
      let answer = {};
      try {
        answer = JSON.parse(sending.responseText);
      } catch {
        // Not of this service: the status has to do.
      }
      if (sending.status === 200 || sending.status === 201) resolve(answer);
      else reject(toProblem(answer, sending.status));
    });
    sending.addEventListener("error", () => {
      tellAway();
      reject(new ServiceAway("the connection broke off while the scan was sent; send it again"));
    });
    sending.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(body);
  });
}

/** Text as the bytes of its UTF-8, which is how a header may hold any letters. */
function headerText(text) {
  return String.fromCharCode(...new TextEncoder().encode(text.replace(/[\u0000-\u001f\u007f]/g, "")));
}

async function inPieces(file, onProgress, signal) {
  const id = await new Promise((resolve, reject) => {
    const sending = new tus.Upload(file, {
      endpoint: "/v1/uploads",
      chunkSize: PIECE_BYTES,
      retryDelays: RETRY_MS,
      removeFingerprintOnSuccess: true,
      metadata: { filename: file.name },
      onProgress,
      onShouldRetry: (error) => {
        const status = error.originalResponse?.getStatus() ?? 0;
        if (status === 0 || status >= 502) tellAway();
        return status === 0 || status === 409 || status === 423 || status === 429 || status >= 500;
      },
      onError: (error) => reject(problemOf(error)),
      onSuccess: () => resolve(sending.url.split("/").pop()),
    });
    signal.addEventListener("abort", () => {
      sending.abort(true).catch(() => {});
      reject(new DOMException("cancelled", "AbortError"));
    });
    // Where the browser keeps nothing, the upload begins anew.
    const earlier = sending.findPreviousUploads().catch(() => []);
    earlier.then((found) => {
      if (signal.aborted) return;
      if (found.length) sending.resumeFromPreviousUpload(found[0]);
      sending.start();
    });
  });
  return json("/v1/scans", { method: "POST", body: { upload_id: id }, signal });
}

function problemOf(error) {
  const response = error.originalResponse;
  if (!response) return new ServiceAway("the connection broke off while the scan was sent; send it again to go on");
  let document = {};
  try {
    document = JSON.parse(response.getBody());
  } catch {
    // The status has to do.
  }
  return toProblem(document, response.getStatus());
}
