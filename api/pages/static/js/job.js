// The page of a job: it follows the events of the job, and asks for the parts that changed.

import { Problem, ServiceAway, json, problemElement, request } from "./api.js";
import { Curve } from "./curve.js";
import { digits, duration } from "./format.js";
import { Viewer } from "./viewer.js";
import { openVolume } from "./volume.js";

const root = document.getElementById("job");
const { job, niivue } = root.dataset;
const slices = root.dataset.slices.split(" ").filter(Boolean).map(Number);
const labels = root.dataset.labels.split("|");
const address = `/v1/jobs/${job}`;
const OPEN = ["queued", "running"];
const PREVIEW_MS = 2000;

const element = (id) => document.getElementById(id);
const curve = new Curve(element("curve"), element("no-curve"));
const viewer = new Viewer({ address, slices, labels, water: Number(root.dataset.water) || null, onSlice: (number) => curve.show(number) });

let status = root.dataset.status;
let events = null;
let lastPreview = 0;
let waiting = false;

function follow() {
  events?.close();
  events = new EventSource(`${address}/events`);
  events.addEventListener("status", (event) => take(JSON.parse(event.data)));
  events.addEventListener("snapshot", (event) => step(JSON.parse(event.data)));
  events.addEventListener("done", (event) => {
    events.close();
    take(JSON.parse(event.data));
  });
  events.addEventListener("error", () => {
    // The browser connects again by itself, unless the answer was no stream: then it has to be found out why.
    if (events.readyState === EventSource.CLOSED) lookWhy();
    else request("/healthz").catch(() => {});
  });
}

async function lookWhy() {
  try {
    const now = await json(address);
    take(now);
    if (OPEN.includes(now.status)) setTimeout(follow, PREVIEW_MS);
  } catch (error) {
    if (error instanceof Problem && error.status === 404) showDeleted();
    else if (!(error instanceof ServiceAway)) show(error);
  }
}

function take(now) {
  if (now.status === "deleted") {
    showDeleted();
    return;
  }
  const changed = now.status !== status;
  status = now.status;
  showProgress(now.progress);
  if (changed) {
    htmx.trigger("#summary", "job:changed");
    // What there is to see while it runs, snapshots tell of.
    if (!OPEN.includes(status)) viewer.refresh();
    showViews();
  }
  showActions();
}

function step(snapshot) {
  curve.add(snapshot);
  element("steps").textContent =
    `Slice ${labels[slices.indexOf(snapshot.slice)] ?? snapshot.slice}: ` +
    (snapshot.iteration === 0
      ? "coil maps are being fitted"
      : `iteration ${snapshot.iteration}${snapshot.iterations ? ` of ${snapshot.iterations}` : ""}`) +
    (snapshot.data_residual === null ? "" : `, data residual ${digits(snapshot.data_residual)}`) +
    (snapshot.psnr === null ? "" : `, PSNR ${snapshot.psnr.toFixed(1)} dB`);
  if (!OPEN.includes(status)) return;
  preview();
  pull();
}

function preview() {
  if (waiting) return;
  waiting = true;
  setTimeout(
    () => {
      waiting = false;
      lastPreview = Date.now();
      viewer.refresh();
    },
    Math.max(0, lastPreview + PREVIEW_MS - Date.now()),
  );
}

let pulling = false;
let stale = false;

/** Progress over all slices and the time left are not in snapshots: ask for them once a second, and after the last. */
async function pull() {
  stale = true;
  if (pulling) return;
  pulling = true;
  while (stale) {
    stale = false;
    try {
      showProgress((await json(address)).progress);
    } catch {
      // The stream of events tells what is wrong.
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  pulling = false;
}

function showProgress(progress) {
  element("bar").value = progress.fraction;
  const parts = [`${Math.round(100 * progress.fraction)} %`];
  if (progress.slices > 1) parts.push(`${progress.slices_done} of ${progress.slices} slices`);
  element("progress-text").textContent = parts.join(", ");
  const left = progress.eta_seconds;
  element("time-left").textContent = OPEN.includes(status)
    ? status === "queued"
      ? "waiting for a worker"
      : left === null
        ? ""
        : `${duration(left)} left`
    : "";
}

function showActions() {
  const open = OPEN.includes(status);
  if (element("cancel")) element("cancel").hidden = !open;
  if (element("retry")) element("retry").hidden = status !== "failed";
  element("volume-card").hidden = status !== "succeeded";
  element("side").classList.toggle("ended", !open);
  element("bar").hidden = !open && status !== "succeeded";
}

/** Views that the images have only once the job has succeeded are learnt from its page. */
async function showViews() {
  if (status !== "succeeded") return;
  const response = await request(location.pathname, { headers: { Accept: "text/html" } }).catch(() => null);
  if (response === null) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const button of page.querySelectorAll("[data-view]")) {
    document.querySelector(`[data-view="${button.dataset.view}"]`).hidden = button.hidden;
  }
}

function showDeleted() {
  events?.close();
  show(new Error("this job was deleted"));
  for (const button of element("actions").children) button.hidden = true;
}

function show(error) {
  if (error.name === "AbortError") return;
  const box = element("problems");
  box.replaceChildren(problemElement(error));
  box.scrollIntoView({ block: "nearest" });
}

async function act(button, work) {
  button.disabled = true;
  element("problems").replaceChildren();
  try {
    await work();
  } catch (error) {
    show(error);
  } finally {
    button.disabled = false;
  }
}

element("cancel")?.addEventListener("click", ({ currentTarget }) =>
  act(currentTarget, async () => {
    await request(`${address}/cancel`, { method: "POST" });
    htmx.trigger("#summary", "job:changed");
  }),
);

element("retry")?.addEventListener("click", ({ currentTarget }) =>
  act(currentTarget, async () => {
    take(await json(`${address}/retry`, { method: "POST" }));
    follow();
  }),
);

element("delete")?.addEventListener("click", () => element("confirm").showModal());

element("confirm").addEventListener("close", ({ currentTarget }) => {
  if (currentTarget.returnValue !== "yes") return;
  act(element("delete"), async () => {
    events?.close();
    await request(address, { method: "DELETE" });
    location.assign("/jobs");
  });
});

// A download that cannot be made is told of here; the first byte shows whether it can, and has it made.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("[data-download]");
  if (!link) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  request(link.href, { headers: { Range: "bytes=0-0" } })
    .then((response) => response.arrayBuffer())
    .then(() => location.assign(link.href))
    .catch(show)
    .finally(() => link.removeAttribute("aria-busy"));
});

element("open-volume").addEventListener("click", ({ currentTarget }) =>
  act(currentTarget, async () => {
    await openVolume({
      script: niivue,
      box: element("volume-box"),
      canvas: element("volume"),
      place: element("volume-place"),
      url: `${address}/result?format=nifti`,
    });
    currentTarget.hidden = true;
  }),
);

document.addEventListener("service:back", () => {
  follow();
  viewer.refresh();
});

showActions();
if (!OPEN.includes(status)) viewer.refresh();
follow();
