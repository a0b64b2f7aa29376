"""Files below a folder, links followed, and what of them is left out.

Entry points: `files_below`, `has_links`, `left_out`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

#: files that lie beside data without being any
_NO_DATA = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", ".ds_store"})
_PROSE = (".md", ".rst", ".pdf", ".html", ".ini", ".yaml", ".yml", ".toml", ".py", ".sh")


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, links followed; hidden ones are left out."""
    seen = set(map(str, folder.resolve().parents))  # a link to a folder above would bring everything twice
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(inner for inner in folders if not inner.startswith((".", "__MACOSX")))
        yield from (path for file in sorted(files) if not file.startswith(".") and (path := Path(name, file)).is_file())


def has_links(folder: Path, paths: Iterable[Path]) -> bool:
    """Return whether some of the files below a folder lie there by a link to another folder."""
    inner = {parent for path in paths for parent in path.parents if folder in parent.parents}
    return any(parent.is_symlink() for parent in inner)


def left_out(paths: Iterable[Path], known: Collection[str]) -> str | None:
    """Return how many files of a folder of media are no rows, by suffix; None where there are none.

    Args:
        paths: all files of the folder.
        known: suffixes that are read, in lower case.
    """
    others = Counter(
        path.suffix.lower() or "no suffix"
        for path in paths
        if path.suffix.lower() not in known
        and path.suffix.lower() not in _PROSE
        and path.name.lower() not in _NO_DATA
        and not path.name.lower().startswith(("readme", "license", "metadata."))
    )
    if not others:
        return None
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in others.most_common(5))
    return f"{sum(others.values())} files of other kinds are left out: {kinds}"
