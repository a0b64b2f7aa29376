"""What a capture saw: tensors by name and attention layer, in memory or on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from topwork import AttentionLayer, UsageError, unknown
from topwork_lens.capture.undescribed import forget
from topwork_lens.capture.verification import Explained
from topwork_lens.layers.discovery import Key, layer_at
from topwork_lens.refusals import refuse


class OnDisk(Sequence[torch.Tensor]):
    """Tensors in files of a folder; one is in memory only while a caller holds it.

    Each is a safetensors file of one tensor, named "tensor", with what it is in the file's metadata.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []

    def write(self, value: torch.Tensor, file: Path, what: str, path: str) -> None:
        """One more tensor."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"tensor": value.contiguous()}, file, metadata={"what": what, "layer": path})
        except (OSError, SafetensorError) as error:
            raise UsageError(f"cannot write what was captured: {error}", place=str(file.parent)) from error
        self.files.append(file)

    def __getitem__(self, place: int) -> torch.Tensor:  # type: ignore[override]
        from safetensors.torch import load_file

        return load_file(self.files[place])["tensor"]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[place] for place in range(len(self)))


class Captured:
    """What a capture saw. `seen[what, layer]` is the tensor of the only forward pass, `seen.calls(what, layer)` those
    of all (one for each step of `generate`). `layer` is a number, (group, number) or a path; of hidden states, those
    that the block around that attention layer answers.

    `explained` says by path how far the weights explain what happened: "context" when weights @ values, in float64, is
    what the output projection received; "product" when it is what the module computed, and something (a gate, a norm)
    changed that on its way to the output projection; "points" for deformable attention, which has no matrix. A layer
    is not named there while attention dropout is at work: its context is not weights @ values then.

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
        #: (what, path) -> why that has no meaning there; None when it has, at least once
        self.reasons: dict[tuple[str, str], str | None] = {}
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

    def fits(self, what: str, path: str, reason: str | None) -> None:
        """Note whether a reduction has a meaning for a layer; where it has none, its numbers are NaN."""
        if self.reasons.get((what, path), "") is not None:
            self.reasons[what, path] = reason

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
            hint = "call backward inside the block" if reason == "no_gradient" else "run the model inside the block"
            raise refuse(reason, cause, place=path, hint=hint)
        meaningless = self.reasons.get((what, path))
        if meaningless is not None:
            raise refuse("no_weights", f"no {what} here: {meaningless}", place=path)
        return values

    def _path(self, what: str, layer: Key) -> str:
        around = self.found.get("hidden", {}) if what == "hidden" else {}
        if layer in around:
            return str(layer)
        found = layer_at(self.known, layer)
        path = found.path
        for block in around:
            if any(f"{caller}.".startswith(f"{block}.") for caller in found.callers):
                return block
        if path not in {watched.path for watched in self.layers}:
            raise unknown("attention layer", str(layer), [watched.path for watched in self.layers])
        return path

    def __getitem__(self, key: tuple[str, Key]) -> torch.Tensor:
        what, layer = key
        values = self.calls(what, layer)
        if len(values) > 1:
            raise UsageError(f"{what} was seen {len(values)} times", place=str(layer), hint="use seen.calls(...)")
        return values[0]

    def __call__(self, what: str) -> dict[str, torch.Tensor]:
        """The tensors of the only forward pass, by module path; without the layers for which they have no meaning.

        Raises:
            UsageError: it was not asked for.
            Refused: there is none.
        """
        found = self.found.get(what, {})
        if not found or what not in self.asked:
            self.calls(what, self.layers[0].path)
        paths = [path for path in found if self.reasons.get((what, path)) is None]
        if not paths:
            self.calls(what, next(iter(found)))
        return {path: self[what, path] for path in paths}


def __getattr__(name: str) -> type[Captured]:
    if name != "Seen":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("`Seen` is now called `Captured`", DeprecationWarning, stacklevel=2)
    return Captured
