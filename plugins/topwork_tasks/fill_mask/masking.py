"""Masked tokens: which are chosen and what replaces them, predictions for masks, and the metric over them."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from topwork import DataError, Item, Json, Metric, Mode, Picture, Row, UsageError
from topwork_tasks._text.windows import TextWindow

if TYPE_CHECKING:
    import torch


#: how texts write a mask for one tokenizer or another
_WRITTEN = re.compile(r"\[mask\]|<mask>", re.IGNORECASE)


def check_foreign_mask(text: str, mask: str, row: int) -> None:
    """Refuse a text without a mask that has the mask of another tokenizer: a word beside it would be masked.

    Args:
        text: with the masks of the data replaced by the tokenizer's.
        mask: the tokenizer's mask token.
        row: index of the row, for messages.

    Raises:
        DataError: it has one.
    """
    foreign = None if mask in text else _WRITTEN.search(text)
    if foreign is not None:
        raise DataError(
            f"has {foreign[0]!r}, which is no mask here: the masks are {mask!r}",
            row=row,
            column="text",
            hint=f"write {mask}, or set the task's option `mask: {foreign[0]!r}`",
        )


def choose(groups: Sequence[Sequence[int]], share: float, draw: Any) -> list[int]:
    """Choose the positions to be masked: whole groups in random order until `share` of all positions is reached.

    At least one group. Devlin et al. 2019, section 3.1; by words as in their later release.

    Args:
        groups: positions that are masked together (a token, or all tokens of a word).
        share: the share of all positions.
        draw: a numpy Generator.
    """
    wanted = max(1, round(share * sum(len(group) for group in groups)))
    chosen: list[int] = []
    for index in draw.permutation(len(groups)):
        if chosen and len(chosen) + len(groups[index]) > wanted:
            continue
        chosen.extend(groups[index])
        if len(chosen) >= wanted:
            break
    return sorted(chosen)


def corrupt(
    ids: Sequence[int], positions: Sequence[int], mask: int, words: Sequence[int], kept: float, random: float, draw: Any
) -> list[int]:
    """Return the tokens with the chosen positions masked; a share `kept` stays, a share `random` becomes any token.

    Args:
        ids: tokens.
        positions: the chosen positions.
        mask: the mask token.
        words: tokens to draw from, all but the special ones.
        kept: share of the chosen positions.
        random: share of the chosen positions.
        draw: a numpy Generator.
    """
    changed = list(ids)
    for position, chance in zip(positions, draw.random(len(positions))):
        if chance < random:
            changed[position] = int(words[draw.integers(len(words))])
        elif chance >= random + kept:
            changed[position] = mask
    return changed


def generator(seed: int, ids: Sequence[int]) -> Any:
    """Return a numpy Generator from a seed and the tokens of a row: a row is masked alike wherever it stands."""
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(" ".join(map(str, ids)).encode())])


def word_groups(tokenizer: Any, window: TextWindow) -> list[list[int]]:
    """Group positions by word.

    A token that does not begin where the one before it ended begins a new word, and so does one whose characters begin
    with a space.
    """
    names = tokenizer.convert_ids_to_tokens([window.inputs["input_ids"][position] for position in window.positions])
    groups: list[list[int]] = []
    last = -1
    for position, name, (start, end) in zip(window.positions, names, window.offsets):
        begins_with_space = name.startswith(("Ġ", "▁"))
        is_sign = not (name[:1].isalnum() or name[:2] == "##")
        if groups and start == last and not begins_with_space and not is_sign:
            groups[-1].append(position)
        else:
            groups.append([position])
        last = end
    return groups


def logits_at(model: Any, inputs: Mapping[str, Any], rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the model's logits at some positions (`rows` and `positions` in the batch, in order): [masks, vocabulary].

    The product with the whole vocabulary costs as much as all that comes before it (BERT-like, 6 layers of width 384),
    so the layer that makes it gets the hidden states of these positions alone. Where a model makes its logits without
    that layer, or joins more than these positions behind it, they are computed in full.
    """
    shape = tuple(inputs["input_ids"].shape)
    calls: list[bool] = []

    def choose_hidden(_: Any, arguments: tuple) -> tuple | None:
        if not arguments or tuple(arguments[0].shape[:-1]) != shape:
            return None
        calls.append(True)
        return (arguments[0][rows, positions].unsqueeze(0), *arguments[1:])

    last = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if last is not None:
        handle = last.register_forward_pre_hook(choose_hidden)
        try:
            logits = model(**inputs).logits
        finally:
            handle.remove()
        if calls and logits.shape[:-1] == (1, len(rows)):
            return logits[0]
        if not calls:
            return logits[rows, positions]
    return model(**inputs).logits[rows, positions]


def token_id(tokenizer: Any, word: str) -> int | None:
    """Return the id of the token that a word is: by its name, or as written (with a space before it if need be)."""
    known = tokenizer.get_vocab()
    if word in known:
        return known[word]
    for written in (word, f" {word}"):
        ids = tokenizer(written, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    return None


def restricted_ids(tokenizer: Any, targets: Sequence[str] | None) -> list[int] | None:
    """Return the ids of the only words that are to be predicted; None for all.

    Raises:
        UsageError: a word is no single token.
    """
    if targets is None:
        return None
    ids = {target: token_id(tokenizer, target) for target in targets}
    if not ids or None in ids.values():
        missing = next((target for target, token in ids.items() if token is None), "")
        raise UsageError(f"the target {missing!r} is no single token of the vocabulary", hint="choose other `targets`")
    return sorted({token for token in ids.values() if token is not None})


def answer_tokens(tokenizer: Any, row: Row, index: int, masks: int, mode: Mode) -> list[int] | None:
    """Return the tokens behind the `masks` masks of a row's text; None when they are not known or it has none.

    Raises:
        DataError: missing where they are needed; not as many as masks; no single token.
    """
    given = row.get("answer")
    answers = [given] if isinstance(given, str) else given or []
    hint = "give one answer for each mask"
    if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{given!r} is no text, nor a list of them", row=index, column="answer", hint=hint)
    if masks and given is None:
        if mode == "predict":
            return None
        raise DataError("is missing: the text has masks", row=index, column="answer", hint=hint)
    if len(answers) != masks:
        raise DataError(f"has {len(answers)} answers to {masks} masks", row=index, column="answer", hint=hint)
    tokens = []
    for answer in answers:
        token = token_id(tokenizer, answer)
        if token is None:
            raise DataError(
                f"{answer!r} is no single token", row=index, column="answer", hint="leave the row out or reword it"
            )
        tokens.append(token)
    return tokens


def filled_mask(
    tokenizer: Any, ids: Sequence[int], position: int, token: int, score: float, single: bool
) -> dict[str, Any]:
    """Return one filled mask; with several masks the special tokens stay in the sequence, as the pipeline has it."""
    whole = [*ids[:position], token, *ids[position + 1 :]]
    whole = [number for number in whole if number != tokenizer.pad_token_id]
    sequence = tokenizer.decode(whole, skip_special_tokens=single)
    return {"score": score, "token": token, "token_str": tokenizer.decode([token]), "sequence": sequence}


class FilledMasks(list):
    """Prediction in the pipeline's shape, with what the metric needs.

    Attributes:
        scores: of each mask whose truth is known: negative log probability in nats, whether the likeliest is right.
        best: the likeliest token of each mask.
    """

    scores: list[tuple[float, bool]]
    best: list[str]


def mask_entries(item: Item, judged: Iterator[tuple]) -> list[tuple]:
    """Take the next results of `judged`, one for each mask of an item.

    An entry: probabilities and tokens of the best, (negative log probability of the truth, whether the best is the
    truth) or None, position, (start, end) of the characters that a drawn mask hides or None.
    """
    positions, spans = item.extra
    entries = []
    for index, position in enumerate(positions):
        values, tokens, score, label = next(judged)
        span = None if spans is None else spans[index]
        entries.append((values, tokens, score if label != -100 else None, position, span))
    return entries


def filled_masks(tokenizer: Any, parts: Sequence[tuple[list[tuple], list[int]]]) -> FilledMasks:
    """Return the prediction of a row from (entries of `mask_entries`, token ids) of its windows."""
    prediction = FilledMasks()
    single = sum(len(entries) for entries, _ in parts) == 1
    prediction.scores = []
    for entries, ids in parts:
        for values, tokens, score, position, span in entries:
            hidden = {} if span is None else {"start": span[0], "end": span[1]}
            filled = [filled_mask(tokenizer, ids, position, *pair, single) for pair in zip(tokens, values)]
            prediction.append([{**choice, **hidden} for choice in filled])
            if score is not None:
                prediction.scores.append(score)
    prediction.best = [choices[0]["token_str"] for choices in prediction]
    if single:
        prediction[:] = prediction[0]
    return prediction


def draw_masks(row: Row, prediction: FilledMasks) -> Picture:
    """Draw the text, the likeliest tokens and the truth; badness is the share of masks that are wrong."""
    scores = prediction.scores
    wrong = sum(not right for _, right in scores) / len(scores) if scores else 0.0
    best = ", ".join(prediction.best)
    shown = [(row["text"], ""), (" -> ", ""), (best, "wrong" if wrong else "right")]
    if row.get("answer") is not None:
        answer = row["answer"] if isinstance(row["answer"], str) else ", ".join(row["answer"])
        shown.append((f" {answer}", "truth"))
    caption = f"{best or 'no masks'}: {row['text']}"
    facts = {**({"truth": shown[-1][0].strip()} if row.get("answer") is not None else {}), "prediction": best}
    pieces = [pair for pair in shown if pair[0]]
    return Picture(caption[:300], wrong, text=pieces, facts=facts, measure="share of wrong masks")


class MaskedTokenMetric(Metric):
    """Loss (nats a token), perplexity = exp(loss), accuracy of the likeliest token, and the number of masked tokens.

    Over all masked tokens whose truth is known.
    """

    keys = ("perplexity", "accuracy", "loss", "masked")
    primary = "perplexity"
    higher_is_better = False

    def __init__(self) -> None:
        self.nll, self.right, self.count, self.rows = 0.0, 0, 0, 0

    @override
    def update(self, row: Row, prediction: Any) -> None:
        self.rows += 1
        for nll, right in prediction.scores:
            self.nll += nll
            self.right += right
            self.count += 1

    @override
    def merge(self, metric: MaskedTokenMetric) -> None:
        self.nll += metric.nll
        self.right += metric.right
        self.count += metric.count
        self.rows += metric.rows

    @override
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
