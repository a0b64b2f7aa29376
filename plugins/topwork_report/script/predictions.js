// The table of predictions: sorted, filtered, opened row by row; cells of a confusion matrix choose its rows.

const PAGE_ROWS = 15;

class PredictionTable {
  /** @param {HTMLElement} place where it goes @param {Object<string, any>} data of one stage @param {Array<Object<string, any>>} attention data of the explorers */
  constructor(place, data, attention) {
    this.place = place;
    this.data = data;
    this.attention = attention;
    this.rank = data.order ? data.order.split(",")[0] : "rank";
    this.names = [...new Set(data.predictions.flatMap((line) => Object.keys(line.facts)))].filter((name) => name !== this.rank);
    this.sort = { name: "badness", down: true };
    this.filters = { text: "", truth: "", prediction: "", wrong: false };
    this.most = PAGE_ROWS;
    this.body = make("tbody");
    this.status = make("p", { class: "small soft", "aria-live": "polite" });
    this.more = make("button", { type: "button", class: "plain", text: "show more rows", onclick: () => { this.most += 10 * PAGE_ROWS; this.draw(); } });
    this.dialog = make("dialog", { "aria-label": "a prediction" });
    place.replaceChildren(make("h3", { text: "Table of predictions" }), this.toolbar(),
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "table of predictions" }, make("table", { class: "sortable" }, this.header(), this.body)),
      this.status, this.more, this.dialog);
    place.hidden = false;
    this.draw();
  }

  toolbar() {
    const change = (name) => (value) => { this.filters[name] = value; this.most = PAGE_ROWS; this.draw(); };
    const search = make("input", { type: "search", oninput: () => change("text")(search.value.toLowerCase()) });
    this.search = search;
    const fields = [make("label", { class: "field" }, make("span", { text: "contains" }), search)];
    for (const name of ["truth", "prediction"]) {
      const values = [...new Set(this.data.predictions.map((line) => line.facts[name]).filter((value) => value !== undefined && value !== null).map(String))];
      if (values.length < 2 || values.length > 60) continue;
      const field = choice(name, [["", "any"], ...values.sort().map((value) => [`=${value}`, value])], change(name));
      this[name] = field.select;
      fields.push(field.field);
    }
    if (this.names.includes("truth") && this.names.includes("prediction")) {
      const box = make("input", { type: "checkbox", onchange: () => change("wrong")(box.checked) });
      fields.push(make("label", { class: "field check" }, box, make("span", { text: "truth and prediction differ" })));
    }
    return make("div", { class: "controls", role: "search" }, ...fields);
  }

  header() {
    const columns = [["row", "row"], ["badness", this.rank], ...this.names.map((name) => [`fact ${name}`, name])];
    this.heads = new Map();
    const cells = columns.map(([key, name]) => {
      const button = make("button", { type: "button", class: "plain", text: name, onclick: () => {
        this.sort = { name: key, down: this.sort.name === key ? !this.sort.down : key === "badness" };
        this.draw();
      } });
      const isNumber = this.data.predictions.every((line) => typeof (this.value(line, key) ?? 0) === "number");
      const cell = make("th", { scope: "col", class: isNumber && key !== "row" ? "n" : null }, button);
      this.heads.set(key, cell);
      return cell;
    });
    return make("thead", {}, make("tr", {}, ...cells));
  }

  value(line, key) {
    if (key === "row") return line.row;
    if (key === "badness") return line.badness;
    return line.facts[key.slice(5)];
  }

  /** The rows that the filters leave, in the chosen order; rows without the value stand last. */
  chosen() {
    const { text, truth, prediction, wrong } = this.filters;
    const lines = this.data.predictions.filter((line) => {
      const { facts } = line;
      if (truth && String(facts.truth) !== truth.slice(1)) return false;
      if (prediction && String(facts.prediction) !== prediction.slice(1)) return false;
      if (wrong && String(facts.truth) === String(facts.prediction)) return false;
      return !text || [line.caption, line.row, ...Object.values(facts)].some((value) => String(value).toLowerCase().includes(text));
    });
    const { name, down } = this.sort;
    const direction = down ? -1 : 1;
    return lines.sort((first, second) => {
      const [a, b] = [this.value(first, name), this.value(second, name)];
      if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
      if (b === null || b === undefined) return -1;
      if (typeof a === "number" && typeof b === "number") return direction * (a - b);
      return direction * String(a).localeCompare(String(b), "en", { numeric: true });
    });
  }

  draw() {
    for (const [key, cell] of this.heads) {
      if (key === this.sort.name) cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    const lines = this.chosen();
    this.body.replaceChildren(...lines.slice(0, this.most).map((line) => this.row(line)));
    const listed = this.data.predictions.length;
    const kept = this.data.rows > listed ? `${listed} of ${shown(this.data.rows)} rows are listed${this.data.order ? `, by ${this.data.order}` : ""}` : `all ${shown(listed)} rows are listed`;
    this.status.textContent = `${shown(lines.length)} of them match; ${kept}.`.replace(/^(\S+) of them match; (all .*)$/, "$1 match; $2");
    this.more.hidden = lines.length <= this.most;
  }

  row(line) {
    const open = make("button", { type: "button", class: "plain", text: line.row ?? "–", "aria-label": `open row ${line.row}`, onclick: () => this.open(line) });
    const isWrong = line.facts.truth !== undefined && String(line.facts.truth) !== String(line.facts.prediction);
    const cells = [make("td", {}, open), ...["badness", ...this.names.map((name) => `fact ${name}`)].map((key) => {
      const value = this.value(line, key);
      return make("td", { class: typeof value === "number" ? "n" : "words", text: shown(value) });
    })];
    return make("tr", { class: isWrong ? "is-wrong" : null }, ...cells);
  }

  /** Open a row: its picture where it was drawn, its numbers, and its attention where it was kept. */
  open(line) {
    const card = line.picture === null || line.picture === undefined ? null : document.getElementById(`card-${this.data.anchor}-${line.picture}`);
    const facts = make("dl", { class: "facts small" });
    for (const [name, value] of [["row", line.row], ...Object.entries(line.facts)]) {
      facts.append(make("div", {}, make("dt", { text: name }), make("dd", { text: shown(value) })));
    }
    const links = this.attention.flatMap((data) => data.rows.map((row, at) => ({ data, row, at })))
      .filter(({ data, row }) => data.role === this.data.role && row.row === line.index)
      .map(({ data, at }) => make("button", { type: "button", text: `attention of this row (${data.title})`, onclick: () => {
        this.dialog.close();
        const place = document.getElementById(`explorer-${data.anchor}`);
        place.explorer.set({ row: at, query: null });
        place.scrollIntoView({ block: "start" });
        place.explorer.row.select.focus();
      } }));
    const copy = card ? card.cloneNode(true) : make("p", { text: line.caption });
    if (card) copy.removeAttribute("id");
    this.dialog.replaceChildren(make("div", { class: "opened" }, copy, facts, ...links,
      make("form", { method: "dialog" }, make("button", { text: "close" }))));
    this.dialog.showModal();
  }

  /** Show the rows with a truth and a prediction alone: a cell of a confusion matrix. */
  choose(truth, prediction) {
    this.filters = { text: "", truth: `=${truth}`, prediction: `=${prediction}`, wrong: false };
    this.search.value = "";
    for (const name of ["truth", "prediction"]) if (this[name]) this[name].value = this.filters[name];
    const box = this.place.querySelector("input[type='checkbox']");
    if (box) box.checked = false;
    this.draw();
    this.place.scrollIntoView({ block: "nearest" });
    this.body.querySelector("button")?.focus();
  }
}

/** Let the cells of a stage's confusion matrices choose the rows of its table. */
function connectConfusion(table, section) {
  const labels = new Set(table.data.predictions.flatMap((line) => [String(line.facts.truth), String(line.facts.prediction)]));
  const cells = [...section.querySelectorAll("g[data-truth]")].filter((cell) => labels.has(cell.dataset.truth) && labels.has(cell.dataset.prediction));
  for (const cell of cells) {
    const { truth, prediction } = cell.dataset;
    cell.closest("svg").setAttribute("role", "group");
    cell.setAttribute("role", "button");
    cell.setAttribute("tabindex", "0");
    cell.setAttribute("aria-label", `rows with truth ${truth} and prediction ${prediction}`);
    cell.classList.add("opens");
    cell.addEventListener("click", () => table.choose(truth, prediction));
    cell.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      table.choose(truth, prediction);
    });
  }
}

/** Make every table of predictions of the page. */
function mountPredictions(all, attention) {
  for (const data of all) {
    const place = document.getElementById(`predictions-${data.anchor}`);
    if (!place) continue;
    const table = new PredictionTable(place, data, attention);
    connectConfusion(table, document.getElementById(data.anchor) || document);
  }
}
