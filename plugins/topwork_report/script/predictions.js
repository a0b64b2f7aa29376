// The table of predictions: sorted, filtered, opened row by row; cells of a confusion matrix choose its rows.

const PAGE_ROWS = 15;

class PredictionTable {
  /** @param {HTMLElement} place where it goes @param {Object<string, any>} data of one stage @param {Array<Object<string, any>>} attention data of the explorers @param {Array<Object<string, any>>} relevance of all stages */
  constructor(place, data, attention, relevance) {
    this.place = place;
    this.data = data;
    this.attention = attention;
    this.relevance = relevance;
    this.rank = data.order ? data.order.split(",")[0] : "rank";
    this.names = [...new Set(data.predictions.flatMap((line) => Object.keys(line.facts)))].filter((name) => name !== this.rank);
    this.isTruthKnown = this.names.includes("truth") && this.names.includes("prediction");
    this.sort = { name: "badness", down: true };
    this.filters = { text: "", truth: "", prediction: "", wrong: false, slice: null };
    this.slices = slicesOf(data.predictions, ["truth", "prediction", "shown"]);
    this.most = PAGE_ROWS;
    this.body = make("tbody");
    this.status = make("p", { class: "small soft", "aria-live": "polite" });
    this.more = make("button", { type: "button", class: "plain", text: "show more rows", onclick: () => { this.most += 10 * PAGE_ROWS; this.draw(); } });
    this.all = make("button", { type: "button", class: "plain", text: "show all rows", onclick: () => { this.filter({}); this.search.focus(); } });
    this.dialog = make("dialog", { "aria-label": "a prediction" });
    place.replaceChildren(make("h3", { text: "Table of predictions" }), this.toolbar(),
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "table of predictions" }, make("table", { class: "sortable", "aria-label": "predictions" }, this.header(), this.body)),
      this.status, make("p", { class: "table-buttons" }, this.all, this.more), this.dialog);
    place.hidden = false;
    this.draw();
  }

  toolbar() {
    const change = (name) => (value) => { this.filters[name] = value; this.most = PAGE_ROWS; this.draw(); };
    const search = make("input", { type: "search", oninput: () => change("text")(search.value.toLowerCase()) });
    this.search = search;
    const fields = [this.orders(), make("label", { class: "field" }, make("span", { text: "contains" }), search)];
    for (const name of ["truth", "prediction"]) {
      const values = [...new Set(this.data.predictions.map((line) => line.facts[name]).filter((value) => value !== undefined && value !== null).map(String))];
      if (values.length < 2 || values.length > 60) continue;
      const field = choice(name, [["", "any"], ...values.sort().map((value) => [`=${value}`, value])], change(name));
      this[name] = field.select;
      fields.push(field.field);
    }
    if (this.slices.size) fields.push(...this.sliceFields());
    if (this.isTruthKnown) {
      const box = make("input", { type: "checkbox", onchange: () => change("wrong")(box.checked) });
      fields.push(make("label", { class: "field check" }, box, make("span", { text: "truth and prediction differ" })));
    }
    return make("div", { class: "controls", role: "search" }, ...fields);
  }

  /** The choice of an order: the ones that readers ask for by name. */
  orders() {
    const sorts = { worst: { name: "badness", down: true }, best: { name: "badness", down: false }, row: { name: "row", down: false } };
    const names = [["worst", "worst first"], ["best", "best first"], ["row", "by row"]];
    if (this.names.includes("confidence")) {
      sorts.uncertain = { name: "fact confidence", down: false };
      names.splice(1, 0, ["uncertain", "most uncertain first"]);
    }
    const field = choice("order", [...names, ["", "by a column"]], (value) => { if (sorts[value]) { this.sort = { ...sorts[value] }; this.draw(); } });
    this.order = { select: field.select, sorts };
    return field.field;
  }

  /** Two choices: what the rows are sliced by, and the slice. */
  sliceFields() {
    const values = choice("is", [], (value) => {
      const name = by.select.value.slice(1);
      this.filters.slice = value === "" ? null : { name, test: this.slices.get(name)[Number(value)][1] };
      this.most = PAGE_ROWS;
      this.draw();
    });
    const by = choice("slice by", [["", "nothing"], ...[...this.slices.keys()].map((name) => [`=${name}`, this.nameOf(name)])], () => {
      const name = by.select.value.slice(1);
      refill(values.select, [["", "any"], ...(this.slices.get(name) || []).map(([label], at) => [String(at), label])], "");
      values.field.hidden = !this.slices.has(name);
      this.filters.slice = null;
      this.draw();
    });
    values.field.hidden = true;
    this.slice = { by: by.select, values };
    return [by.field, values.field];
  }

  header() {
    const columns = [["row", "row"], ["badness", this.rank], ...this.textColumns(), ...this.names.filter((name) => name !== "shown").map((name) => [`fact ${name}`, this.nameOf(name)])];
    this.heads = new Map();
    const cells = columns.map(([key, name]) => {
      const button = make("button", { type: "button", class: "plain", text: name, title: key.startsWith("fact ") && key !== "fact shown" && key.slice(5) !== name ? key.slice(5) : null, onclick: () => {
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

  /** The column with the text of the rows; with their captions where neither texts nor truth and prediction say what a row is. */
  textColumns() {
    if (this.names.includes("shown")) return [["fact shown", "content"]];
    if (this.data.predictions.some((line) => line.text)) return [["text", "content"]];
    return this.isTruthKnown ? [] : [["caption", "prediction"]];
  }

  /** The name of a fact as a column has it. */
  nameOf(name) {
    return (this.data.names || {})[name] || name;
  }

  value(line, key) {
    if (key === "row" || key === "text" || key === "caption") return line[key];
    if (key === "badness") return line.badness;
    return line.facts[key.slice(5)];
  }

  /** The rows that the filters leave, in the chosen order; rows without the value stand last. */
  chosen() {
    const { text, truth, prediction, wrong, slice } = this.filters;
    const lines = this.data.predictions.filter((line) => {
      const { facts } = line;
      if (slice && (facts[slice.name] === null || facts[slice.name] === undefined || !slice.test(facts[slice.name]))) return false;
      if (truth && String(facts.truth) !== truth.slice(1)) return false;
      if (prediction && String(facts.prediction) !== prediction.slice(1)) return false;
      if (wrong && String(facts.truth) === String(facts.prediction)) return false;
      return !text || [line.caption, line.text, line.row, ...Object.values(facts)].some((value) => String(value).toLowerCase().includes(text));
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
    const order = Object.entries(this.order.sorts).find(([, sort]) => sort.name === this.sort.name && sort.down === this.sort.down);
    this.order.select.value = order ? order[0] : "";
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
    this.all.hidden = lines.length === listed;
  }

  row(line) {
    const open = make("button", { type: "button", class: "plain", text: line.row ?? "–", "aria-label": `open row ${line.row}`, onclick: () => this.open(line) });
    const isWrong = line.facts.truth !== undefined && String(line.facts.truth) !== String(line.facts.prediction);
    const cells = [make("td", {}, open), ...[...this.heads.keys()].slice(1).map((key) => {
      const value = this.value(line, key);
      return make("td", { class: typeof value === "number" ? "n" : "words", text: key === "text" && !value ? "" : shown(value) });
    })];
    return make("tr", { class: isWrong ? "is-wrong" : null }, ...cells);
  }

  /** Open a row: its picture where it was drawn, its numbers, and its attention where it was kept. */
  open(line) {
    const card = line.picture === null || line.picture === undefined ? null : document.getElementById(`card-${this.data.anchor}-${line.picture}`);
    const facts = make("dl", { class: "facts small" });
    for (const [name, value] of [["row", line.row], ...Object.entries(line.facts)]) {
      facts.append(make("div", {}, make("dt", { text: this.nameOf(name) }), make("dd", { text: shown(value) })));
    }
    const copy = card ? card.cloneNode(true) : make("p", { text: line.caption });
    if (card) copy.removeAttribute("id");
    const attention = make("div", { class: "opened-attention" });
    this.dialog.replaceChildren(make("form", { method: "dialog" }, make("button", { text: "close" })),
      make("div", { class: "opened" }, make("div", { class: "opened-row" }, copy, facts), attention));
    this.dialog.showModal();
    this.openAttention(line, attention);
  }

  /** Show the attention of a row in the dialog, where a stage kept it; else say how to keep it. */
  openAttention(line, place) {
    const kept = this.attention.flatMap((data) => data.rows.map((row) => ({ data, row })))
      .filter(({ data, row }) => data.role === this.data.role && row.row === line.index && line.index !== null);
    if (!kept.length) {
      const rows = [...new Set(this.attention.filter((data) => data.role === this.data.role).flatMap((data) => data.rows.map((row) => row.row)))];
      place.append(make("p", { class: "small soft", text: rows.length ? `The attention of this row was not kept. It was of the rows ${rows.join(", ")}: the stage that keeps it has options for more.` : "No stage of this run kept the attention of these rows." }));
      return;
    }
    for (const { data, row } of kept) {
      const inside = make("div", { class: "explorer" });
      place.append(make("p", { class: "small soft", text: data.title }), inside);
      new AttentionExplorer(inside, { ...data, rows: [row] }, this.relevance);
    }
  }

  /** Filter by a truth and a prediction, each "=label", and by nothing else; of nothing at all, show all rows. */
  filter({ truth = "", prediction = "" }) {
    this.filters = { text: "", truth, prediction, wrong: false, slice: null };
    if (this.slice) {
      this.slice.by.value = "";
      this.slice.values.field.hidden = true;
    }
    this.search.value = "";
    for (const name of ["truth", "prediction"]) if (this[name]) this[name].value = this.filters[name];
    const box = this.place.querySelector("input[type='checkbox']");
    if (box) box.checked = false;
    this.most = PAGE_ROWS;
    this.draw();
  }

  /** Show the rows with a truth and a prediction alone: a cell of a confusion matrix. */
  choose(truth, prediction) {
    this.filter({ truth: `=${truth}`, prediction: `=${prediction}` });
    this.place.scrollIntoView({ block: "nearest" });
    this.body.querySelector("button")?.focus();
  }
}

/** Let the counts in a stage's tables of confusions choose the rows of its table of predictions. */
function connectCounts(table, section, labels) {
  for (const line of section.querySelectorAll("tr[data-truth]")) {
    const { truth, prediction } = line.dataset;
    if (!labels.has(truth) || !labels.has(prediction)) continue;
    const cell = line.lastElementChild;
    cell.replaceChildren(make("button", { type: "button", class: "plain", text: cell.textContent, "aria-label": `rows with truth ${truth} and prediction ${prediction}`, onclick: () => table.choose(truth, prediction) }));
  }
}

/** Let the cells of a stage's confusion matrices choose the rows of its table. */
function connectConfusion(table, section) {
  const labels = new Set(table.data.predictions.flatMap((line) => [String(line.facts.truth), String(line.facts.prediction)]));
  connectCounts(table, section, labels);
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
function mountPredictions(all, attention, relevance) {
  for (const data of all) {
    const place = document.getElementById(`predictions-${data.anchor}`);
    if (!place) continue;
    const table = new PredictionTable(place, data, attention, relevance);
    connectConfusion(table, document.getElementById(data.anchor) || document);
  }
}
