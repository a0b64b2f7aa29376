// Curves: the values under the pointer, or at the step that the arrow keys chose.

class CurveReader {
  /** @param {SVGSVGElement} drawing @param {Object<string, any>} data {"x", "frame", "domain", "series": [[name, points]]} */
  constructor(drawing, data) {
    this.drawing = drawing;
    this.data = data;
    this.steps = [...new Set(data.series.flatMap(([, points]) => points.map(([x]) => x)))].sort((a, b) => a - b);
    this.at = -1;
    const { left, top, bottom } = data.frame;
    this.line = make("svg:path", { class: "pointer-line", d: `M${left} ${top}V${bottom}`, visibility: "hidden" });
    drawing.append(this.line);
    this.reading = make("p", { class: "reading", "aria-live": "polite", text: " " });
    drawing.after(this.reading);
    drawing.setAttribute("tabindex", "0");
    drawing.addEventListener("pointermove", (event) => this.move(event));
    drawing.addEventListener("pointerleave", () => this.show(-1));
    drawing.addEventListener("blur", () => this.show(-1));
    drawing.addEventListener("keydown", (event) => {
      const next = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: this.steps.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      this.show(Math.max(0, Math.min(this.steps.length - 1, next)));
    });
  }

  move(event) {
    const box = this.drawing.getBoundingClientRect();
    const { left, right } = this.data.frame;
    const [low, high] = this.data.domain;
    const across = ((event.clientX - box.left) / box.width) * this.drawing.viewBox.baseVal.width;
    const x = low + ((high - low) * (across - left)) / (right - left);
    let nearest = 0;
    this.steps.forEach((step, at) => { if (Math.abs(step - x) < Math.abs(this.steps[nearest] - x)) nearest = at; });
    this.show(nearest);
  }

  /** Show the values at a step; -1 shows none. */
  show(at) {
    this.at = at;
    this.line.setAttribute("visibility", at < 0 ? "hidden" : "visible");
    if (at < 0) {
      this.reading.textContent = " ";
      return;
    }
    const { left, right } = this.data.frame;
    const [low, high] = this.data.domain;
    const step = this.steps[at];
    this.line.setAttribute("transform", `translate(${((right - left) * (step - low)) / (high - low)} 0)`);
    const values = this.data.series.map(([name, points]) => {
      const point = points.find(([x]) => x === step);
      return point ? `${name} ${shown(point[1])}` : "";
    });
    this.reading.textContent = `${this.data.x} ${shown(step)}: ${values.filter((text) => text).join(", ")}`;
  }
}

/** Make every chart of the page readable. */
function mountCurves(all) {
  for (const data of all) {
    const drawing = document.getElementById(data.id);
    if (drawing) new CurveReader(drawing, data);
  }
}
