// Slices as pictures that the service draws: any browser shows them. The window is the service's work too, so that
// dark and bright parts keep all their greys.

import { Problem, ServiceAway, problemElement, request } from "./api.js";
import { digits } from "./format.js";

const WHEEL_STEP = 40;
const AFTER_MS = 60;

/** Shows one slice in one or two panes. */
export class Viewer {
  constructor({ address, slices, labels, onSlice, water = null }) {
    this.address = address;
    this.slices = slices;
    this.labels = labels;
    this.onSlice = onSlice;
    this.water = water;
    this.index = 0;
    this.chosen = slices.length < 2;
    this.view = "magnitude";
    this.beside = false;
    this.automatic = null;
    this.fractions = [0, 1];
    this.asked = null;
    this.soon = 0;
    this.elements = Object.fromEntries(
      ["panes", "second", "picture", "picture-direct", "placeholder", "caption", "beside", "slice", "slice-name", "low", "low-name", "high", "high-name", "reset"].map(
        (id) => [id, document.getElementById(id)],
      ),
    );
    this.listen();
    this.tell();
  }

  listen() {
    const { panes, beside, slice, low, high, reset } = this.elements;
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => this.setView(button));
    }
    beside.addEventListener("change", () => this.setBeside(beside.checked));
    slice.addEventListener("input", () => this.setIndex(Number(slice.value)));
    low.addEventListener("input", () => this.setWindow(Number(low.value) / 100, this.fractions[1]));
    high.addEventListener("input", () => this.setWindow(this.fractions[0], Number(high.value) / 100));
    reset.addEventListener("click", () => this.setWindow(0, 1));
    panes.addEventListener("keydown", (event) => this.key(event));
    let wheeled = 0;
    panes.addEventListener(
      "wheel",
      (event) => {
        if (this.slices.length < 2 || event.ctrlKey) return;
        event.preventDefault();
        wheeled += event.deltaMode === 0 ? event.deltaY : event.deltaY * WHEEL_STEP;
        const steps = Math.trunc(wheeled / WHEEL_STEP);
        wheeled -= steps * WHEEL_STEP;
        if (steps) this.setIndex(this.index + steps);
      },
      { passive: false },
    );
    this.drag(panes);
  }

  key(event) {
    const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
    const ends = { Home: 0, End: this.slices.length - 1 };
    if (!(event.key in steps) && !(event.key in ends)) return;
    event.preventDefault();
    this.setIndex(event.key in steps ? this.index + steps[event.key] : ends[event.key]);
  }

  drag(panes) {
    let from = null;
    panes.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || event.button !== 0) return;
      from = { x: event.clientX, y: event.clientY, fractions: [...this.fractions], size: panes.clientHeight || 1 };
      panes.setPointerCapture(event.pointerId);
      event.preventDefault();
      panes.focus();
    });
    panes.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const wider = (2 * (event.clientX - from.x)) / from.size;
      const higher = (2 * (event.clientY - from.y)) / from.size;
      const [low, high] = from.fractions;
      const width = Math.max(0.02, (high - low) * Math.exp(wider));
      const middle = (low + high) / 2 + higher * (high - low);
      this.setWindow(middle - width / 2, middle + width / 2);
    });
    for (const name of ["pointerup", "pointercancel"]) panes.addEventListener(name, () => (from = null));
  }

  setView(button) {
    this.view = button.dataset.view;
    for (const each of document.querySelectorAll("[data-view]")) {
      each.setAttribute("aria-pressed", String(each === button));
    }
    this.refresh();
  }

  setBeside(on) {
    this.beside = on;
    this.elements.second.hidden = !on;
    this.elements.panes.classList.toggle("two", on);
    this.refresh();
  }

  setIndex(index) {
    this.chosen = true;
    this.index = Math.min(Math.max(index, 0), this.slices.length - 1);
    this.tell();
    this.onSlice(this.slices[this.index]);
    this.later();
  }

  setWindow(low, high) {
    this.fractions = [low, Math.max(high, low + 0.01)];
    this.tell();
    this.later();
  }

  later() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.refresh(), AFTER_MS);
  }

  tell() {
    const { slice, low, high } = this.elements;
    slice.value = this.index;
    const name = this.labels[this.index] ?? "";
    const place = this.slices.length > 1 ? ` (${this.index + 1} of ${this.slices.length})` : "";
    this.elements["slice-name"].textContent = `${name}${place}`;
    slice.setAttribute("aria-valuetext", `${name}${place}`);
    this.fractions.forEach((fraction, at) => {
      const slider = [low, high][at];
      slider.value = Math.round(100 * fraction);
      const level = this.level(fraction);
      this.elements[at ? "high-name" : "low-name"].textContent = level;
      slider.setAttribute("aria-valuetext", level);
    });
  }

  /** A level in words: in Hounsfield units where the attenuation of water is known, else in the image's unit. */
  level(fraction) {
    if (this.automatic === null) return `${Math.round(100 * fraction)} %`;
    const value = fraction * this.automatic;
    return this.water === null ? digits(value) : `${Math.round(1000 * (value / this.water - 1))} HU`;
  }

  query(view) {
    const asked = new URLSearchParams({ view });
    if (this.chosen) asked.set("slice", this.slices[this.index]);
    const [low, high] = this.fractions;
    if (this.automatic !== null && (low !== 0 || high !== 1)) {
      asked.set("window", `${(low * this.automatic).toPrecision(6)},${(high * this.automatic).toPrecision(6)}`);
    }
    return `${this.address}/preview.png?${asked}`;
  }

  /** Ask for the pictures anew; what was asked before and did not come yet is given up. */
  async refresh() {
    clearTimeout(this.soon);
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    try {
      const wanted = [[this.view, this.elements.picture]];
      if (this.beside) wanted.push(["direct", this.elements["picture-direct"]]);
      const answers = await Promise.all(wanted.map(([view]) => request(this.query(view), { signal: asked.signal })));
      const blobs = await Promise.all(answers.map((answer) => answer.blob()));
      if (asked.signal.aborted) return;
      if (this.fractions[0] === 0 && this.fractions[1] === 1) {
        this.automatic = Number((answers[0].headers.get("Window-Levels") ?? "0,0").split(",")[1]) || null;
        this.tell();
      }
      wanted.forEach(([, image], at) => {
        const before = image.src;
        image.src = URL.createObjectURL(blobs[at]);
        image.hidden = false;
        if (before.startsWith("blob:")) URL.revokeObjectURL(before);
      });
      this.elements.placeholder.hidden = true;
      this.elements.caption.hidden = !this.beside;
      const name = document.querySelector('[data-view][aria-pressed="true"]').textContent;
      this.elements.caption.replaceChildren(name);
      this.elements.picture.alt = `${name}, slice ${this.labels[this.index] ?? ""}`;
    } catch (error) {
      if (error.name === "AbortError" || error instanceof ServiceAway) return;
      this.fail(error);
    }
  }

  fail(error) {
    const { picture, placeholder, caption } = this.elements;
    picture.hidden = true;
    placeholder.hidden = false;
    const nothingYet = error instanceof Problem && [404, 409].includes(error.status);
    placeholder.textContent = nothingYet ? "There is nothing to see yet." : "This picture cannot be shown.";
    caption.hidden = nothingYet;
    caption.replaceChildren(...(nothingYet ? [] : [problemElement(error)]));
  }
}
