"""Predictions of token-classification: from the scores of tokens to tags of words, entities and drawn texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from topwork import Json, Picture, Row
from topwork_tasks._text.windows import covered_words, tokens_of_words
from topwork_tasks._text.words import Span, is_punctuation, trim_span
from topwork_tasks.token_classification.entities import Entity, Scheme, continuing_tags, groups, is_outside
from topwork_tasks.token_classification.options import Aggregation
from topwork_tasks.token_classification.tags import RowReader


class JudgedToken(NamedTuple):
    """A token with the model's judgement.

    Args:
        tag: index of the likeliest tag. score: its probability.
        token: id. span: its characters.
        scores: probabilities of all tags, where the aggregation needs them.
    """

    tag: int
    score: float
    token: int
    span: Span
    scores: Sequence[float] | None = None


class TagPrediction(list):
    """Prediction in the pipeline's shape, or one entry a word, with what the metric needs.

    Attributes:
        tags: tag of each word.
        scores: probability of each of these tags; 0 for a word without tokens.
        spans: entities as spans of characters.
        words: where the words stand in the text.
    """

    tags: list[str]
    scores: Sequence[float] = ()
    spans: list[Entity]
    words: Sequence[Span] = ()


class TokenReader:
    """Reads predictions from the judged tokens of a whole text.

    Args:
        tokenizer: of the tokens. reader: of the rows.
        scheme: of the tags. aggregation: how tokens become tags of words.
    """

    def __init__(self, tokenizer: Any, reader: RowReader, scheme: Scheme, aggregation: Aggregation) -> None:
        self.tokenizer, self.reader, self.scheme, self.aggregation = tokenizer, reader, scheme, aggregation
        self.names = reader.names
        self.continuing = continuing_tags(reader.names, scheme)

    def read(self, row: Row, judged: Sequence[JudgedToken]) -> TagPrediction:
        """Return a row's prediction.

        Rows with `words` are answered with one entry a word, rows with `text` with entities; metrics compare the same
        tags and entities. Aggregation "none" gives single tokens and "simple" entities of neighbouring tokens, both as
        the Hub's pipeline does.
        """
        text, words = self.reader.words(row, None)
        has_words = row.get("words") is not None
        tags, scores = self._word_tags(words, judged)
        if not has_words and self.scheme != "plain":
            tags = self._without_covered_signs(text, words, judged, tags)
        prediction = TagPrediction()
        prediction.tags, prediction.scores, prediction.words = tags, scores, words
        entities = groups(tags, self.scheme)
        prediction.spans = [(kind, words[first][0], words[last - 1][1]) for kind, first, last in entities]
        if self.aggregation == "none":
            prediction[:] = self._tokens(text, judged)
        elif self.aggregation == "simple":
            prediction[:] = self._token_groups(text, judged)
            if has_words:
                return prediction  # metrics compare one tag a word
            kinds = [group["entity_group"] for group in prediction]
            spans = [trim_span(text, group["start"], group["end"]) for group in prediction]
            prediction.spans = [(kind, start, end) for kind, (start, end) in zip(kinds, spans)]
        elif has_words:
            prediction[:] = [
                {"entity": tag, "score": score, "index": index, "word": text[start:end], "start": start, "end": end}
                for index, (tag, score, (start, end)) in enumerate(zip(tags, scores, words))
            ]
        else:
            prediction[:] = [
                {
                    "entity_group": kind,
                    "score": sum(scores[first:last]) / (last - first),
                    "word": text[words[first][0] : words[last - 1][1]],
                    "start": words[first][0],
                    "end": words[last - 1][1],
                }
                for kind, first, last in entities
            ]
        return prediction

    def _word_tags(self, words: Sequence[Span], judged: Sequence[JudgedToken]) -> tuple[list[str], list[float]]:
        """Return the tag of each word and its score; a word without tokens is outside."""
        tags: list[str] = []
        scores: list[float] = []
        last_tag, carried = -1, -1
        for tokens in tokens_of_words(words, [token.span for token in judged]):
            if not tokens:
                tags.append(self.reader.outside)
                scores.append(0.0)
                continue
            if tokens[0] > carried:
                last_tag, score = self._aggregate([judged[token] for token in tokens])
                carried = tokens[-1]
            else:  # a token that reaches over several words
                last_tag, score = self.continuing[last_tag], scores[-1]
            tags.append(self.names[last_tag])
            scores.append(score)
        return tags, scores

    def _without_covered_signs(
        self, text: str, words: Sequence[Span], judged: Sequence[JudgedToken], tags: list[str]
    ) -> list[str]:
        """Return the tags of words; a sign behind an entity that its last token covers too is outside of it."""
        covered = covered_words(words, [token.span for token in judged])
        ends = {last for _, _, last in groups(tags, self.scheme)}
        trimmed = list(tags)
        for last in ends:
            word = last - 1
            while covered[word] and is_punctuation(text[slice(*words[word])]):
                trimmed[word] = self.reader.outside
                word -= 1
        return trimmed

    def _aggregate(self, tokens: Sequence[JudgedToken]) -> tuple[int, float]:
        """Return the tag of the word that tokens make, and its score."""
        if self.aggregation == "max":
            best = max(tokens, key=lambda token: token.score)
            return best.tag, best.score
        if self.aggregation == "average":
            sums = [sum(scores) for scores in zip(*(token.scores or () for token in tokens))]
            tag = max(range(len(sums)), key=sums.__getitem__)
            return tag, sums[tag] / len(tokens)
        return tokens[0].tag, tokens[0].score

    def _pieces(self, text: str, judged: Sequence[JudgedToken]) -> list[str]:
        """Return tokens as written; one that the vocabulary lacks by the characters that it covers."""
        pieces = self.tokenizer.convert_ids_to_tokens([token.token for token in judged])
        for index, token in enumerate(judged):
            if token.token == self.tokenizer.unk_token_id:
                pieces[index] = text[token.span[0] : token.span[1]]
        return pieces

    def _tokens(self, text: str, judged: Sequence[JudgedToken]) -> list[Json]:
        pieces = self._pieces(text, judged)
        return [
            {
                "entity": self.names[token.tag],
                "score": token.score,
                "index": index + 1,
                "word": pieces[index],
                "start": token.span[0],
                "end": token.span[1],
            }
            for index, token in enumerate(judged)
            if not is_outside(self.names[token.tag], self.scheme)
        ]

    def _token_groups(self, text: str, judged: Sequence[JudgedToken]) -> list[Json]:
        pieces = self._pieces(text, judged)
        return [
            {
                "entity_group": kind,
                "score": sum(token.score for token in judged[first:last]) / (last - first),
                "word": self.tokenizer.convert_tokens_to_string(pieces[first:last]),
                "start": judged[first].span[0],
                "end": judged[last - 1].span[1],
            }
            for kind, first, last in groups([self.names[token.tag] for token in judged], self.scheme)
        ]


def draw_tags(row: Row, prediction: TagPrediction, reader: RowReader, scheme: Scheme) -> Picture:
    """Draw the text with predicted entities marked; "truth" marks those that were missed, "wrong" the false ones."""
    text, words = reader.words(row, None)
    predicted = set(prediction.spans)
    is_known = row.get("tags") is not None or row.get("spans") is not None
    true = predicted
    if is_known:
        tags, spans = reader(row)
        entities = groups(tags, scheme) if tags is not None else []
        true = {(kind, words[first][0], words[last - 1][1]) for kind, first, last in entities} | set(spans)
    marks = sorted((span[1], span[2], span[0], _mark(span, predicted, true)) for span in predicted | true)
    shown: list[tuple[str, str]] = []
    position = 0
    for start, end, kind, mark in marks:
        shown += [(text[position:start], ""), (f"{text[max(position, start) : end]} [{kind}]", mark)]
        position = max(position, end)
    shown.append((text[position:], ""))
    wrong = len(predicted ^ true)
    in_order = sorted(predicted, key=lambda span: span[1])
    caption = ", ".join(f"{text[start:end]}: {kind}" for kind, start, end in in_order)
    return Picture(
        (caption or "no entities")[:300],
        wrong / max(1, len(predicted | true)) if is_known else 0.0,
        text=[pair for pair in shown if pair[0]],
        facts={**({"true": len(true), "wrong": wrong} if is_known else {}), "predicted": len(predicted)},
        measure="share of entities that are missed or wrong",
    )


def _mark(span: Entity, predicted: set[Entity], true: set[Entity]) -> str:
    if span in predicted and span in true:
        return "right"
    return "wrong" if span in predicted else "truth"
