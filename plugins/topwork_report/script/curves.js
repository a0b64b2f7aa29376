// Curves: values under the pointer or at the step that the arrow keys chose; a part of the axis is zoomed into.

const MOST_DOTS = 24;

class CurveReader {
  /** @param {SVGSVGElement} drawing @param {Object<string, any>} data {"x", "frame", "domain", "series": [[name, points]], "styles", "bands"} */
  constructor(drawing, data) {
    this.drawing = drawing;
    this.data = data;
    this.steps = [...new Set(data.series.flatMap(([, points]) => points.map(([x]) => x)))].sort((a, b) => a - b);
    this.at = -1;
    this.shown = [...data.domain];
    this.from = null; // where a drag began, on the axis
    this.marks = drawing.querySelector(".marks");
    const { left, top, bottom } = data.frame;
    this.line = make("svg:path", { class: "pointer-line", d: `M${left} ${top}V${bottom}`, visibility: "hidden" });
    this.chosen = make("svg:rect", { class: "chosen-part", y: top, height: bottom - top, visibility: "hidden" });
    drawing.append(this.chosen, this.line);
    this.reading = make("p", { class: "reading", "aria-live": "polite", text: " " });
    this.whole = make("button", { type: "button", class: "plain small", text: "whole curve", hidden: true, onclick: () => { this.zoom(...this.data.domain); this.drawing.focus(); } });
    this.label = `${data.title || "curve"}: left and right arrow keys read values, plus and minus zoom, 0 shows the whole curve; a drag zooms`;
    drawing.after(this.reading, this.whole);
    drawing.setAttribute("tabindex", "0");
    drawing.setAttribute("aria-label", this.label);
    drawing.addEventListener("pointerdown", (event) => this.begin(event));
    drawing.addEventListener("pointermove", (event) => this.move(event));
    drawing.addEventListener("pointerup", (event) => this.end(event));
    drawing.addEventListener("pointercancel", () => this.cancel());
    drawing.addEventListener("dblclick", () => this.zoom(...this.data.domain));
    drawing.addEventListener("pointerleave", () => { if (this.from === null) this.show(-1); });
    drawing.addEventListener("blur", () => this.show(-1));
    drawing.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const visible = this.steps.map((step, at) => ({ step, at })).filter(({ step }) => step >= this.shown[0] && step <= this.shown[1]).map(({ at }) => at);
    const [first, last] = [visible[0] ?? 0, visible[visible.length - 1] ?? this.steps.length - 1];
    const next = { ArrowRight: this.at < 0 ? first : this.at + 1, ArrowLeft: this.at < 0 ? last : this.at - 1, Home: first, End: last }[event.key];
    const factor = { "+": 0.5, "=": 0.5, "-": 2 }[event.key];
    if (next === undefined && factor === undefined && event.key !== "0") return;
    event.preventDefault();
    if (next !== undefined) this.show(Math.max(first, Math.min(last, next)));
    else if (factor === undefined) this.zoom(...this.data.domain);
    else {
      const middle = this.at < 0 ? (this.shown[0] + this.shown[1]) / 2 : this.steps[this.at];
      const reach = (factor * (this.shown[1] - this.shown[0])) / 2;
      this.zoom(middle - reach, middle + reach);
    }
  }

  /** The place on the axis of an event of the pointer. */
  across(event) {
    const box = this.drawing.getBoundingClientRect();
    const { left, right } = this.data.frame;
    const [low, high] = this.shown;
    const along = ((event.clientX - box.left) / box.width) * this.drawing.viewBox.baseVal.width;
    return Math.max(low, Math.min(high, low + ((high - low) * (along - left)) / (right - left)));
  }

  /** The horizontal coordinate of a place on the axis. */
  x(value) {
    const { left, right } = this.data.frame;
    return left + ((right - left) * (value - this.shown[0])) / (this.shown[1] - this.shown[0]);
  }

  begin(event) {
    if (event.button !== 0) return;
    this.from = this.across(event);
  }

  move(event) {
    const x = this.across(event);
    if (this.from !== null) {
      const [low, high] = [Math.min(this.from, x), Math.max(this.from, x)];
      this.chosen.setAttribute("x", this.x(low).toFixed(1));
      this.chosen.setAttribute("width", (this.x(high) - this.x(low)).toFixed(1));
      this.chosen.setAttribute("visibility", "visible");
      return;
    }
    let nearest = 0;
    this.steps.forEach((step, at) => { if (Math.abs(step - x) < Math.abs(this.steps[nearest] - x)) nearest = at; });
    this.show(nearest);
  }

  end(event) {
    const [from, to] = [this.from, this.across(event)];
    this.cancel();
    if (from !== null && Math.abs(this.x(to) - this.x(from)) > 6) this.zoom(Math.min(from, to), Math.max(from, to));
  }

  cancel() {
    this.from = null;
    this.chosen.setAttribute("visibility", "hidden");
  }

  /** Show the part of the axis from low to high, and the values that lie there on a scale of their own. */
  zoom(low, high) {
    const [first, last] = this.data.domain;
    low = Math.max(first, low);
    high = Math.min(last, high);
    if (high - low < (last - first) / 1000) return;
    this.shown = [low, high];
    this.whole.hidden = low === first && high === last;
    this.drawMarks();
    if (this.at >= 0 && (this.steps[this.at] < low || this.steps[this.at] > high)) this.at = -1;
    this.show(this.at);
  }

  /** Draw axes, bands and lines of what is shown. */
  drawMarks() {
    const [low, high] = this.shown;
    const { left, right, top, bottom } = this.data.frame;
    const seen = this.data.series.map(([, points]) => pointsWithin(points, low, high));
    const bands = this.data.series.map(([name]) => pointsWithin((this.data.bands || {})[name] || [], low, high));
    const heights = [...seen, ...bands].flatMap((points) => points.flatMap(([, ...ys]) => ys));
    if (!heights.length) return;
    const levels = roundNumbers(Math.min(...heights), Math.max(...heights), 6);
    const [floor, ceiling] = [levels[0], levels[levels.length - 1]];
    const y = (value) => bottom - ((bottom - top) * (value - floor)) / (ceiling - floor);
    const path = (points) => points.map(([at, value], index) => `${index ? "L" : "M"}${this.x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const marks = levels.flatMap((value) => [make("svg:path", { class: "axis", d: `M${left} ${y(value).toFixed(1)}H${right}` }),
      make("svg:text", { x: left - 8, y: y(value) + 4, "text-anchor": "end", text: shown(value) })]);
    for (const value of roundNumbers(low, high, 5)) {
      if (value >= low && value <= high) marks.push(make("svg:text", { x: this.x(value).toFixed(1), y: bottom + 17, "text-anchor": "middle", text: shown(value) }));
    }
    const [width, height] = [right - left + 4, bottom - top + 8];
    const lines = make("svg:svg", { x: left, y: top - 4, width, height, viewBox: `${left} ${top - 4} ${width} ${height}` }); // which cuts off
    bands.forEach((edges, at) => {
      if (edges.length < 2) return;
      const outline = [...edges.map(([x, , most]) => [x, most]), ...[...edges].reverse().map(([x, least]) => [x, least])];
      lines.append(make("svg:path", { class: `band ${this.data.styles[at]}`, d: `${path(outline)}Z` }));
    });
    seen.forEach((points, at) => {
      lines.append(make("svg:path", { class: `curve ${this.data.styles[at]}`, d: path(points) }));
      if (points.length > MOST_DOTS) return;
      for (const [x, value] of points) lines.append(make("svg:circle", { class: this.data.styles[at], cx: this.x(x).toFixed(1), cy: y(value).toFixed(1), r: 2.6 }));
    });
    this.marks.replaceChildren(...marks, lines);
  }

  /** Show the values at a step; -1 shows none. */
  show(at) {
    this.at = at;
    this.line.setAttribute("visibility", at < 0 ? "hidden" : "visible");
    if (at < 0) {
      this.reading.textContent = " ";
      return;
    }
    const step = this.steps[at];
    this.line.setAttribute("transform", `translate(${this.x(step) - this.data.frame.left} 0)`);
    const values = this.data.series.map(([name, points]) => {
      const point = points.find(([x]) => x === step);
      const band = ((this.data.bands || {})[name] || []).find(([x]) => x === step);
      return point ? `${name} ${shown(point[1])}${band ? ` (${shown(band[1])} to ${shown(band[2])})` : ""}` : "";
    });
    this.reading.textContent = `${this.data.x} ${shown(step)}: ${values.filter((text) => text).join(", ")}`;
  }
}

/** The points from low to high, and one more on either side so that lines reach the edges. */
function pointsWithin(points, low, high) {
  const first = points.findIndex(([x]) => x >= low);
  const last = points.findLastIndex(([x]) => x <= high);
  if (first < 0 || last < 0) return points.length ? points.slice(first < 0 ? -1 : 0, first < 0 ? undefined : 1) : [];
  return points.slice(Math.max(0, first - 1), last + 2);
}

/** Round numbers that enclose low and high: steps of 1, 2 or 5 times a power of ten, as charts.py has them. */
function roundNumbers(low, high, most) {
  if (high <= low) {
    const reach = Math.abs(low) * 0.1 || 1;
    [low, high] = [low - reach, high + reach];
  }
  const rough = (high - low) / (most - 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const numbers = [];
  for (let count = Math.floor(low / step + 1e-9); count <= Math.ceil(high / step - 1e-9); count += 1) numbers.push(Number((count * step).toPrecision(12)));
  return numbers;
}

/** Make every chart of the page readable. */
function mountCurves(all) {
  for (const data of all) {
    const drawing = document.getElementById(data.id);
    if (drawing) new CurveReader(drawing, data);
  }
}
