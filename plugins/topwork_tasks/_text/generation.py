"""What generating tasks share: the options of `generate`, generating with left padding, and the metric over texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from topwork import Json, Metric, Row
from topwork_tasks._text.metrics import Words

if TYPE_CHECKING:
    import torch
    from torch import nn


class GenerationOptions(BaseModel):
    """How texts are generated; what is not given is taken from the model's own generation config."""

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: PositiveInt = Field(64, description="tokens, at most; and at most half of the model's positions")
    min_new_tokens: int | None = Field(None, ge=0, description="tokens, at least")
    do_sample: bool = Field(False, description="draw tokens at random, by `seed`")
    temperature: PositiveFloat | None = Field(None, description="of the distribution that is drawn from")
    top_k: PositiveInt | None = Field(None, description="draw among this many most probable tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="draw among the fewest tokens of this probability")
    num_beams: PositiveInt | None = Field(None, description="beams of a beam search")
    length_penalty: float | None = Field(None, description="above 0 beams favour long texts")
    repetition_penalty: PositiveFloat | None = Field(None, description="above 1 repeated tokens become less probable")
    no_repeat_ngram_size: PositiveInt | None = Field(None, description="no sequence of this many tokens occurs twice")
    stop: list[str] = Field(default_factory=list, description="end at these strings; they are not part of the text")
    seed: NonNegativeFloat = Field(0, description="of `do_sample`; a text depends on the batch that it is drawn in")


def generate(
    model: Any, tokenizer: Any, inputs: Mapping[str, torch.Tensor], options: GenerationOptions, most: int, number: int
) -> list[list[int]]:
    """Tokens behind each prompt, without padding.

    Args:
        inputs: `input_ids` and `attention_mask` [items, positions], padded on the left: a causal model that is padded
            on the right continues the padding.
        most: new tokens that there is room for.
        number: mixed into the seed, so that batches differ: the number of the first row.
    """
    import torch

    config, stops = settings(model, tokenizer, options, most)
    devices = [inputs["input_ids"].device] if inputs["input_ids"].is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed((int(options.seed) * 1_000_003 + number) % 2**63)
        found = model.generate(**inputs, generation_config=config, **stops)
    ends = set(config.eos_token_id or ())
    return [trim(row, ends, tokenizer.pad_token_id) for row in found[:, inputs["input_ids"].shape[1] :].tolist()]


def settings(model: Any, tokenizer: Any, options: GenerationOptions, most: int) -> tuple[Any, dict[str, Any]]:
    """The model's generation config with the options in it, and what `generate` wants beside it.

    A text ends at any of the model's own end tokens (a chat model has several) or at the tokenizer's, which is the one
    that training puts behind a completion.
    """
    config = copy.deepcopy(model.generation_config)
    given = options.model_dump(exclude={"stop", "seed", "max_new_tokens"}, exclude_none=True)
    own = config.eos_token_id
    ends = {*([] if own is None else own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    config.update(max_length=None, max_new_tokens=most, pad_token_id=tokenizer.pad_token_id, **given)
    config.update(stop_strings=options.stop or None, eos_token_id=sorted(ends) or None)
    return config, {"tokenizer": tokenizer} if options.stop else {}


def trim(ids: Sequence[int], ends: Collection[int], pad: int | None) -> list[int]:
    """Tokens up to the first end token (which is kept) or the padding."""
    for place, token in enumerate(ids):
        if token in ends or token == pad:
            return list(ids[: place + (token in ends)])
    return list(ids)


def continuation(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], stop: Sequence[str]) -> str:
    """The text of tokens behind a prompt: decoded together with it, because some tokenizers write a space only between
    words; cut before the first of the stop strings."""
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    text = tokenizer.decode([*prompt, *ids], skip_special_tokens=True)[len(before) :]
    places = [text.index(entry) for entry in stop if entry in text]
    return text[: min(places)] if places else text


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of the negative log likelihoods, number of targets, number that were the most probable token; each [items].

    Args:
        logits: [items, positions, tokens]; position t speaks about label t + 1.
        labels: [items, positions], -100 where there is no target.
    """
    from torch.nn.functional import cross_entropy

    ahead = labels[:, 1:]
    said = logits[:, :-1].float()
    losses = cross_entropy(said.transpose(1, 2), ahead, ignore_index=-100, reduction="none")
    targets = ahead != -100
    return losses.sum(1), targets.sum(1), ((said.argmax(-1) == ahead) & targets).sum(1)


class Generated(list):
    """A prediction: `[{"generated_text"}]`; beside it what the metric needs: `completion` (the new text alone, None if
    nothing was generated), `nll` in nats, `tokens` and `hits` of the targets."""

    completion: str | None = None
    nll: float = 0.0
    tokens: int = 0
    hits: int = 0

    def __reduce__(self) -> tuple:
        return _restore, (list(self), dict(self.__dict__))


def _restore(entries: list[Any], attributes: dict[str, Any]) -> Generated:
    made = Generated(entries)
    made.__dict__.update(attributes)
    return made


class LanguageMetric(Metric):
    """Perplexity of the targets and, where rows ask for a completion, how the generated text compares with it.

    Keys: perplexity = exp(loss); loss, nats a token over all rows' targets; token_accuracy; with `compare` also
    exact_match, bleu (sacrebleu, corpus, 0..100; its signature is in the result) and rouge_l (F1, mean over rows, on
    words of any script).
    """

    primary = "perplexity"
    higher_is_better = False

    def __init__(self, compare: bool, reference: Any) -> None:
        self.keys = ("perplexity", "loss", "token_accuracy", *(("exact_match", "bleu", "rouge_l") if compare else ()))
        self.compare, self.reference = compare, reference
        self.nll, self.tokens, self.hits = 0.0, 0, 0
        self.guesses: list[str] = []
        self.truths: list[str] = []

    def update(self, row: Row, prediction: Any) -> None:
        self.nll += prediction.nll
        self.tokens += prediction.tokens
        self.hits += prediction.hits
        truth = self.reference(row)
        if self.compare and truth is not None and prediction.completion is not None:
            self.guesses.append(prediction.completion.strip())
            self.truths.append(truth.strip())

    def merge(self, other: LanguageMetric) -> None:
        self.nll += other.nll
        self.tokens += other.tokens
        self.hits += other.hits
        self.guesses += other.guesses
        self.truths += other.truths

    def result(self) -> dict[str, Json]:
        loss = self.nll / self.tokens if self.tokens else math.nan
        found: dict[str, Json] = {
            "perplexity": math.exp(min(loss, 700.0)) if self.tokens else math.nan,
            "loss": loss,
            "token_accuracy": self.hits / self.tokens if self.tokens else math.nan,
        }
        return {**found, **self._texts()} if self.compare else found

    def _texts(self) -> dict[str, Json]:
        if not self.truths:
            return dict.fromkeys(("exact_match", "bleu", "rouge_l"), math.nan)
        from sacrebleu.metrics.bleu import BLEU

        bleu = BLEU()
        score = bleu.corpus_score(self.guesses, [self.truths])
        pairs = list(zip(self.guesses, self.truths))
        return {
            "exact_match": sum(guess == truth for guess, truth in pairs) / len(pairs),
            "bleu": float(score.score),
            "rouge_l": sum(rouge_l(guess, truth) for guess, truth in pairs) / len(pairs),
            "bleu_signature": str(bleu.get_signature()),
        }


def rouge_l(guess: str, truth: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), by rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], tokenizer=Words()).score(truth, guess)["rougeL"].fmeasure)


def causal_module(model: nn.Module) -> Any:
    """The module that generates, behind what a distributed run may have wrapped around it."""
    return getattr(model, "module", model) if not hasattr(model, "generate") else model
