// A comparison: which slice its picture shows, a newer picture as jobs end, and its cancellation.

import { problemElement, request } from "./api.js";

let shown = "";
let doneBefore = "";
const note = "The reference, if the scan has one, then the methods that are done with this slice, a part of each enlarged with its error times 5.";

/** Show the chosen slice, and again when more jobs have ended. */
function showPanel() {
  const form = document.getElementById("panel-choice");
  const image = document.getElementById("panel");
  if (!form || !image) return;
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) query.set(name, value);
  const choice = query.toString();
  const done = document.getElementById("state").dataset.done;
  if (`${choice} ${done}` === shown) return;
  if (shown === "" && choice === "") {
    shown = `${choice} ${done}`;
    doneBefore = done;
    return;
  }
  shown = `${choice} ${done}`;
  document.getElementById("panel-link").href = `${form.dataset.panel}?${choice}`;
  if (done !== doneBefore) query.set("done", done); // the picture has changed: another address
  doneBefore = done;
  image.src = `${form.dataset.panel}?${query}`;
}

document.addEventListener("change", (event) => {
  if (event.target.closest("#panel-choice")) showPanel();
});
document.addEventListener("htmx:after:swap", showPanel);
function tellMissing() {
  document.getElementById("panel").hidden = true;
  document.getElementById("panel-note").textContent = "No method has an image of this slice and seed.";
}

document.addEventListener(
  "error",
  (event) => {
    if (event.target.id === "panel") tellMissing();
  },
  true,
);
document.addEventListener(
  "load",
  (event) => {
    if (event.target.id === "panel") {
      event.target.hidden = false;
      document.getElementById("panel-note").textContent = note;
    }
  },
  true,
);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-cancel]");
  if (!button) return;
  button.disabled = true;
  try {
    await request(button.dataset.cancel, { method: "POST" });
    location.reload();
  } catch (error) {
    document.getElementById("problems").replaceChildren(problemElement(error));
    button.disabled = false;
  }
});
showPanel();
const first = document.getElementById("panel");
if (first?.complete && first.naturalWidth === 0) tellMissing(); // it failed before this ran
