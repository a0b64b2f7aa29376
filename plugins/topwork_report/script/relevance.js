// Relevance of positions by several methods, such as rollout, beside the raw weights of the same row.

/** A small drawing of numbers on positions: over the image, over time, or on the tokens. */
function relevanceDrawing(name, values, axis, { image = null, media = {} } = {}) {
  const best = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, 3);
  const label = `${name}: most on ${best.map((at) => `${positionName(axis, at)} ${shown(values[at])}`).join("; ")}`;
  let drawing;
  if (axis.grid) drawing = heatPicture(values, axis, axis.seconds ? null : image, label).frame;
  else if (axis.frames) drawing = make("div", { class: "time", role: "img", "aria-label": label }, ...timeLanes(values, axis, media).lanes);
  else drawing = shadedTokens(values, axis);
  return make("figure", { class: "relevance-of" }, make("figcaption", { class: "small", text: name }), drawing, make("p", { class: "small soft", text: label.slice(name.length + 2) }));
}

/** Tokens, each shaded by its share of the largest number. */
function shadedTokens(values, axis) {
  const peak = largest(values);
  return make("p", { class: "shaded" }, ...[...values].map((value, at) => {
    const token = make("span", { class: "shaded-token", text: positionName(axis, at), title: shown(value) });
    const share = Math.min(1, Math.abs(value) / peak);
    const ground = mixed(colour("--card"), colour(value < 0 ? "--c0" : "--overlay"), 0.7 * share);
    Object.assign(token.style, { backgroundColor: `rgb(${ground.join(" ")})`, color: inkOn(ground) });
    return token;
  }));
}

/** The rows of all stages that computed relevance. */
function relevanceOf(all, role, row) {
  return all.flatMap((data) => data.rows.filter((entry) => data.role === role && entry.row === row && row !== null).map((entry) => ({ data, entry })));
}

class RelevanceView {
  /** @param {HTMLElement} place @param {Object<string, any>} data of one stage @param {Array<Object<string, any>>} attention where images and captions of the same rows are */
  constructor(place, data, attention) {
    this.data = data;
    this.attention = attention;
    this.at = 0;
    this.row = choice("row", data.rows.map((entry, at) => [String(at), this.nameOf(entry)]), (value) => {
      this.at = Number(value);
      this.draw();
      this.spoken.textContent = [...this.body.querySelectorAll("figure")].map((each) => `${each.firstChild.textContent}: ${each.lastChild.textContent}`).join(". ");
    });
    this.caption = make("p", { class: "small explorer-caption" });
    this.body = make("div", { class: "relevance-all" });
    this.spoken = make("p", { class: "spoken", role: "status" });
    place.replaceChildren(make("h3", { text: "Relevance of positions, method by method" }), make("div", { class: "controls" }, this.row.field), this.caption, this.body, this.spoken);
    place.hidden = false;
    for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => this.draw());
    this.draw();
  }

  /** The same row where its attention was kept; undefined for none. */
  sameRow(entry) {
    return this.attention.filter((data) => data.role === this.data.role).flatMap((data) => data.rows).find((row) => row.row === entry.row);
  }

  nameOf(entry) {
    const row = this.sameRow(entry);
    return row ? rowName(row) : String(entry.row ?? "–");
  }

  draw() {
    const entry = this.data.rows[this.at];
    const row = this.sameRow(entry);
    this.caption.textContent = row?.caption || "";
    const drawn = { image: row?.image ? imageOf(row.image) : null, media: row ? mediaOf(row) : {} };
    this.body.replaceChildren(...Object.entries(entry.methods).map(([name, values]) => relevanceDrawing(name, values, entry.axis, drawn)));
  }
}

/** Make every view of relevance of the page. */
function mountRelevance(all, attention) {
  for (const data of all) {
    const place = document.getElementById(`relevance-${data.anchor}`);
    if (place) new RelevanceView(place, data, attention);
  }
}
