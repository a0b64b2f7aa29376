// Elements, data and numbers: what every view of the page is made of.
// Text from data goes into the page by `textContent` alone; nothing here or elsewhere reads data as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * @param {string} tag name; of SVG when it begins with "svg:"
 * @param {Object<string, any>} options attributes; `text` is its text, functions are listeners ("onclick")
 * @param {...(Node|null)} children
 */
function make(tag, options = {}, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = String(value);
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** The data of the page: see page_data.py. */
function pageData() {
  const script = document.getElementById("topwork-data");
  return script ? JSON.parse(script.textContent || "{}") : {};
}

/** Bytes of a base64 text. @param {string} text */
function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** A number as the rest of the page writes it: four significant digits, a dash for none. */
function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return "–";
  const text = Number.isInteger(value) ? (Math.abs(value) < 10000 ? String(value) : value.toLocaleString("en-US")) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

/** A labelled choice. @param {string} label @param {Array<[string, string]>} entries values and their names */
function choice(label, entries, onchange) {
  const select = make("select", { onchange: () => onchange(select.value) });
  for (const [value, name] of entries) select.append(make("option", { value, text: name }));
  return { select, field: make("label", { class: "field" }, make("span", { text: label }), select) };
}

/** Fill a choice again, and keep what was chosen where it is still there. */
function refill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, name]) => make("option", { value, text: name })));
  if (entries.some(([value]) => value === chosen)) select.value = chosen;
}

/** Let arrow keys move the focus in a grid of elements, of which one takes part in the order of the tab key. */
function arrows(elements, columns, first = 0) {
  elements.forEach((element, at) => {
    element.setAttribute("tabindex", at === Math.max(0, first) ? "0" : "-1");
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const next = step === undefined ? undefined : elements[at + step];
      if (!next) return;
      event.preventDefault();
      element.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

/** The colour of a custom property, in the page's present colours. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A mixture of two colours like #a1b2c3, as [red, green, blue]; a share of 1 is the second alone. */
function mixed(first, second, share) {
  const parts = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  const [from, to] = [parts(first), parts(second)];
  return from.map((part, at) => Math.round(part + share * (to[at] - part)));
}

/** Black or white, whichever has the larger contrast on [red, green, blue] (WCAG 2): always at least 4.5. */
function inkOn(ground) {
  const [red, green, blue] = ground.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) ** 2 > 0.05 * 1.05 ? "#000" : "#fff";
}

/** The colours of the scale, from low to high. */
function scaleColours() {
  const colours = [];
  for (let step = 0; colour(`--s${step}`); step += 1) colours.push(colour(`--s${step}`));
  return colours;
}

/** Draw a matrix on a canvas, `cell` pixels a cell; the colour of a cell is its share of the peak. */
function drawMatrix(canvas, rows, columns, cell, value, peak) {
  canvas.width = Math.max(1, columns * cell);
  canvas.height = Math.max(1, rows * cell);
  const context = canvas.getContext("2d");
  const colours = scaleColours();
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const share = peak > 0 ? Math.min(1, value(row, column) / peak) : 0;
      context.fillStyle = colours[Math.round(share * (colours.length - 1))] || "#888";
      context.fillRect(column * cell, row * cell, cell, cell);
    }
  }
}
