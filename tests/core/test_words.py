"""Variables are named by what they hold, and a public name is defined once in a package."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [ROOT / "core" / "topwork", *sorted((ROOT / "plugins").glob("topwork_*"))]
FILES = [file for package in PACKAGES for file in sorted(package.rglob("*.py"))]
#: words that say nothing about a value
BANNED = {"found", "told", "said", "asked", "gone", "own", "one", "some", "sound", "place"}
#: `place` where it is a public keyword: of `TopworkError`, `Problem`, `DeferredModule`, and the lens's `refuse`, which
#: hands it on. It stays, because plugins raise errors with it. Everywhere else the word is `location`.
PUBLIC_PLACE: dict[str, int] = {
    "core/topwork/errors.py": 2,
    "core/topwork/saving/deferred.py": 1,
    "plugins/topwork_lens/refusals.py": 1,
}
#: names that several modules of a package define because they are hooks, or the public function behind a hook
SHARED = {
    "topwork": {"look", "compress", "run_started", "stage_started", "stage_done", "run_failed", "run_done"},
    "topwork_bases": {"load_rows", "load_base", "register_samples", "register_formats"},
}


def bound(tree: ast.AST) -> Counter[str]:
    """Names that are assigned or are parameters; `place` of the public errors is left out."""
    errors = {
        id(node)
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef) and any("Error" in ast.unparse(base) for base in kind.bases)
        for node in ast.walk(kind)
    }
    names = Counter(
        node.id if isinstance(node, ast.Name) else node.arg
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)) or isinstance(node, ast.arg)
        if id(node) not in errors
    )
    return Counter({name: count for name, count in names.items() if name in BANNED})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_variables_are_named_by_what_they_hold(file) -> None:
    names = bound(ast.parse(file.read_text(encoding="utf-8")))
    allowed = PUBLIC_PLACE.get(file.relative_to(ROOT).as_posix(), 0)
    assert names.total() <= allowed, f"{file.name}: {dict(names)}"


def test_a_public_name_is_defined_once_in_a_package() -> None:
    for package in PACKAGES:
        homes = defaultdict(list)
        for file in package.rglob("*.py"):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(file.name)
        twice = {name: files for name, files in homes.items() if len(files) > 1}
        known = SHARED.get(package.name, set()) | {"register_tasks", "register_stages", "register_commands"}
        assert {name: files for name, files in twice.items() if name not in known} == {}, package.name
