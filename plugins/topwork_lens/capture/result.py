"""Results of a capture: tensors by name and attention layer, in memory or on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from topwork import AttentionLayer, Shown, UsageError, unknown
from topwork_lens.activations.sites import NETWORKS, OF_LAYERS, STATES, Site, group_at, site_at
from topwork_lens.capture.tracing import unmark
from topwork_lens.capture.verification import Explained
from topwork_lens.capture.windows import merged
from topwork_lens.layers.discovery import Key, layer_at, numbered
from topwork_lens.refusals import refuse
from topwork_lens.tables import LayerTable


class OnDisk(Sequence[torch.Tensor]):
    """Tensors in files of a folder; one is in memory only while a caller holds it.

    Each is a safetensors file of one tensor, named "tensor", with what it is in the file's metadata.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []

    def write(self, value: torch.Tensor, file: Path, what: str, path: str) -> None:
        """Write another tensor."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"tensor": value.contiguous()}, file, metadata={"what": what, "layer": path})
        except (OSError, SafetensorError) as error:
            raise UsageError(f"cannot write what was captured: {error}", place=str(file.parent)) from error
        self.files.append(file)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        from safetensors.torch import load_file

        return load_file(self.files[index])["tensor"]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))


class Captured:
    """Tensors that a capture kept, by name and attention layer.

    `seen[what, layer]` is the tensor of the only forward pass, `seen.calls(what, layer)` those of all (one for each
    step of `generate`). `layer` is an index, (group, index) or a path; of hidden states, those that the block around
    that attention layer returns.

    `explained` says by path how far the weights explain what happened: "context" when weights @ values, in float64, is
    what the output projection received; "product" when it is what the module computed, and something (a gate, a norm)
    changed that on its way to the output projection; "points" for deformable attention, which has no matrix. A layer
    is not named there while attention dropout is at work: its context is not weights @ values then.

    Args:
        layers: those that are watched.
        what: names of what is captured.
        folder: where tensors are written instead of being kept in memory; None keeps them.
        known: all layers of the model, to which indices refer; None: those that are watched.
        sites: where the activations of other parts than attention layers are, by name of the activation.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        what: Sequence[str],
        folder: Path | None = None,
        known: Sequence[AttentionLayer] | None = None,
        sites: Mapping[str, Sequence[Site]] | None = None,
    ) -> None:
        self.layers, self.what, self.folder = list(layers), tuple(what), folder
        self.known = self.layers if known is None else list(known)
        self.sites = dict(sites or {})
        self.values: dict[str, dict[str, Sequence[torch.Tensor]]] = {}
        self.ran: set[str] = set()
        #: (what, path) -> why that has no meaning there; None when it has, at least once
        self.reasons: dict[tuple[str, str], str | None] = {}
        self.explained: dict[str, Explained] = {}
        self.written = 0
        #: where the states of each forward pass begin, by stack
        self.starts: dict[str, list[int]] = {}

    def __repr__(self) -> str:
        return f"Captured\n{self._lines()!r}" if self.values else "Captured (nothing ran yet)"

    def _repr_html_(self) -> str:
        return f"<p>Captured</p>{self._lines()._repr_html_()}"

    def _lines(self) -> LayerTable:
        lines = []
        for what in self.what:
            for path, values in self.values.get(what, {}).items():
                reason = self.reasons.get((what, path)) or ""
                shape = "" if reason else " x ".join(map(str, values[0].shape))
                lines.append({"what": what, "layer": path, "calls": len(values), "shape": shape, "missing": reason})
            paths = {line["layer"] for line in lines if line["what"] == what}
            for path, reason in self.missing(what).items():
                if path not in paths:
                    lines.append({"what": what, "layer": path, "calls": 0, "shape": "", "missing": reason})
        return LayerTable(lines)

    def show(self, tokens: Any = None, layer: Key | None = None, head: int | None = None) -> Shown:
        """Return a page for a notebook of the "weights" that were captured, on which attention heads are chosen.

        Args:
            tokens: names of the positions, a list (of one item) or a list of lists, or `topwork.Units`.
            layer: that is shown first.
            head: original index of the attention head that is shown first; None for the mean of all.

        Raises:
            UsageError: no weights were captured, or there are not as many names as positions.

        Example:
            >>> seen.show(["a", "generous", "film"], layer=0, head=2)  # doctest: +SKIP
        """
        from topwork_lens.show import show_captured

        return show_captured(self, tokens, layer, head)

    @property
    def found(self) -> dict[str, dict[str, Sequence[torch.Tensor]]]:
        """Deprecated name of `values`."""
        warnings.warn("`Captured.found` is now called `values`", DeprecationWarning, stacklevel=2)
        return self.values

    def add(self, what: str, path: str, value: torch.Tensor) -> None:
        """Keep another tensor."""
        unmark(value)
        layers = self.values.setdefault(what, {})
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
        """Return one tensor for each time that the layer ran.

        Attention over a band computes twice where tokens are global: all queries over their band and the global keys,
        then the global queries over all keys.

        Raises:
            UsageError: it was not asked for.
            Refused: the layer did not run, or no gradient arrived.
        """
        if what not in self.what and what != "valid":
            raise unknown("capture", what, self.what)
        path = self._path(what, layer)
        values = self.values.get(what, {}).get(path)
        meaningless = self.reasons.get((what, path))
        if meaningless is not None:
            reason = "not_run" if what.removesuffix("_gradient") in (*STATES, *NETWORKS) else "no_weights"
            raise refuse(reason, f"no {what} here: {meaningless}", place=path)
        if values is None:
            reason = "no_gradient" if what.endswith("_gradient") else "not_run"
            cause = f"no {what} was seen"
            hint = "call backward inside the block" if reason == "no_gradient" else "run the model inside the block"
            raise refuse(reason, cause, place=path, hint=hint)
        return values

    def missing(self, what: str) -> dict[str, str]:
        """Return why layers that ran have no `what`, by path: they have no weights, or it has no meaning there."""
        return {path: reason for (name, path), reason in self.reasons.items() if name == what and reason is not None}

    def _path(self, what: str, layer: Key) -> str:
        activation = what.removesuffix("_gradient")
        if (what, layer) in self.reasons:
            return str(layer)
        if activation in self.sites and activation not in OF_LAYERS:
            site = site_at(self.sites[activation], layer)
            return f"{site.path}.{site.index}" if what == "hidden_states_gradient" else site.path
        around = self.values.get("hidden", {}) if what == "hidden" else {}
        if layer in around:
            return str(layer)
        chosen = layer_at(self.known, layer)
        path = chosen.path
        for block in around:
            if any(f"{caller}.".startswith(f"{block}.") for caller in chosen.callers):
                return block
        if path not in {watched.path for watched in self.layers}:
            raise unknown("attention layer", str(layer), [watched.path for watched in self.layers])
        return path

    def __getitem__(self, key: tuple[str, Key]) -> torch.Tensor:
        what, layer = key
        if what == "hidden_states":
            site = site_at(self.sites[what], layer) if what in self.what else Site(what, str(layer))
            return self.hidden_states(0)[site.path][site.index]
        values = self.calls(what, layer)
        if len(values) > 1:
            raise UsageError(f"{what} was seen {len(values)} times", place=str(layer), hint="use seen.calls(...)")
        return values[0]

    def begin_states(self, stack: str) -> None:
        """Note that the next hidden state of a stack is the first of a forward pass."""
        kept = self.values.get("hidden_states", {}).get(stack, ())
        self.starts.setdefault(stack, []).append(len(kept))

    def hidden_states(self, run: int = -1) -> dict[str, list[torch.Tensor]]:
        """Return the hidden states of a forward pass by the path of each stack of layers.

        The first state of a stack is what its first layer was given (embeddings), the others are what each layer
        returned, before any norm that follows the stack.

        Args:
            run: index of the forward pass.

        Raises:
            UsageError: "hidden_states" were not captured, or there was no such forward pass.

        Example:
            >>> embeddings, *states = seen.hidden_states()["encoder.layer"]  # doctest: +SKIP
        """
        if "hidden_states" not in self.what:
            raise unknown("capture", "hidden_states", self.what)
        states: dict[str, list[torch.Tensor]] = {}
        for stack, values in self.values.get("hidden_states", {}).items():
            bounds = [*self.starts[stack], len(values)]
            if not -len(bounds) < run < len(bounds) - 1:
                raise UsageError(f"there were {len(bounds) - 1} forward passes, no index {run}", place=stack)
            index = run % (len(bounds) - 1)
            states[stack] = [values[position] for position in range(bounds[index], bounds[index + 1])]
        if not states:
            raise UsageError("no stack of layers ran", hint="run the model inside the block")
        return states

    def stack(self, what: str, group: str | None = None) -> torch.Tensor:
        """Return what was captured of all layers in one tensor, in the order of the layers.

        Args:
            what: a name that was captured.
            group: of attention layers, "encoder", "decoder", "cross" or "backbone"; of others, the path of a stack;
                None for all.

        Returns:
            [layers, ...]: of a reduction [layers, items, heads, queries]; of hidden states [states, items, ...].

        Raises:
            UsageError: the layers have tensors of several shapes, or ran several times.
            Refused: some layer has none.

        Example:
            >>> entropy = seen.stack("entropy").mean((1, 3))  # doctest: +SKIP
        """
        if what == "hidden_states":
            states = self.hidden_states()
            if group is None and len(states) > 1:
                raise UsageError(f"there are states of {', '.join(states)}", hint="name one: stack(what, group)")
            tensors = states[next(iter(states)) if group is None else group_at(group, list(states))]
        else:
            tensors = [self[what, path] for path in self._paths_in(what, group)]
        if not tensors:
            raise UsageError(f"no {what} of group {group!r} was captured")
        shapes = list(dict.fromkeys(tuple(tensor.shape) for tensor in tensors))
        if len(shapes) > 1:
            cause = f"{what} has several shapes: {', '.join(map(str, shapes[:4]))}"
            raise UsageError(cause, hint="name a group of layers, or read them one by one")
        return torch.stack(list(tensors))

    def _paths_in(self, what: str, group: str | None) -> list[str]:
        """Return paths of the parts of a group for which something is captured."""
        activation = what.removesuffix("_gradient")
        if activation in self.sites and activation not in OF_LAYERS:
            sites = self.sites[activation]
            wanted = None if group is None else group_at(group, [site.group for site in sites])
            return [
                site.path for site in sites if wanted in (None, site.group) and site.path in self.values.get(what, {})
            ]
        watched = {layer.path for layer in self.layers}
        groups = {layer.path: name for (name, _), layer in numbered(self.known).items()}
        if what == "hidden":
            return list(self.values.get(what, {}))
        return [path for path in groups if path in watched and group in (None, groups[path])]

    def _any_path(self, what: str) -> Key:
        """Key of some part that `what` could be of, for the message that there is none."""
        sites = self.sites.get(what.removesuffix("_gradient"), ())
        return sites[0].path if sites else self.layers[0].path if self.layers else 0

    def image_map(
        self, what: str, layer: Key, grid: tuple[int, int], window: int | None = None, shift: int = 0
    ) -> torch.Tensor:
        """Return what was captured of image positions in the order of the image.

        Args:
            what: a reduction, or "weights".
            layer: as for `seen[what, layer]`.
            grid: height and width of the image in patches.
            window: side of a window of the layer; None where it attends to the whole image.
            shift: by how much the layer rolls the image up and left before it cuts windows.

        Returns:
            [items, heads, height, width]; of weights [items, heads, height * width, height * width].

        Raises:
            UsageError: the positions that were captured do not make such an image.

        Example:
            >>> entropy = seen.image_map("entropy", 0, grid=(8, 8), window=4)  # doctest: +SKIP
        """
        return merged(self[what, layer], grid, window, shift)

    def __call__(self, what: str) -> dict[str, torch.Tensor]:
        """Return the tensors of the only forward pass, by module path, without layers for which they have no meaning.

        Raises:
            UsageError: it was not asked for.
            Refused: there is none.
        """
        by_path = self.values.get(what, {})
        if not by_path or what not in self.what:
            self.calls(what, next(iter(self._paths_in(what, None)), self._any_path(what)))
        paths = [path for path in by_path if self.reasons.get((what, path)) is None]
        if not paths:
            self.calls(what, next(iter(by_path)))
        return {path: self[what, path] for path in paths}


def __getattr__(name: str) -> type[Captured]:
    if name != "Seen":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("`Seen` is now called `Captured`", DeprecationWarning, stacklevel=2)
    return Captured
