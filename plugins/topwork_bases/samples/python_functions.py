"""The sample `python-functions`: functions and methods of Python's own standard library, as they are written.

Split by module; a function that stands in a training module too is no test row. How much there is depends on the
version of Python.
"""

from __future__ import annotations

import ast
import textwrap
from typing import Any

from topwork_bases.samples.python_tokens import module_sources

_SHORTEST, _LONGEST = 3, 15


def python_functions_dataset(split: str) -> Any:
    """Return the rows {text, name} of a split, as a `datasets.Dataset`; functions of 3 to 15 lines."""
    import datasets

    training = _functions("train")
    rows = training
    if split == "test":
        rows = {text: name for text, name in _functions("test").items() if text not in training}
    return datasets.Dataset.from_list([{"text": text, "name": name} for text, name in rows.items()])


def _functions(split: str) -> dict[str, str]:
    functions: dict[str, str] = {}
    for module, source in module_sources(split):
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
                continue
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
            text = textwrap.dedent("\n".join(lines))
            if _SHORTEST <= len(lines) <= _LONGEST and text.startswith("def "):
                functions.setdefault(text, f"{module}.{node.name}")
    return functions
