// Attention weights of a row: decoded once, read by layer, attention head, query and key.

/** The weights of one layer on one row. */
class LayerWeights {
  /** @param {Object<string, any>} entry of `heads` in the data @param {Array<Object<string, any>>} axes of the row */
  constructor(entry, axes) {
    this.group = entry.group;
    this.number = entry.number;
    this.path = entry.path;
    this.indices = entry.indices;
    [this.heads, this.rows, this.columns] = entry.shape;
    this.queries = axes[entry.queries];
    this.keys = axes[entry.keys];
    this.bytes = bytesOf(entry.weights);
    const scale = bytesOf(entry.scale);
    this.scale = new Float64Array(this.heads * this.rows);
    for (let at = 0; at < this.scale.length; at += 1) this.scale[at] = (scale[2 * at] + 256 * scale[2 * at + 1]) / 65535;
  }

  /** The weight of a key for a query; of head -1 the mean over the attention heads. */
  at(head, query, key) {
    if (head < 0) {
      let sum = 0;
      for (let each = 0; each < this.heads; each += 1) sum += this.at(each, query, key);
      return sum / this.heads;
    }
    const line = head * this.rows + query;
    return (this.bytes[line * this.columns + key] / 255) * this.scale[line];
  }

  /** The weights of all keys for a query; of query -1 the mean over the queries. */
  line(head, query) {
    const values = new Float64Array(this.columns);
    for (let key = 0; key < this.columns; key += 1) {
      if (query >= 0) values[key] = this.at(head, query, key);
      else for (let row = 0; row < this.rows; row += 1) values[key] += this.at(head, row, key) / this.rows;
    }
    return values;
  }

  /** The largest weight of an attention head. */
  peak(head) {
    let most = 0;
    for (let query = 0; query < this.rows; query += 1) {
      for (let key = 0; key < this.columns; key += 1) most = Math.max(most, this.at(head, query, key));
    }
    return most;
  }
}

/** The name of a position: its token, the special position or patch, the time, else its number. */
function positionName(axis, at) {
  const box = (axis.boxes || []).find(([position]) => position === at);
  if (box) return `query ${at - axis.boxes[0][0]}: ${box[1]} ${box[2].toFixed(2)}`;
  if (axis.names) return axis.names[at].trim() === "" ? "␣" : axis.names[at].replaceAll("\n", "↵").trim();
  if (axis.grid) {
    const special = (axis.special || []).indexOf(at);
    if (special >= 0) return axis.special.length === 1 ? "class token" : `special position ${special}`;
    const patch = at - axis.special.length;
    return `patch ${Math.floor(patch / axis.grid[1])}, ${patch % axis.grid[1]}`;
  }
  if (axis.seconds) return `${(at * axis.seconds).toFixed(2)} s`;
  return `position ${at * (axis.merged || 1)}`;
}

/** What was merged or cut of an axis, as a sentence; empty when nothing was. */
function axisNote(axis, what) {
  if (axis.inferred) return `${what}: ${axis.length} positions, laid over the image as if they tiled it row by row${axis.merged > 1 ? `; squares of ${axis.merged} × ${axis.merged} are one here` : ""}. `;
  if (axis.grid && axis.merged > 1) return `${what}: squares of ${axis.merged} × ${axis.merged} patches are one here. `;
  if (axis.frames && axis.merged > 1) return `${what}: ${axis.merged} frames are one here. `;
  if (!axis.grid && !axis.frames && axis.shown < axis.length) return `${what}: the first ${axis.shown} of ${axis.length} positions. `;
  return "";
}
