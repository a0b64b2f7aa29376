// The attention explorer: a row, a layer, an attention head and a query are chosen; the views are attention_views.js.

const VIEWS = { lines: "lines between tokens", heat: "over the image", time: "over time", matrix: "matrix" };

class AttentionExplorer {
  /** @param {HTMLElement} place where it goes @param {Object<string, any>} data of one stage @param {Array<Object<string, any>>} relevance of all stages */
  constructor(place, data, relevance = []) {
    this.place = place;
    this.rows = data.rows;
    this.role = data.role;
    this.relevance = relevance;
    this.layers = new Map();
    this.state = { row: 0, layer: 0, head: -1, query: -1, view: "" };
    this.row = choice("row", this.rows.map((row, at) => [String(at), rowName(row)]), (value) => this.set({ row: Number(value), query: null }));
    this.layer = choice("layer", [], (value) => this.set({ layer: Number(value), query: null }));
    this.head = choice("attention head", [], (value) => this.set({ head: Number(value) }));
    this.query = choice("from", [], (value) => this.set({ query: Number(value) }));
    this.view = choice("view", [], (value) => this.set({ view: value }));
    const controls = make("div", { class: "controls", role: "group", "aria-label": "what is shown" },
      this.row.field, this.layer.field, this.head.field, this.query.field, this.view.field);
    this.caption = make("p", { class: "small explorer-caption" });
    this.media = make("div", { class: "media" });
    this.body = make("div", { class: "view" });
    this.overview = make("div", { class: "overview" });
    this.compared = make("div", { class: "compared" });
    this.note = make("p", { class: "small soft" });
    this.spoken = make("p", { class: "spoken", role: "status" }); // stays: screen readers announce no region that was made anew
    place.replaceChildren(make("h3", { text: "Attention, head by head" }), controls, this.caption, this.media,
      make("div", { class: "beside" }, this.body, this.overview), this.note, this.spoken, this.compared);
    place.hidden = false;
    this.set({ ...this.firstChoice(data.first), query: null }, false, true);
    for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => this.draw());
  }

  /** The layer and the attention head that are shown first, by the numbers that the data names them by. */
  firstChoice(first) {
    if (!first) return {};
    const layers = this.chosenLayers();
    const [group, number] = first.layer || [];
    const layer = Math.max(0, layers.findIndex((each) => each.group === group && each.number === number));
    return { layer, head: layers[layer].indices.indexOf(first.head) };
  }

  /** The layer and the attention head in the present row by the layer's path and the head's original index; null for none. */
  findHead(path, index) {
    const layers = this.chosenLayers();
    const layer = layers.findIndex((each) => each.path === path);
    const head = layer < 0 ? -1 : layers[layer].indices.indexOf(index);
    return head < 0 ? null : { layer, head };
  }

  /** Open an attention head, and lead the reader there. */
  showHead(path, index) {
    const found = this.findHead(path, index);
    if (!found) return;
    this.set({ ...found, query: null });
    this.place.scrollIntoView({ block: "start" });
    this.head.select.focus({ preventScroll: true });
  }

  /** Layers of the chosen row, decoded when they are first wanted. */
  chosenLayers() {
    const at = this.state.row;
    if (!this.layers.has(at)) {
      const row = this.rows[at];
      this.layers.set(at, row.heads.map((entry) => new LayerWeights(entry, row.axes)));
    }
    return this.layers.get(at);
  }

  /** Change what is shown. A query of null is the best box, else the first special position of an image, else all. */
  set(changes, keepsFocus = false, isQuiet = false) {
    const state = Object.assign(this.state, changes);
    const layers = this.chosenLayers();
    state.layer = Math.min(state.layer, layers.length - 1);
    const layer = layers[state.layer];
    state.head = Math.min(state.head, layer.heads - 1);
    if (state.query === null) state.query = firstQuery(layer.queries);
    state.query = Math.min(state.query, layer.rows - 1);
    const views = viewsOf(layer);
    if (!views.includes(state.view)) state.view = views[0];
    refill(this.layer.select, layers.map((each, at) => [String(at), layerName(each, layers)]), String(state.layer));
    refill(this.head.select, [["-1", "mean of all"], ...layer.indices.map((index, at) => [String(at), String(index)])], String(state.head));
    refill(this.query.select, [["-1", "all positions"], ...[...Array(layer.rows).keys()].map((at) => [String(at), positionName(layer.queries, at)])], String(state.query));
    refill(this.view.select, views.map((name) => [name, VIEWS[name]]), state.view);
    this.row.select.value = String(state.row);
    this.row.field.hidden = this.rows.length < 2;
    this.draw();
    this.spoken.textContent = isQuiet ? "" : this.sentence();
    if (keepsFocus) this.body.querySelector("[tabindex='0']")?.focus();
  }

  /** What is shown, as a screen reader says it after a choice. */
  sentence() {
    const { row, head, query } = this.state;
    const layers = this.chosenLayers();
    const layer = layers[this.state.layer];
    return `row ${this.rows[row].row}, layer ${layerName(layer, layers)}, ${head < 0 ? "mean of all attention heads" : `attention head ${layer.indices[head]}`}, ${describeLine(layer, head, query)}`;
  }

  draw() {
    const { row, head, query, view } = this.state;
    const layers = this.chosenLayers();
    const layer = layers[this.state.layer];
    const entry = this.rows[row];
    this.caption.textContent = entry.caption || "";
    this.showPlayer(entry, layer);
    const image = entry.image ? imageOf(entry.image) : null;
    const media = mediaOf(entry);
    const options = { layer, head, query, layers, media, image: layer.keys.seconds ? null : image, onquery: (at, keeps) => this.set({ query: at }, keeps),
      onopen: (opened, index) => {
        this.set({ layer: layers.indexOf(opened), head: index, query: opened.queries === layer.queries ? query : null });
        this.overview.querySelector("[aria-current]")?.focus();
      } };
    const draw = { lines: linesView, heat: heatView, time: timeView, matrix: matrixView }[view];
    const beside = layer.queries.boxes && options.image && !layer.keys.grid ? [boxesPicture(options)] : [];
    this.body.replaceChildren(...beside, draw(options));
    this.overview.replaceChildren(make("p", { class: "small soft", text: "All attention heads, each on its own scale; choose one to open it." }), allHeadsView(options));
    this.query.field.hidden = view === "matrix";
    this.compared.replaceChildren(...this.compare(entry, layer, options));
    this.note.textContent = [axisNote(layer.queries, "From"), layer.keys === layer.queries ? "" : axisNote(layer.keys, "To"),
      view === "lines" ? `The strongest line is ${shown(query < 0 ? layer.peak(head) : largest(layer.line(head, query)))}${layer.rows * layer.columns > MOST_LINES ? `; the ${MOST_LINES} strongest lines are drawn` : ""}. Choose a token to see its lines alone.` : "",
      layer.queries.name === "target" && entry.decoder ? ` The decoder reads ${entry.decoder}.` : "", entry.note || ""].join("").trim();
  }

  /** Show the player of a row: while the clip plays, the query follows it. The spectrogram stands beside it where no view has it. */
  showPlayer(entry, layer) {
    const key = `${entry.audio} ${layer.keys.frames}`;
    if (this.shownMedia === key) return; // a clip that plays goes on
    this.shownMedia = key;
    const source = entry.audio ? document.getElementById(entry.audio) : null;
    if (!source) {
      this.media.replaceChildren();
      return;
    }
    const player = make("audio", { controls: true, preload: "none", src: source.getAttribute("src"), "aria-label": source.getAttribute("aria-label") });
    player.addEventListener("timeupdate", () => {
      const { seconds, grid } = this.chosenLayers()[this.state.layer].queries;
      if (player.paused || !seconds || grid || this.state.view !== "time") return;
      const layerNow = this.chosenLayers()[this.state.layer];
      this.set({ query: Math.min(layerNow.rows - 1, Math.floor(player.currentTime / seconds)) }, false, true);
    });
    const image = entry.image ? imageOf(entry.image) : null;
    const alone = image && !layer.keys.frames;
    this.media.replaceChildren(...(alone ? [make("img", { src: image.src, alt: "spectrogram of the clip: time to the right, low notes at the bottom", class: "spectrogram" })] : []), player);
  }

  /** What rollout and relevance say of the row, beside the raw weights that are chosen. */
  compare(entry, layer, drawn) {
    const rows = relevanceOf(this.relevance, this.role, entry.row).filter(({ entry: row }) => row.axis.length === layer.keys.length && row.axis.shown === layer.columns);
    if (!rows.length) return [];
    const raw = relevanceDrawing(`raw weights${this.state.head < 0 ? ", mean of the heads" : ""}`, layer.line(this.state.head, this.state.query), layer.keys, drawn);
    return [make("h4", { text: `Beside the raw weights: what ${rows.map(({ data }) => data.title).join(" and ")} says of this row` }),
      make("div", { class: "relevance-all" }, raw, ...rows.flatMap(({ entry: row }) => Object.entries(row.methods).filter(([name]) => name !== "attention").map(([name, values]) => relevanceDrawing(name, values, row.axis, drawn))))];
  }
}

/** The image and the clip of a row, as drawings over time take them. */
function mediaOf(entry) {
  const player = entry.audio ? document.getElementById(entry.audio) : null;
  if (!player) return {};
  if (player.clip === undefined) player.clip = readClip(player); // read once
  return { spectrogram: entry.image ? imageOf(entry.image) : null, clip: player.clip };
}

/** The query that is shown first: the one with the best box, the class token of an image, else all. */
function firstQuery(axis) {
  if (axis.boxes?.length) return axis.boxes.reduce((best, box) => (box[2] > best[2] ? box : best))[0];
  return axis.grid && axis.special.length ? axis.special[0] : -1;
}

/** The views that a layer has, the best first. */
function viewsOf(layer) {
  if (layer.keys.grid) return ["heat", "matrix"];
  if (layer.keys.frames) return ["time", "matrix"];
  return ["lines", "matrix"];
}

/** The name of a row in the list of rows. */
function rowName(row) {
  const text = (row.caption || "").slice(0, 40);
  return text ? `${row.row}: ${text}${row.caption.length > 40 ? "…" : ""}` : String(row.row);
}

/** The source of an image that stands on the page already. */
function imageOf(id) {
  const element = document.getElementById(id);
  if (!element) return null;
  return { src: element.getAttribute("src") || element.getAttribute("href"), small: element.classList.contains("pixels") };
}

/** Make every explorer of the page. */
function mountAttention(all, relevance) {
  for (const data of all) {
    const place = document.getElementById(`explorer-${data.anchor}`);
    if (!place) continue;
    const explorer = new AttentionExplorer(place, data, relevance);
    place.explorer = explorer;
    const means = document.getElementById(`means-${data.anchor}`);
    if (means) means.removeAttribute("open");
  }
}
