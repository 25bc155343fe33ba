// The page of `udig view`: one volume of a local file.

import { problemElement } from "./api.js";
import { Viewer } from "./viewer.js";
import { openVolume } from "./volume.js";

const { address, labels, niivue } = document.getElementById("local").dataset;
const names = labels.split("|");
const element = (id) => document.getElementById(id);

const viewer = new Viewer({ address, slices: names.map((_, index) => index), labels: names, onSlice: () => {} });
viewer.setIndex(Math.floor(names.length / 2));

element("open-volume").addEventListener("click", async ({ currentTarget }) => {
  currentTarget.disabled = true;
  try {
    await openVolume({
      script: niivue,
      box: element("volume-box"),
      canvas: element("volume"),
      place: element("volume-place"),
      url: `${address}/volume.nii.gz`,
    });
    currentTarget.hidden = true;
  } catch (error) {
    element("problems").replaceChildren(problemElement(error));
  } finally {
    currentTarget.disabled = false;
  }
});
