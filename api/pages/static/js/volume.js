// The volume in three planes, by NiiVue, which is loaded when it is wanted.

let loading = null;

function load(script) {
  loading ??= new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = script;
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => {
      loading = null;
      reject(new Error("the volume viewer could not be loaded"));
    });
    document.head.append(element);
  });
  return loading;
}

/** Whether this browser draws by WebGL 2. */
function canDraw() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

/** Show the NIfTI file of `url` in the canvas, which has a box of fixed size. Raises Error in words. */
export async function openVolume({ script, box, canvas, place, url }) {
  if (!canDraw()) throw new Error("this browser has no WebGL; the slices above work without it");
  await load(script);
  box.hidden = false;
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    show3Dcrosshair: true,
    loadingText: "loading",
    dragAndDropEnabled: false,
    onLocationChange: (at) => {
      place.textContent = at.string;
    },
  });
  await viewer.attachToCanvas(canvas);
  try {
    // The name tells the format, as the address does not.
    await viewer.loadVolumes([{ url, name: "result.nii.gz" }]);
  } catch (error) {
    box.hidden = true;
    throw new Error(`the volume could not be loaded: ${error.message ?? error}`);
  }
}
