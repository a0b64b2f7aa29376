"""The page of a service to try its model by hand: one file, no script from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topwork_workbench.serving.inputs import Inputs

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$TASK</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
label { display: block; margin: 1rem 0 .25rem }
textarea, input { width: 100%; box-sizing: border-box; font: inherit }
textarea { min-height: 5rem }
button { font: inherit; margin: 1rem 0; padding: .4rem 1rem }
pre { overflow: auto; padding: 1rem; border: 1px solid; white-space: pre-wrap; overflow-wrap: anywhere }
</style>
<h1>$TASK</h1>
<form id="form">
$FIELDS
<label for="parameters">parameters, as JSON ($KNOWN)</label>
<input id="parameters" value="{}">
<button>Predict</button>
</form>
<pre id="result" role="status" aria-live="polite"></pre>
<script>
const columns = $COLUMNS;
const read = file => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.onerror = fail;
  reader.readAsDataURL(file);
});
document.getElementById("form").addEventListener("submit", async event => {
  event.preventDefault();
  const result = document.getElementById("result");
  result.textContent = "...";
  try {
    const inputs = {};
    for (const [name, kind] of Object.entries(columns)) {
      const field = document.getElementById("input-" + name);
      if (kind === "file") { if (field.files.length) inputs[name] = await read(field.files[0]); }
      else if (field.value) inputs[name] = kind === "text" ? field.value : JSON.parse(field.value);
    }
    const parameters = JSON.parse(document.getElementById("parameters").value || "{}");
    const response = await fetch("/", {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({inputs, parameters}),
    });
    result.textContent = JSON.stringify(await response.json(), null, 1);
  } catch (error) {
    result.textContent = String(error);
  }
});
</script>
</html>
"""


def page(task: str, inputs: Inputs, parameters: Mapping[str, str]) -> str:
    """Return the page as HTML.

    Args:
        task: its name.
        inputs: whose columns become fields.
        parameters: that may be given.
    """
    fields, kinds = [], {}
    for name, column in inputs.columns.items():
        file, written = name in inputs.files, column.kind == "text"
        kinds[name] = "file" if file else "text" if written else "json"
        note = "" if column.required else ", optional"
        shown = html.escape(f"{name}{note}{'' if file or written else ', as JSON'}: {column.description}")
        mark = html.escape(f"input-{name}")
        field = f'<input type="file" id="{mark}">' if file else f'<textarea id="{mark}"></textarea>'
        fields.append(f'<label for="{mark}">{shown}</label>\n{field}')
    # "<" could end the script
    columns = json.dumps(kinds).replace("<", "\\u003c")
    known = html.escape(", ".join(sorted(parameters)) or "none")
    parts = {"TASK": html.escape(task), "FIELDS": "\n".join(fields), "KNOWN": known, "COLUMNS": columns}
    text = _PAGE
    for name, part in parts.items():
        text = text.replace(f"${name}", part)
    return text
