// Drawings over time: heat over the waveform and the spectrogram of a clip.

/** Read a clip: {"seconds", "at"}, where at(share) are 16-bit samples; null for anything but PCM in a WAV file. */
function readClip(player) {
  const text = (player?.getAttribute("src") || "").split(";base64,")[1];
  if (!text) return null;
  const view = new DataView(bytesOf(text).buffer);
  const name = (at) => String.fromCharCode(view.getUint8(at), view.getUint8(at + 1), view.getUint8(at + 2), view.getUint8(at + 3));
  if (view.byteLength < 44 || name(0) !== "RIFF") return null;
  let format = null;
  for (let at = 12; at + 8 <= view.byteLength;) {
    const size = view.getUint32(at + 4, true);
    if (name(at) === "fmt ") format = { code: view.getUint16(at + 8, true), channels: view.getUint16(at + 10, true), rate: view.getUint32(at + 12, true), bits: view.getUint16(at + 22, true) };
    if (name(at) === "data" && format) {
      if (format.code !== 1 || format.bits !== 16 || !format.rate || !format.channels) return null;
      const count = Math.floor(Math.min(size, view.byteLength - at - 8) / (2 * format.channels));
      const start = at + 8;
      return { seconds: count / format.rate, count, sample: (index) => view.getInt16(start + 2 * format.channels * index, true) };
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

/** The waveform of a clip: from the lowest to the highest sample in each column. */
function waveform(clip) {
  const [wide, high] = [720, 56];
  const canvas = make("canvas", { class: "waveform", width: wide, height: high, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.fillStyle = colour("--ink");
  let peak = 1;
  const columns = [...Array(wide).keys()].map((column) => {
    const [from, to] = [Math.floor((column * clip.count) / wide), Math.max(1, Math.floor(((column + 1) * clip.count) / wide))];
    let [low, most] = [0, 0];
    for (let at = from; at < Math.min(to, clip.count); at += 1) {
      low = Math.min(low, clip.sample(at));
      most = Math.max(most, clip.sample(at));
    }
    peak = Math.max(peak, -low, most);
    return [low, most];
  });
  columns.forEach(([low, most], column) => context.fillRect(column, (high / 2) * (1 - most / peak), 1, Math.max(1, ((high / 2) * (most - low)) / peak)));
  return canvas;
}

/** A strip of heat over time: `values` has a number for each frame. */
function heatStrip(values, peak) {
  const strip = make("canvas", { class: "strip", width: values.length, height: 1, "aria-hidden": "true" });
  const context = strip.getContext("2d");
  values.forEach((value, key) => {
    context.fillStyle = colour(value < 0 ? "--c0" : "--overlay");
    context.globalAlpha = 0.8 * Math.min(1, Math.abs(value) / peak);
    context.fillRect(key, 0, 1, 1);
  });
  return strip;
}

/** The lanes of a clip under heat: spectrogram and waveform, as wide as the time that the frames cover; else an empty lane. */
function timeLanes(values, axis, { spectrogram, clip }) {
  const peak = largest(values);
  const covered = axis.seconds ? values.length * axis.seconds : 0;
  const share = clip && covered ? Math.min(1, clip.seconds / covered) : 1;
  const lane = (content, name) => {
    if (content) content.style.width = `${100 * share}%`;
    return make("div", { class: `time-lane ${name}` }, content, heatStrip(values, peak));
  };
  const lanes = [];
  if (spectrogram) lanes.push(lane(make("img", { src: spectrogram.src, alt: "" }), "of-spectrogram"));
  if (clip) lanes.push(lane(waveform(clip), "of-waveform"));
  return { lanes: lanes.length ? lanes : [lane(null, "empty")], peak };
}

/** Heat of one query over time; a click chooses the query where queries are times as well. */
function timeView({ layer, head, query, onquery, media = {} }) {
  const { lanes, peak } = timeLanes(layer.line(head, query), layer.keys, media);
  const own = layer.queries === layer.keys;
  const frame = make("div", { class: "time", role: "img", tabindex: own ? "0" : null, "aria-label": describeLine(layer, head, query) }, ...lanes);
  if (own && query >= 0) {
    const mark = make("div", { class: "chosen-time" });
    Object.assign(mark.style, { left: `${(100 * query) / layer.rows}%`, width: `${100 / layer.rows}%` });
    frame.append(mark);
  }
  if (own) {
    frame.addEventListener("click", (event) => {
      const box = frame.getBoundingClientRect();
      onquery(Math.max(0, Math.min(layer.rows - 1, Math.floor(((event.clientX - box.left) / box.width) * layer.rows))));
    });
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      onquery(Math.max(0, Math.min(layer.rows - 1, query + step)), true);
    });
  }
  return make("div", {}, frame, timeEnds(layer.keys, layer.columns),
    make("p", { class: "reading", text: `${describeLine(layer, head, query)}; full colour is ${shown(peak)}` }));
}

/** The two ends of an axis of time. */
function timeEnds(axis, columns) {
  const last = axis.seconds ? `${(columns * axis.seconds).toFixed(2)} s` : `frame ${axis.length}`;
  return make("div", { class: "ends" }, make("span", { text: axis.seconds ? "0 s" : "0" }), make("span", { text: last }));
}
