// The start: bring a scan, see it, choose a method, reconstruct.

import { Problem, json, problemElement, request } from "./api.js";
import { digits, size } from "./format.js";
import { ParameterFields } from "./parameters.js";
import { upload } from "./upload.js";

const element = (id) => document.getElementById(id);
const start = element("start");
const FIRST_METHOD = "udig_dip";

let scan = null;
let methods = [];
let sending = null;
let submitted = null;
const parameters = start ? new ParameterFields(element("parameter-fields"), element("parameters-count")) : null;

function show(box, error) {
  box.replaceChildren(...(error === null || error.name === "AbortError" ? [] : [problemElement(error)]));
}

// The scan

async function bring(files) {
  if (sending !== null || files.length === 0) return;
  show(element("scan-problem"), null);
  const template = element("template").files[0];
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  const largest = Number(start.dataset.largest);
  if (bytes > largest) {
    show(element("scan-problem"), new Error(`${files[0].name} has ${size(bytes)}, and this service takes at most ${size(largest)}`));
    return;
  }
  sending = new AbortController();
  element("drop").hidden = true;
  element("scan-options").hidden = true;
  element("upload").hidden = false;
  element("upload-name").textContent = files.map((file) => file.name).join(" and ");
  progress(0, bytes);
  try {
    takeScan(await upload(files, { template, onProgress: progress, signal: sending.signal }));
    element("template").value = ""; // the next scan may be another patient's
    if (template) element("scan-facts").append(make("dt", "Study"), make("dd", "of the DICOM file"));
  } catch (error) {
    element("drop").hidden = false;
    element("scan-options").hidden = false;
    show(element("scan-problem"), error);
  } finally {
    sending = null;
    element("upload").hidden = true;
    element("file").value = "";
  }
}

function progress(sent, all) {
  const share = all ? sent / all : 0;
  element("upload-bar").value = share;
  element("upload-text").textContent =
    share < 1 ? `${Math.floor(100 * share)} % of ${size(all)}` : "The service reads the scan…";
}

function takeScan(found) {
  scan = found;
  history.replaceState(null, "", `/?scan=${scan.id}`);
  element("drop").hidden = true;
  element("scan-options").hidden = true;
  element("scan").hidden = false;
  element("scan-name").textContent = scan.filename || "A scan without a name";
  element("scan-facts").replaceChildren(...facts(scan).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  const warnings = element("scan-warnings");
  warnings.hidden = scan.warnings.length === 0;
  const list = make("ul");
  list.append(...scan.warnings.map((warning) => make("li", warning)));
  warnings.replaceChildren(make("p", "To know about this scan"), list);
  showPicture();
  offerMethods().catch((error) => show(element("form-problem"), error));
}

function facts(of) {
  const found = [
    ["Kind", `${of.modality === "mri" ? "MR" : "CT"}, ${of.format}`],
    ["Slices", String(of.slices)],
    ["Image", `${of.matrix[0]} × ${of.matrix[1]}, pixels of ${digits(of.pixel_spacing_mm[0])} × ${digits(of.pixel_spacing_mm[1])} mm`],
  ];
  if (of.modality === "mri") {
    if (of.coils) found.push(["Coils", String(of.coils)]);
    if (of.trajectory && of.trajectory !== "cartesian") found.push(["Trajectory", of.trajectory]);
    if (of.acceleration) found.push(["Acceleration", `${digits(of.acceleration)} times`]);
  } else {
    found.push(["Views", `${of.views} of ${of.detectors} detectors`]);
    if (of.geometry) found.push(["Geometry", of.geometry.replace("_", ", ")]);
  }
  found.push(["Reference", of.has_reference ? "yes: PSNR and SSIM are computed" : "none"]);
  found.push(["Size", size(of.size_bytes)]);
  for (const text of of.corrections) found.push(["Corrected", text]);
  return found;
}

async function showPicture() {
  const picture = element("scan-picture");
  const placeholder = element("scan-placeholder");
  picture.hidden = true;
  placeholder.hidden = false;
  placeholder.textContent = "Drawing…";
  const shown = scan.id;
  try {
    const response = await request(`/v1/scans/${scan.id}/preview.png`);
    const blob = await response.blob();
    if (scan?.id !== shown) return;
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(blob);
    picture.hidden = false;
    placeholder.hidden = true;
  } catch {
    placeholder.textContent = "No picture";
  }
}

function forget() {
  scan = null;
  history.replaceState(null, "", "/");
  element("scan").hidden = true;
  element("drop").hidden = false;
  element("scan-options").hidden = false;
  element("go").disabled = true;
  element("go-hint").textContent = "Bring a scan first.";
  if (element("known")) element("known").value = "";
}

// The method

async function offerMethods() {
  if (methods.length === 0) methods = (await json("/v1/methods")).items;
  const fitting = methods.filter((method) => method.modalities.includes(scan.modality));
  const select = element("method");
  const before = select.value;
  select.replaceChildren(...fitting.map((method) => new Option(method.name, method.name)));
  select.value = [before, FIRST_METHOD].find((name) => fitting.some((method) => method.name === name)) ?? fitting[0].name;
  select.disabled = false;
  chooseMethod();
  element("go").disabled = false;
  element("go-hint").textContent = "";
}

const chosenMethod = () => methods.find((method) => method.name === element("method").value);

function chooseMethod() {
  const method = chosenMethod();
  element("method-text").textContent = method.description;
  const presets = Object.keys(method.presets);
  element("preset-field").hidden = presets.length === 0;
  const usual = method.parameters.find((each) => each.name === "preset")?.default;
  element("preset").replaceChildren(...presets.map((name) => new Option(name, name, name === usual, name === usual)));
  choosePreset();
}

function choosePreset() {
  const method = chosenMethod();
  parameters.show(method, method.presets[element("preset").value]?.[scan.modality] ?? {});
}

// The job

/** Numbers and ranges, "0, 4-7"; null for all. Raises Error. */
function sliceNumbers(text) {
  if (text.trim() === "" || text.trim().toLowerCase() === "all") return null;
  const numbers = text.split(",").flatMap((part) => {
    const match = /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(part);
    if (!match) throw new Error(`slices: “${part.trim()}” is no number and no range such as 4-7`);
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (last < first || last - first > 100000) throw new Error(`slices: “${part.trim()}” runs backwards or is too long`);
    return Array.from({ length: last - first + 1 }, (_, at) => first + at);
  });
  return [...new Set(numbers)];
}

function tags(text) {
  const pairs = text.split(",").filter((part) => part.trim() !== "");
  return Object.fromEntries(
    pairs.map((part) => {
      const at = part.indexOf(":");
      return at < 0 ? [part.trim(), ""] : [part.slice(0, at).trim(), part.slice(at + 1).trim()];
    }),
  );
}

function asked() {
  const method = { method: element("method").value, ...parameters.values() };
  if (!element("preset-field").hidden) method.preset = element("preset").value;
  const body = {
    scan_id: scan.id,
    parameters: method,
    outputs: [...document.querySelectorAll('[name="outputs"]:checked')].map((box) => box.value),
    slices: sliceNumbers(element("slices").value),
    seed: Number(element("seed").value),
    seeds: Number(element("seeds").value),
    tags: tags(element("tags").value),
  };
  if (body.outputs.length === 0) body.outputs = ["h5"];
  const destinations = [...document.querySelectorAll('[name="destinations"]:checked')].map((box) => box.value);
  if (destinations.length) body.destinations = destinations;
  if (element("priority").value !== "routine") body.priority = element("priority").value;
  if (element("max-seconds").value !== "") body.max_seconds = Number(element("max-seconds").value);
  return body;
}

async function submit() {
  const go = element("go");
  show(element("form-problem"), null);
  go.disabled = true;
  try {
    const body = asked();
    const text = JSON.stringify(body);
    // The same request that is sent again, since no answer came, is the same job.
    if (submitted?.text !== text) submitted = { text, key: randomKey() };
    const job = await json("/v1/jobs", { method: "POST", body, headers: { "Idempotency-Key": submitted.key } });
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    go.disabled = false;
    show(element("form-problem"), error);
    if (error instanceof Problem) submitted = null;
  }
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Scans that are here, events

async function offerScans() {
  if (!element("known-box")) return;
  const { items } = await json("/v1/scans?limit=20");
  element("known-box").hidden = items.length === 0;
  const options = items.map((item) => new Option(`${item.filename || item.id} (${item.modality === "mri" ? "MR" : "CT"})`, item.id));
  element("known").replaceChildren(new Option("Choose…", ""), ...options);
}

async function takeKnown(id) {
  if (element("template").files.length) {
    element("known").value = "";
    show(element("scan-problem"), new Error("The DICOM file goes with a scan's file: drop the scan again, or remove the DICOM file"));
    return;
  }
  show(element("scan-problem"), null);
  try {
    takeScan(await json(`/v1/scans/${encodeURIComponent(id)}`));
  } catch (error) {
    show(element("scan-problem"), error);
  }
}

function make(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function begin() {
  offerScans().catch(() => {});
  const known = new URLSearchParams(location.search).get("scan");
  if (known && scan === null) takeKnown(known);
  else if (scan !== null && element("method").disabled) takeScan(scan); // the service was away when they were asked for
}

function listen() {
  const drop = element("drop");
  element("file").addEventListener("change", ({ currentTarget }) => bring([...currentTarget.files]));
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    drop.classList.remove("over");
    if (event.target === element("template")) return;
    event.preventDefault();
    forget();
    bring([...event.dataTransfer.files]);
  });
  if (element("file").files.length) bring([...element("file").files]); // chosen before this script ran
  element("upload-cancel").addEventListener("click", () => sending?.abort());
  element("another").addEventListener("click", forget);
  element("known")?.addEventListener("change", ({ currentTarget }) => currentTarget.value && takeKnown(currentTarget.value));
  element("method").addEventListener("change", chooseMethod);
  element("preset").addEventListener("change", choosePreset);
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (scan !== null) submit();
  });
  document.addEventListener("service:back", begin);
}

if (start) {
  listen();
  begin();
}
