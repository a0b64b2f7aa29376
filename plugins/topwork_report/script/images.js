// Drawings over an image: heat over its patches, and the boxes that queries gave for it.

/** An image with heat over its patches; `values` has a number for each position of the axis. */
function heatPicture(values, axis, image, label) {
  const [high, wide] = axis.grid;
  const before = axis.special.length;
  const peak = largest(values, before);
  const canvas = make("canvas", { class: "heat-over", width: wide, height: high, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  for (let patch = 0; patch < high * wide; patch += 1) {
    const value = values[before + patch];
    context.fillStyle = colour(value < 0 ? "--c0" : "--overlay");
    context.globalAlpha = 0.75 * Math.min(1, Math.abs(value) / peak);
    context.fillRect(patch % wide, Math.floor(patch / wide), 1, 1);
  }
  const frame = make("div", { class: `heat-picture${image ? "" : " bare"}`, role: "img", "aria-label": label });
  frame.style.aspectRatio = `${wide} / ${high}`;
  if (image) {
    const picture = make("img", { src: image.src, alt: "", class: image.small ? "pixels" : null });
    picture.addEventListener("load", () => frame.style.setProperty("--full", `${picture.naturalWidth}px`)); // never smaller than it is
    frame.append(picture);
  }
  frame.append(canvas);
  return { frame, peak };
}

/** The largest size among the values from an index on, never 0. */
function largest(values, from = 0) {
  let most = 1e-9;
  for (let at = from; at < values.length; at += 1) most = Math.max(most, Math.abs(values[at]));
  return most;
}

/** Heat of one query over the patches of an image, which is shown where there is one. */
function heatView({ layer, head, query, onquery, image }) {
  const { frame, peak } = heatPicture(layer.line(head, query), layer.keys, image, describeLine(layer, head, query));
  const reading = make("p", { class: "reading", text: `${describeLine(layer, head, query)}; full colour is ${shown(peak)}` });
  const { boxes } = layer.queries;
  if (boxes) drawBoxes(frame, boxes, query, onquery);
  if (layer.queries.grid) choosePatches(frame, layer.queries, query, onquery); // a query is a patch, perhaps of a finer grid than the keys
  else if (boxes) chooseBoxes(frame, boxes, query, onquery);
  return make("div", {}, frame, reading);
}

/** An image with the boxes of queries, where the keys are no patches of it: those of attention to sampled points. */
function boxesPicture({ layer, query, onquery, image }) {
  const { boxes } = layer.queries;
  const chosen = boxes.find(([at]) => at === query);
  const label = chosen ? positionName(layer.queries, query) : `boxes of ${boxes.length} queries`;
  const picture = make("img", { src: image.src, alt: "", class: image.small ? "pixels" : null });
  const frame = make("div", { class: "heat-picture with-boxes", role: "img", "aria-label": label }, picture);
  drawBoxes(frame, boxes, query, onquery);
  chooseBoxes(frame, boxes, query, onquery);
  return frame;
}

/** Draw the boxes of queries over an image: the one that is chosen, and the best others. */
function drawBoxes(frame, boxes, query, onquery) {
  const drawing = make("svg:svg", { class: "query-boxes", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [at, label, score, [left, top, right, bottom]] of bestBoxes(boxes, query)) {
    const rectangle = make("svg:rect", { x: 100 * left, y: 100 * top, width: 100 * Math.max(0, right - left), height: 100 * Math.max(0, bottom - top),
      class: at === query ? "chosen-box" : "other-box" }, make("svg:title", { text: `${label} ${shown(score)}` }));
    rectangle.addEventListener("click", (event) => { event.stopPropagation(); onquery(at); });
    drawing.append(rectangle);
    if (at !== query) continue;
    const name = make("span", { class: "box-name", text: `${label} ${score.toFixed(2)}` });
    Object.assign(name.style, { left: `${100 * left}%`, top: `${100 * top}%` });
    frame.append(name);
  }
  frame.append(drawing);
}

/** The twelve boxes with the best scores, the chosen one last: it lies on top. */
function bestBoxes(boxes, query) {
  const best = [...boxes].sort((a, b) => b[2] - a[2]).slice(0, 12).filter(([at]) => at !== query);
  return [...best, ...boxes.filter(([at]) => at === query)];
}

/** Let the arrow keys go from box to box, the best first. */
function chooseBoxes(frame, boxes, query, onquery) {
  const order = [...boxes].sort((a, b) => b[2] - a[2]).map(([at]) => at);
  frame.setAttribute("tabindex", "0");
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = order[Math.max(0, Math.min(order.length - 1, order.indexOf(query) + step))];
    if (next !== undefined) onquery(next, true);
  });
}

/** Let a click or the arrow keys choose a patch of an image as the query, and mark the one that is chosen. */
function choosePatches(frame, axis, query, onquery) {
  const [high, wide] = axis.grid;
  const before = axis.special.length;
  const chosen = query - before;
  frame.setAttribute("tabindex", "0");
  if (query >= before) {
    const mark = make("div", { class: "chosen-patch" });
    Object.assign(mark.style, { left: `${(100 * (chosen % wide)) / wide}%`, top: `${(100 * Math.floor(chosen / wide)) / high}%`, width: `${100 / wide}%`, height: `${100 / high}%` });
    frame.append(mark);
  }
  frame.addEventListener("click", (event) => {
    const box = frame.getBoundingClientRect();
    const column = Math.min(wide - 1, Math.floor(((event.clientX - box.left) / box.width) * wide));
    onquery(before + Math.min(high - 1, Math.floor(((event.clientY - box.top) / box.height) * high)) * wide + column);
  });
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = query < before ? 0 : chosen + step;
    if (next >= 0 && next < high * wide) onquery(before + next, true);
  });
}
