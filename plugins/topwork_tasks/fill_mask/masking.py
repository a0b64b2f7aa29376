"""Masked tokens: which are chosen and what stands in their place, predictions for masks, and the metric over them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Json, Metric, Row, UsageError
from topwork_tasks._text.spans import Piece

if TYPE_CHECKING:
    import torch


def choose(groups: Sequence[Sequence[int]], share: float, draw: Any) -> list[int]:
    """Positions to be masked: whole groups (tokens, or words) in random order until `share` of all positions is
    reached; at least one group. Devlin et al. 2019, section 3.1; by words as in their later release.

    Args:
        groups: positions that are masked together.
        draw: a numpy Generator.
    """
    wanted = max(1, round(share * sum(len(group) for group in groups)))
    chosen: list[int] = []
    for number in draw.permutation(len(groups)):
        if chosen and len(chosen) + len(groups[number]) > wanted:
            continue
        chosen.extend(groups[number])
        if len(chosen) >= wanted:
            break
    return sorted(chosen)


def corrupt(
    ids: Sequence[int], places: Sequence[int], mask: int, words: Sequence[int], kept: float, random: float, draw: Any
) -> list[int]:
    """The tokens with the chosen places masked; of them a share `kept` stays, a share `random` becomes any token.

    Args:
        words: tokens to draw from, all but the special ones.
    """
    changed = list(ids)
    for place, chance in zip(places, draw.random(len(places))):
        if chance < random:
            changed[place] = int(words[draw.integers(len(words))])
        elif chance >= random + kept:
            changed[place] = mask
    return changed


def generator(seed: int, ids: Sequence[int]) -> Any:
    """A numpy Generator from a seed and the tokens of a row: a row is masked alike wherever it stands."""
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(" ".join(map(str, ids)).encode())])


def word_groups(tokenizer: Any, piece: Piece) -> list[list[int]]:
    """Positions by word: a token that does not begin where the one before it ended begins a new word, and so does
    one whose characters begin with a space."""
    names = tokenizer.convert_ids_to_tokens([piece.inputs["input_ids"][place] for place in piece.places])
    groups: list[list[int]] = []
    last = -1
    for place, name, (start, end) in zip(piece.places, names, piece.offsets):
        if groups and start == last and not name.startswith(("Ġ", "▁")) and name[:1].isalnum() | (name[:2] == "##"):
            groups[-1].append(place)
        else:
            groups.append([place])
        last = end
    return groups


def logits_at(model: Any, inputs: Mapping[str, Any], rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[masks, vocabulary]: the model's logits at some positions (`rows` and `places` in the batch, in order).

    The product with the whole vocabulary costs as much as all that comes before it (BERT-like, 6 layers of width 384),
    so the layer that makes it is shown the hidden states of these positions alone. Where a model makes its logits
    without that layer, or puts more than these positions together behind it, they are computed in full.
    """
    shape = tuple(inputs["input_ids"].shape)
    shown: list[bool] = []

    def choose_hidden(_: Any, given: tuple) -> tuple | None:
        if not given or tuple(given[0].shape[:-1]) != shape:
            return None
        shown.append(True)
        return (given[0][rows, places].unsqueeze(0), *given[1:])

    last = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if last is not None:
        handle = last.register_forward_pre_hook(choose_hidden)
        try:
            logits = model(**inputs).logits
        finally:
            handle.remove()
        if shown and logits.shape[:-1] == (1, len(rows)):
            return logits[0]
        if not shown:
            return logits[rows, places]
    return model(**inputs).logits[rows, places]


def token_id(tokenizer: Any, word: str) -> int | None:
    """The token that a word is: by its name, or as it is written (with a space before it where tokens carry one)."""
    known = tokenizer.get_vocab()
    if word in known:
        return known[word]
    for written in (word, f" {word}"):
        ids = tokenizer(written, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    return None


def target_ids(tokenizer: Any, targets: Sequence[str] | None) -> list[int] | None:
    """Tokens of the only words that are to be predicted; None for all.

    Raises:
        UsageError: a word is no single token.
    """
    if targets is None:
        return None
    found = {target: token_id(tokenizer, target) for target in targets}
    if not found or None in found.values():
        missing = next((target for target, token in found.items() if token is None), "")
        raise UsageError(f"the target {missing!r} is no single token of the vocabulary", hint="choose other `targets`")
    return sorted({token for token in found.values() if token is not None})


def filled(tokenizer: Any, ids: Sequence[int], place: int, token: int, score: float, single: bool) -> dict[str, Any]:
    """One answer; with several masks the special tokens stay in the sequence, as the pipeline has it."""
    whole = [*ids[:place], token, *ids[place + 1 :]]
    whole = [number for number in whole if number != tokenizer.pad_token_id]
    sequence = tokenizer.decode(whole, skip_special_tokens=single)
    return {"score": score, "token": token, "token_str": tokenizer.decode([token]), "sequence": sequence}


class FilledMasks(list):
    """A prediction in the pipeline's shape; beside it what is known of the truth of each mask: `scores` lists (negative
    log probability in nats, whether the likeliest token is right), and `best` the likeliest token of each mask."""

    scores: list[tuple[float, bool]]
    best: list[str]

    def __reduce__(self) -> tuple:
        return _restore, (list(self), self.scores, self.best)


def _restore(entries: list[Json], scores: list[tuple[float, bool]], best: list[str]) -> FilledMasks:
    made = FilledMasks(entries)
    made.scores, made.best = scores, best
    return made


class MaskMetric(Metric):
    """Over all masked tokens whose truth is known: loss (nats a token), perplexity = exp(loss), accuracy of the
    likeliest token, and how many there were."""

    keys = ("perplexity", "accuracy", "loss", "masked")
    primary = "perplexity"
    higher_is_better = False

    def __init__(self) -> None:
        self.nll, self.right, self.count, self.rows = 0.0, 0, 0, 0

    def update(self, row: Row, prediction: Any) -> None:
        self.rows += 1
        for nll, right in prediction.scores:
            self.nll += nll
            self.right += right
            self.count += 1

    def merge(self, other: MaskMetric) -> None:
        self.nll += other.nll
        self.right += other.right
        self.count += other.count
        self.rows += other.rows

    def result(self) -> dict[str, Json]:
        if not self.count:
            return {**dict.fromkeys(self.keys, math.nan), "masked": 0.0 if self.rows else math.nan}
        loss = self.nll / self.count
        return {
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": self.right / self.count,
            "loss": loss,
            "masked": float(self.count),
        }
