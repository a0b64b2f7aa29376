"""What a capture saw: tensors by name and attention layer, in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from topwork import AttentionLayer, UsageError, unknown
from topwork_lens.discovery import Key, layer_at
from topwork_lens.explained import Explained
from topwork_lens.refusals import refuse
from topwork_lens.strangers import forget


class OnDisk(Sequence[torch.Tensor]):
    """Tensors in files of a folder; one is in memory only while a caller holds it.

    Each is a safetensors file of one tensor, named "tensor", with what it is in the file's metadata.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []

    def write(self, value: torch.Tensor, file: Path, what: str, path: str) -> None:
        """One more tensor."""
        from safetensors.torch import save_file

        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tensor": value.contiguous()}, file, metadata={"what": what, "layer": path})
        self.files.append(file)

    def __getitem__(self, place: int) -> torch.Tensor:  # type: ignore[override]
        from safetensors.torch import load_file

        return load_file(self.files[place])["tensor"]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[place] for place in range(len(self)))


class Seen:
    """What a capture saw. `seen[what, layer]` is the tensor of the only forward pass, `seen.calls(what, layer)` those
    of all (one for each step of `generate`). `layer` is a number, (group, number) or a path.

    `explained` says by path how far the weights explain what happened: "context" when weights @ values, in float64, is
    what the output projection received; "product" when it is what the module computed, and something (a gate, a norm)
    changed that on its way to the output projection; "points" for deformable attention, which has no matrix.

    Args:
        layers: those that are watched.
        folder: where tensors are written instead of being kept in memory; None keeps them.
        known: all layers of the model, by which numbers are understood; None: those that are watched.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        asked: Sequence[str],
        folder: Path | None = None,
        known: Sequence[AttentionLayer] | None = None,
    ) -> None:
        self.layers, self.asked, self.folder = list(layers), tuple(asked), folder
        self.known = self.layers if known is None else list(known)
        self.found: dict[str, dict[str, Sequence[torch.Tensor]]] = {}
        self.ran: set[str] = set()
        self.explained: dict[str, Explained] = {}
        self.written = 0

    def add(self, what: str, path: str, value: torch.Tensor) -> None:
        """Keep one more tensor."""
        forget(value)
        layers = self.found.setdefault(what, {})
        if self.folder is None:
            values = layers.setdefault(path, [])
            assert isinstance(values, list)
            values.append(value)
            return
        values = layers.setdefault(path, OnDisk())
        assert isinstance(values, OnDisk)
        values.write(value, self.folder / f"{self.written:06d}-{what}.safetensors", what, path)
        self.written += 1

    def calls(self, what: str, layer: Key) -> Sequence[torch.Tensor]:
        """One tensor for each time that the layer ran.

        Raises:
            UsageError: it was not asked for.
            Refused: the layer did not run, or no gradient arrived.
        """
        if what not in self.asked and what != "valid":
            raise unknown("capture", what, self.asked)
        path = self._path(what, layer)
        values = self.found.get(what, {}).get(path)
        if values is None:
            reason = "no_gradient" if what.endswith("_gradient") else "not_run"
            cause = f"no {what} was seen"
            mend = "call backward inside the block" if reason == "no_gradient" else "run the model inside the block"
            raise refuse(reason, cause, place=path, mend=mend)
        return values

    def _path(self, what: str, layer: Key) -> str:
        if what == "hidden" and isinstance(layer, str):
            return layer
        path = layer_at(self.known, layer).path
        if path not in {watched.path for watched in self.layers}:
            raise unknown("attention layer", str(layer), [watched.path for watched in self.layers])
        return path

    def __getitem__(self, key: tuple[str, Key]) -> torch.Tensor:
        what, layer = key
        values = self.calls(what, layer)
        if len(values) > 1:
            raise UsageError(f"{what} was seen {len(values)} times", place=str(layer), mend="use seen.calls(...)")
        return values[0]

    def __call__(self, what: str) -> dict[str, torch.Tensor]:
        """The tensors of the only forward pass, by module path."""
        return {path: self[what, path] for path in self.found.get(what, {})}
