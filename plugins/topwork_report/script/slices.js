// Slices of predictions: rows with one value of a fact, or in one quarter of its numbers.

const MOST_SLICES = 60;
const DISTINCT = 10; // numbers with more values than this are cut into quarters

/** The slices of predictions by their facts: name -> [[label, test], ...]; facts that make fewer than two are left out. */
function slicesOf(predictions, without) {
  const slices = new Map();
  for (const name of new Set(predictions.flatMap((line) => Object.keys(line.facts)))) {
    if (without.includes(name)) continue;
    const values = predictions.map((line) => line.facts[name]).filter((value) => value !== null && value !== undefined);
    const distinct = [...new Set(values)];
    const numeric = values.every((value) => typeof value === "number");
    const made = numeric && distinct.length > DISTINCT ? quarters(values) : distinct.sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true })).map((value) => [shown(value), (other) => other === value]);
    if (made.length > 1 && made.length <= MOST_SLICES && made.length < values.length) slices.set(name, made);
  }
  return slices;
}

/** The quarters of numbers, as [[label, test], ...]; quarters that hold the same numbers are one. */
function quarters(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const edges = [...new Set([0.25, 0.5, 0.75].map((share) => sorted[Math.floor(share * (sorted.length - 1))]))];
  const made = edges.map((edge, at) => [at ? `over ${shown(edges[at - 1])} up to ${shown(edge)}` : `up to ${shown(edge)}`, (value) => value <= edge && (at === 0 || value > edges[at - 1])]);
  const last = edges[edges.length - 1];
  if (sorted[sorted.length - 1] > last) made.push([`over ${shown(last)}`, (value) => value > last]);
  return made;
}
