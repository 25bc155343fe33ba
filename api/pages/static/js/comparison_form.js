// The form of a comparison: what is chosen as JSON for POST /v1/comparisons.

import { json, problemElement } from "./api.js";

const form = document.getElementById("compare");
const problems = document.getElementById("problems");

/** What a person typed in words: a number, true, false or null where it is one of these, else the text. */
function valueOf(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? text : value;
  } catch {
    return text;
  }
}

function parts(text, divider) {
  return text.split(divider).map((each) => each.trim()).filter(Boolean);
}

function numbers(name, text) {
  return parts(text, /[\s,]+/).map((each) => {
    if (!/^\d+$/.test(each)) throw new Error(`${name}: ${each} is no number from 0 on`);
    return Number(each);
  });
}

function pairs(name, text, divider, between) {
  return Object.fromEntries(
    parts(text, divider).map((each) => {
      const at = each.indexOf(between);
      if (at < 1) throw new Error(`${name}: ${each} has no ${between} within, as in name${between}value`);
      return [each.slice(0, at).trim(), each.slice(at + 1).trim()];
    }),
  );
}

function asked() {
  const given = new FormData(form);
  const methods = given.getAll("method").map((method) => {
    const own = pairs(method, given.get(`parameters-${method}`) || "", /\s+/, "=");
    const parameters = Object.fromEntries(Object.entries(own).map(([name, text]) => [name, valueOf(text)]));
    const preset = given.get(`preset-${method}`);
    return { parameters: { method, ...(preset ? { preset } : {}), ...parameters } };
  });
  const scans = given.getAll("scan");
  if (!scans.length) throw new Error("choose a scan");
  if (!methods.length) throw new Error("choose a method");
  const seeds = numbers("seeds", given.get("seeds"));
  const slices = numbers("slices", given.get("slices"));
  return {
    scan_ids: scans,
    methods,
    seeds: seeds.length ? seeds : [0],
    slices: slices.length ? slices : null,
    tags: pairs("tags", given.get("tags"), ",", ":"),
  };
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  problems.replaceChildren();
  try {
    const made = await json("/v1/comparisons", { method: "POST", body: asked() });
    location.assign(`/comparisons/${made.id}`);
  } catch (error) {
    problems.replaceChildren(problemElement(error));
    problems.scrollIntoView({ block: "nearest" });
    button.disabled = false;
  }
});
