"""What the tests of recipes share: the plugin whose tasks and stages they name, and a recipe that is right."""

from __future__ import annotations

from pathlib import Path

PLUGIN = Path(__file__).with_name("recipe_plugin.py")
GOOD = """\
task: {name: toy-task, length: 16}
base: some/model
data:
  train: {path: "sample:words", limit: 10}
  evaluate: {cut: 0.1}
  columns: {text: body}
stages:
  - learn: {epochs: 3, rate: 1e-3, schedule: {kind: cosine}}
  - measure
  - learn:
  - score
"""


def without(key: str, text: str = GOOD) -> str:
    """The recipe without the line that begins with `key`."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.strip().startswith(key))
