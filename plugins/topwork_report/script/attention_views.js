// Drawings of attention: lines between tokens, a matrix, all heads at once. Over images: images.js; over time: sound.js.
// Each takes {layer, head, query, onquery} and returns an element; `onquery` is told which query the reader chose.

const LINE_HEIGHT = 21;
const MOST_LINES = 400;

/** Lines between the tokens of two lists (BertViz's head view). The opacity of a line is its share of the peak. */
function linesView({ layer, head, query, onquery }) {
  const [high, wide] = [LINE_HEIGHT * Math.max(layer.rows, layer.columns) + 8, 200];
  const lines = make("svg:svg", { class: "lines-between", width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const peak = layer.peak(head) || 1;
  const left = [...Array(layer.rows).keys()].map((at) => make("button", { type: "button", class: "token-button", text: positionName(layer.queries, at) }));
  const right = [...Array(layer.columns).keys()].map((at) => make("button", { type: "button", class: "token-name", "aria-pressed": "false", text: positionName(layer.keys, at) }));
  let pinned = -1; // the key whose lines alone are drawn
  const rest = () => draw(pinned < 0 ? query : -1, pinned);
  const draw = (from, to) => {
    const scale = from < 0 ? peak : largest(layer.line(head, from));
    lines.replaceChildren(...strongest(layer, head, scale, from, to).map(([row, column, share]) => {
      const [y1, y2] = [LINE_HEIGHT * (row + 0.5) + 4, LINE_HEIGHT * (column + 0.5) + 4];
      return make("svg:path", { d: `M0 ${y1}C${wide / 2} ${y1} ${wide / 2} ${y2} ${wide} ${y2}`, "stroke-opacity": share.toFixed(3) });
    }));
    right.forEach((name, at) => name.classList.toggle("is-strong", from >= 0 && layer.at(head, from, at) >= 0.5 * scale));
  };
  left.forEach((name, at) => {
    name.setAttribute("aria-pressed", String(at === query));
    name.addEventListener("mouseenter", () => draw(at, -1));
    name.addEventListener("focus", () => draw(at, -1));
    name.addEventListener("blur", rest);
    name.addEventListener("mouseleave", rest);
    name.addEventListener("click", () => onquery(at === query ? -1 : at));
  });
  right.forEach((name, at) => {
    name.addEventListener("mouseenter", () => draw(-1, at));
    name.addEventListener("focus", () => draw(-1, at));
    name.addEventListener("blur", rest);
    name.addEventListener("mouseleave", rest);
    name.addEventListener("click", () => {
      pinned = pinned === at ? -1 : at;
      right.forEach((other, index) => other.setAttribute("aria-pressed", String(index === pinned)));
      rest();
    });
  });
  arrows(left, 1);
  arrows(right, 1);
  draw(query, -1);
  return make("div", { class: "between", tabindex: "-1" },
    make("div", { class: "side from", role: "group", "aria-label": "from" }, ...left), lines,
    make("div", { class: "side to", role: "group", "aria-label": "to" }, ...right));
}

/** The weights that lines are drawn for, [[query, key, share of the peak], ...]: from 2 % of the peak on, the strongest MOST_LINES. */
function strongest(layer, head, peak, from, to) {
  const lines = [];
  for (let row = 0; row < layer.rows; row += 1) {
    if (from >= 0 && row !== from) continue;
    for (let column = 0; column < layer.columns; column += 1) {
      if (to >= 0 && column !== to) continue;
      const share = layer.at(head, row, column) / peak;
      if (share >= 0.02) lines.push([row, column, share]);
    }
  }
  return lines.length > MOST_LINES ? lines.sort((a, b) => b[2] - a[2]).slice(0, MOST_LINES) : lines;
}

/** All weights of an attention head as a matrix: a row for each query. */
function matrixView({ layer, head, query, onquery }) {
  const cell = Math.max(4, Math.min(18, Math.floor(460 / Math.max(layer.rows, layer.columns))));
  const canvas = make("canvas", { class: "matrix", role: "img", tabindex: "0",
    "aria-label": `matrix of ${layer.rows} queries and ${layer.columns} keys, largest weight ${shown(layer.peak(head))}` });
  drawMatrix(canvas, layer.rows, layer.columns, cell, (row, column) => layer.at(head, row, column), layer.peak(head));
  const reading = make("p", { class: "reading", "aria-live": "polite", text: "rows: from, columns: to" });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.min(layer.rows - 1, Math.floor(((event.clientY - box.top) / box.height) * layer.rows));
    const column = Math.min(layer.columns - 1, Math.floor(((event.clientX - box.left) / box.width) * layer.columns));
    if (row < 0 || column < 0) return;
    reading.textContent = `from ${positionName(layer.queries, row)} to ${positionName(layer.keys, column)}: ${shown(layer.at(head, row, column))}`;
  });
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    onquery(Math.floor(((event.clientY - box.top) / box.height) * layer.rows));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(layer.rows - 1, (query < 0 ? -1 : query) + step));
    reading.textContent = describeLine(layer, head, next);
    query = next;
  });
  return make("div", { class: "scroll" }, canvas, reading);
}

/** A sentence with the largest weights of a query. */
function describeLine(layer, head, query) {
  const values = [...layer.line(head, query)].map((value, key) => ({ value, key })).sort((a, b) => b.value - a.value);
  const from = query < 0 ? "the mean over all positions" : positionName(layer.queries, query);
  const most = values.slice(0, 3).map(({ value, key }) => `${positionName(layer.keys, key)} ${shown(value)}`);
  return `from ${from}: ${most.join("; ")}`;
}

/** Every attention head of every layer as a small picture (BertViz's model view); a click opens one. */
function allHeadsView({ layers, query, onopen, layer: chosenLayer, head: chosenHead }) {
  const most = Math.max(...layers.map((layer) => layer.heads));
  const grid = make("div", { class: "all-heads", role: "group", "aria-label": "all attention heads" });
  grid.style.setProperty("--columns", String(most));
  const buttons = [];
  for (const layer of layers) {
    grid.append(make("span", { class: "layer-name", text: layerName(layer, layers) }));
    for (let head = 0; head < most; head += 1) {
      if (head >= layer.heads) {
        grid.append(make("span"));
        continue;
      }
      const name = `layer ${layerName(layer, layers)}, attention head ${layer.indices[head]}`;
      const canvas = make("canvas", { "aria-hidden": "true" });
      small(canvas, layer, head, query);
      const button = make("button", { type: "button", "aria-label": name, title: name, onclick: () => onopen(layer, head) }, canvas, make("span", { text: layer.indices[head] }));
      if (layer === chosenLayer && head === chosenHead) button.setAttribute("aria-current", "true");
      buttons.push(button);
      grid.append(button);
    }
  }
  arrows(buttons, most, buttons.findIndex((button) => button.hasAttribute("aria-current")));
  return make("div", { class: "scroll" }, grid);
}

/** A small picture of an attention head: heat over the patches or time from a query, else its matrix. */
function small(canvas, layer, head, query) {
  const from = query < layer.rows ? query : -1;
  if (layer.keys.grid) {
    const [high, wide] = layer.keys.grid;
    const values = layer.line(head, from).slice(layer.keys.special.length);
    drawMatrix(canvas, high, wide, 2, (row, column) => values[row * wide + column], Math.max(...values, 1e-9));
    return;
  }
  const cell = Math.max(1, Math.floor(48 / Math.max(layer.rows, layer.columns)));
  drawMatrix(canvas, layer.rows, layer.columns, cell, (row, column) => layer.at(head, row, column), layer.peak(head));
}

/** The name of a layer: its number, with its group where the model has several. */
function layerName(layer, layers) {
  return layers.some((other) => other.group !== layer.group) ? `${layer.group} ${layer.number}` : String(layer.number);
}
