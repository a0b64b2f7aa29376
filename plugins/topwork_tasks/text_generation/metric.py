"""Predictions of text-generation and their metric: perplexity, and generated texts against completions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from topwork import Json, Metric, Picture, Row
from topwork_tasks._text.metrics import BleuTokenizer, UnicodeForm, corpus_bleu, in_unicode_form, rouge_l

if TYPE_CHECKING:
    import torch

_TEXT_KEYS = ("exact_match", "bleu", "rouge_l")


class GeneratedText(list):
    """Prediction `[{"generated_text"}]`, with what the metric needs.

    Attributes:
        completion: the new text alone; None if nothing was generated.
        nll: nats of all targets. tokens: their number. hits: how many were the most probable token.
    """

    completion: str | None = None
    nll: float = 0.0
    tokens: int = 0
    hits: int = 0

    @classmethod
    def of_parts(cls, shown: Any, completion: str | None, parts: Sequence[Mapping[str, Any]]) -> GeneratedText:
        """Make a prediction of what is shown of it, and of the parts of a row's items."""
        prediction = cls([{"generated_text": shown}])
        prediction.completion = completion
        prediction.nll = sum(part["nll"] for part in parts)
        prediction.tokens = sum(part["tokens"] for part in parts)
        prediction.hits = sum(part["hits"] for part in parts)
        return prediction


def draw_text(question: str | None, prediction: GeneratedText, truth: str | None) -> Picture:
    """Draw what was to be continued, the new text and the truth; badness is the loss in nats a token."""
    badness = prediction.nll / prediction.tokens if prediction.tokens else 0.0
    pieces = [(question or "", "question"), (prediction.completion or "", "predicted"), (truth or "", "truth")]
    caption = f"{badness:.2f} nats a token" if prediction.tokens else "generated"
    facts = {**({"truth": truth} if truth else {}), "prediction": prediction.completion or ""}
    shown = [piece for piece in pieces if piece[0]]
    return Picture(caption, badness, None, shown, facts=facts, measure="loss in nats a token")


def causal_token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sum of the negative log likelihoods, the number of targets, and how many were the most probable token.

    Args:
        logits: [items, positions, tokens]; position t predicts label t + 1.
        labels: [items, positions], -100 where there is no target.

    Returns:
        three tensors [items].
    """
    from torch.nn.functional import cross_entropy

    ahead = labels[:, 1:]
    predicting = logits[:, :-1].float()
    losses = cross_entropy(predicting.transpose(1, 2), ahead, ignore_index=-100, reduction="none")
    targets = ahead != -100
    return losses.sum(1), targets.sum(1), ((predicting.argmax(-1) == ahead) & targets).sum(1)


class LanguageMetric(Metric):
    """Perplexity of the targets and, where rows have a completion, how the generated text compares with it.

    Keys: perplexity = exp(loss); loss, nats a token over all rows' targets; token_accuracy; with `compare` also
    exact_match, bleu (sacrebleu, corpus, 0 to 100; its signature is in the result) and rouge_l (F1, mean over rows, on
    words of any script). `perplexity_of` in the result says what a token is predicted from.

    Args:
        compare: whether rows have completions.
        reference: returns the true completion of a row, or None.
        bleu_tokenizer: of sacreBLEU; "auto" chooses by the script of the completions.
        form: Unicode form of both texts before they are compared.
        context: what the perplexity is of: single texts, or texts in blocks.
    """

    primary = "perplexity"
    higher_is_better = False

    def __init__(
        self,
        compare: bool,
        reference: Callable[[Row], str | None],
        bleu_tokenizer: BleuTokenizer = "auto",
        form: UnicodeForm = "none",
        context: str = "single texts",
    ) -> None:
        self.context = context
        self.keys = ("perplexity", "loss", "token_accuracy", *(_TEXT_KEYS if compare else ()))
        self.compare, self.reference = compare, reference
        self.bleu_tokenizer: BleuTokenizer = bleu_tokenizer
        self.form: UnicodeForm = form
        self.nll, self.tokens, self.hits = 0.0, 0, 0
        self.predictions: list[str] = []
        self.truths: list[str] = []

    @override
    def update(self, row: Row, prediction: GeneratedText) -> None:
        self.nll += prediction.nll
        self.tokens += prediction.tokens
        self.hits += prediction.hits
        truth = self.reference(row)
        if self.compare and truth is not None and prediction.completion is not None:
            self.predictions.append(in_unicode_form(prediction.completion.strip(), self.form))
            self.truths.append(in_unicode_form(truth.strip(), self.form))

    @override
    def merge(self, metric: LanguageMetric) -> None:
        self.nll += metric.nll
        self.tokens += metric.tokens
        self.hits += metric.hits
        self.predictions += metric.predictions
        self.truths += metric.truths

    @override
    def result(self) -> dict[str, Json]:
        loss = self.nll / self.tokens if self.tokens else math.nan
        scores: dict[str, Json] = {
            "perplexity": math.exp(min(loss, 700.0)) if self.tokens else math.nan,
            "loss": loss,
            "token_accuracy": self.hits / self.tokens if self.tokens else math.nan,
        }
        scores = {**scores, **self._texts()} if self.compare else scores
        return {**scores, "perplexity_of": self.context} if self.tokens else scores

    def _texts(self) -> dict[str, Json]:
        if not self.truths:
            return dict.fromkeys(_TEXT_KEYS, math.nan)
        bleu, signature = corpus_bleu(self.predictions, self.truths, self.bleu_tokenizer)
        pairs = list(zip(self.predictions, self.truths))
        return {
            "exact_match": sum(predicted == truth for predicted, truth in pairs) / len(pairs),
            "bleu": bleu,
            "rouge_l": sum(rouge_l(predicted, truth) for predicted, truth in pairs) / len(pairs),
            "bleu_signature": signature,
        }
