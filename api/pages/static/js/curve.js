// The curve of a slice: data residual and, with a reference, PSNR over the iterations.

const HEIGHT = 220;

/** Keeps the snapshots of every slice, and draws those of one. */
export class Curve {
  constructor(box, placeholder) {
    this.box = box;
    this.placeholder = placeholder;
    this.name = document.getElementById("curve-slice");
    this.slices = new Map();
    this.shown = null;
    this.plot = null;
    this.drawing = false;
    this.colours = matchMedia("(prefers-color-scheme: dark)");
    this.colours.addEventListener("change", () => this.redraw());
    new ResizeObserver(() => this.plot?.setSize({ width: this.box.clientWidth, height: HEIGHT })).observe(box);
  }

  /** Take a snapshot; one that is known is known. */
  add(snapshot) {
    const points = this.slices.get(snapshot.slice) ?? this.slices.set(snapshot.slice, new Map()).get(snapshot.slice);
    if (snapshot.iteration > 0) points.set(snapshot.iteration, snapshot);
    if (this.chosen === undefined) this.shown = snapshot.slice;
    this.draw();
  }

  /** Show the curve of a slice. */
  show(slice) {
    this.chosen = slice;
    this.shown = slice;
    this.redraw();
  }

  redraw() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }

  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.drawNow();
    });
  }

  drawNow() {
    const points = [...(this.slices.get(this.shown)?.values() ?? [])].sort((a, b) => a.iteration - b.iteration);
    const empty = points.length === 0;
    this.placeholder.hidden = !empty;
    this.name.textContent = empty || this.slices.size < 2 ? "" : `of slice ${this.shown}`;
    if (empty) {
      this.plot?.destroy();
      this.plot = null;
      return;
    }
    const scored = points.some((each) => each.psnr !== null);
    const data = [points.map((each) => each.iteration), points.map((each) => each.data_residual)];
    if (scored) data.push(points.map((each) => each.psnr));
    if (this.plot && this.plot.series.length === data.length) this.plot.setData(data);
    else {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(scored), data, this.box);
    }
  }

  options(scored) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const series = [
      { label: "iteration" },
      { label: "data residual", stroke: colour("--accent"), width: 2, scale: "residual", points: { show: false } },
    ];
    const axes = [{ ...axis }, { ...axis, scale: "residual", size: 62 }];
    const scales = { x: { time: false }, residual: { distr: 3 } };
    if (scored) {
      series.push({ label: "PSNR, dB", stroke: colour("--good"), width: 2, dash: [6, 3], scale: "psnr", points: { show: false } });
      axes.push({ ...axis, scale: "psnr", side: 1, grid: { show: false }, size: 48 });
      scales.psnr = {};
    }
    return { width: this.box.clientWidth, height: HEIGHT, series, axes, scales, cursor: { drag: { x: false, y: false } }, legend: { live: false } };
  }
}
