"""Attention that was captured as a page for a notebook: `Look.show` and `Captured.show`.

The page is made by the plugin `report`; the weights go there as the stage `attention` writes them, see
`head_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import topwork
from topwork import Batch, HasQueryBoxes, QueryBox, Shown, Units, UsageError
from topwork_lens.head_weights import Capturing, pack_row
from topwork_lens.layers.discovery import Key, layer_at, numbered

if TYPE_CHECKING:
    from topwork import AttentionLayer

#: what says what the positions of a batch are: names of one item's tokens, of several items', or units
Tokens = Sequence[str] | Sequence[Sequence[str]] | Units | Sequence[Units] | None
MOST_ITEMS = 8
_MOST_BYTES = 2_500_000


class Item:
    """One item of what was captured, as a capture of its own.

    Args:
        captured: of a batch.
        index: of the item.
        count: items of the batch.
    """

    def __init__(self, captured: Capturing, index: int, count: int) -> None:
        self.captured = captured
        weights = captured.values.get("weights", {})
        self.values = {
            "weights": {path: [_of_item(call, index, count) for call in calls] for path, calls in weights.items()}
        }

    def missing(self, what: str) -> dict[str, str]:
        """Return why layers that ran have no `what`, by path."""
        return self.captured.missing(what)


def show_captured(
    captured: Any,
    tokens: Tokens,
    layer: Key | None,
    head: int | None,
    plugins: Any = None,
    boxes: Sequence[Sequence[QueryBox]] = (),
) -> Shown:
    """Return a page of captured attention.

    Args:
        captured: has "weights".
        tokens: what the positions are.
        layer: that is shown first; None for the first one.
        head: original index of the attention head that is shown first; None for the mean of all.
        plugins: one of them makes the page.
        boxes: of each item, that the model's queries gave; nothing where they are not known.

    Raises:
        UsageError: no weights were captured, or the names are not those of the positions.
        Refused: a layer has no weights.
    """
    calls = [call for kept in captured.values.get("weights", {}).values() for call in kept[:1]]
    if "weights" not in captured.what or not calls:
        hint = 'with look.capture("weights") as seen: model(**batch)'
        raise UsageError("no weights were captured", hint=hint)
    count = min(call.shape[0] for call in calls)
    units = _units(tokens, count)
    _check_names(units, {call.shape[-2] for call in calls} | {call.shape[-1] for call in calls})
    watched = {each.path for each in captured.layers}
    layers = {key: each for key, each in numbered(captured.known).items() if each.path in watched}
    first = None if layer is None else _key_of(layers, layer_at(captured.known, layer))
    if first is not None and head is not None and head not in layers[first].kept:
        raise UsageError(
            f"there is no attention head {head}", place=" ".join(map(str, first)), hint=f"one of {layers[first].kept}"
        )
    shown = min(count, MOST_ITEMS)
    rows = []
    for index in range(shown):
        item: Any = Item(captured, index, count)
        by_group = dict.fromkeys((group for group, _ in layers), item)
        of_item = boxes[index] if index < len(boxes) else ()
        packed = pack_row(by_group, layers, units[index], _MOST_BYTES // shown, of_item)
        caption = " ".join(map(str, units[index].names))
        rows.append({"row": index, "caption": caption[:200], "image": units[index].image, **packed})
    return topwork.show("attention", {"rows": rows, "layer": first, "head": head}, plugins)


def show_batch(look: Any, batch: Any, tokens: Tokens, layer: Key | None, head: int | None) -> Shown:
    """Run a model on a batch and return a page of its attention.

    Args:
        look: at the model.
        batch: a dict of inputs, or a `Batch`.
        tokens: what the positions are; None for what the task or the tokenizer knows.
        layer: that is shown first.
        head: original index of the attention head that is shown first.
    """
    import torch

    with torch.no_grad(), look.capture("weights") as captured:
        look.call(batch)()
    known = _known_units(look.owner, batch) if tokens is None else tokens
    return show_captured(captured, known, layer, head, look.plugins, _query_boxes(look, batch))


def _query_boxes(look: Any, batch: Any) -> Sequence[Sequence[QueryBox]]:
    """Return the boxes that the model's queries give for each item of a batch; empty where it has no such queries."""
    import torch

    task = getattr(look.owner, "task", None)
    if not isinstance(batch, Batch) or not isinstance(task, HasQueryBoxes):
        return ()
    with torch.no_grad():
        return task.query_boxes(look.model, batch)


def _known_units(owner: Any, batch: Any) -> Tokens:
    """Return what the task of a model knows of the positions of a batch, or what its tokenizer does."""
    task = getattr(owner, "task", None)
    if isinstance(batch, Batch):
        return [task.units(item) for item in batch.items] if task is not None else None
    tokenizer = getattr(owner, "tokenizer", None) or getattr(task, "tokenizer", None)
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if tokenizer is None or ids is None:
        return None
    return [[str(name) for name in tokenizer.convert_ids_to_tokens(line)] for line in ids.tolist()]


def _units(tokens: Tokens, count: int) -> list[Units]:
    """Return the units of each item."""
    if tokens is None:
        return [Units("token")] * count
    entries: list[Any] = (
        [tokens] if isinstance(tokens, Units) or (tokens and isinstance(tokens[0], str)) else list(tokens)
    )
    if len(entries) != count:
        hint = "give the names of the tokens of each item"
        raise UsageError(f"names of {len(entries)} items, and {count} items were captured", hint=hint)
    return [entry if isinstance(entry, Units) else Units("token", [str(name) for name in entry]) for entry in entries]


def _check_names(units: list[Units], lengths: set[int]) -> None:
    """Refuse names that are those of no positions."""
    for entry in units:
        if entry.names and len(entry.names) not in lengths and entry.grid is None:
            sizes = " or ".join(map(str, sorted(lengths)))
            raise UsageError(
                f"{len(entry.names)} names for {sizes} positions", hint="name padding and special tokens as well"
            )


def _key_of(layers: Mapping[tuple[str, int], AttentionLayer], layer: AttentionLayer) -> tuple[str, int]:
    for key, each in layers.items():
        if each.path == layer.path:
            return key
    raise UsageError("this layer was not captured", place=layer.path, hint="name it in `look.capture(layers=...)`")


def _of_item(call: Any, index: int, count: int) -> Any:
    """Return [1, heads, queries, keys] of an item; windows of several items stay as they are."""
    return call[index : index + 1] if call.shape[0] == count else call
