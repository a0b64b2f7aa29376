"""Damage that copies, disks and people do to the files of a folder: `DAMAGES`, and a check of all files, `unnamed`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from topwork import TopworkError


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def flip_in_the_middle(file: Path) -> None:
    _flip(file, file.stat().st_size // 2)


def flip_at_the_end(file: Path) -> None:
    """Change a letter or digit near the end, so that JSON stays JSON."""
    content = file.read_bytes()
    _flip(file, max(index for index, byte in enumerate(content) if chr(byte).isalnum()))


def _flip(file: Path, index: int) -> None:
    content = bytearray(file.read_bytes())
    content[index] ^= 1
    file.write_bytes(content)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def not_a_number(file: Path) -> None:
    _change_tensor(file, lambda tensor: tensor.fill_(float("nan")))


def other_dtype(file: Path) -> None:
    _change_tensor(file, lambda tensor: tensor.double())


def _change_tensor(file: Path, change: Callable) -> None:
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
    save_file({**tensors, name: change(tensors[name].clone())}, file, metadata=metadata)


DAMAGES: dict[str, Callable[[Path], None]] = {
    damage.__name__.replace("_", " "): damage
    for damage in (
        remove,
        empty,
        cut_short,
        flip_in_the_middle,
        flip_at_the_end,
        pipe,
        link_to_itself,
        folder_instead,
        not_a_number,
        other_dtype,
    )
}
_OF_TENSORS = ("not a number", "other dtype")


def unnamed(
    folder: Path, damage: str, copy: Path, use: Callable[[Path], object], other: Path | None = None
) -> Iterator[str]:
    """Damage each file of copies of a folder in turn, and yield what is wrong with the error of its use.

    Args:
        folder: that is whole; its README is for people.
        damage: a key of `DAMAGES`, or "swap": the file comes from `other`.
        copy: where copies are made.
        use: opens a folder.
        other: a folder of the same kind with other content.
    """
    for name in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        is_left_alone = name.name == "README.md" or (damage in _OF_TENSORS and name.suffix != ".safetensors")
        if is_left_alone or (other is not None and (other / name).read_bytes() == (folder / name).read_bytes()):
            continue
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        if other is not None:
            shutil.copy(other / name, copy / name)
        else:
            DAMAGES[damage](copy / name)
        try:
            use(copy)
        except TopworkError as error:
            listed = name.name == "topwork.json" and other is not None  # then its list is not that of the files
            if not listed and name.name not in str(error):
                yield f"{name} is not named: {error}"
        else:
            yield f"{name}: nothing is said"
