"""The stage `word_relations`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, RowsOptions, Stage, UsageError

if TYPE_CHECKING:
    import torch

    from topwork import Run
    from topwork_analyses.word_relations.dependencies import Choice, Counts
    from topwork_analyses.word_relations.sentences import Document, Sentence
    from topwork_analyses.word_relations.word_attention import WordAttention


class WordRelations(Stage):
    """Compare attention between words with dependencies and coreference: single heads, fixed offsets, a probe."""

    name: ClassVar[str] = "word_relations"
    columns_shown: ClassVar[tuple[str, ...]] = ("sentences", "roles", "uas_head", "uas_probe", "coreference")

    dependencies: RowsOptions | None = Field(
        None,
        description="rows with words, heads (1 for the first word, 0 for the root) and relations, or a file of CoNLL-U;"
        " with a `text` the words are looked for in it (languages without spaces)",
    )
    coreference: RowsOptions | None = Field(
        None, description="rows with words and clusters of [first word, word behind the last]; or a file of CoNLL 2012"
    )
    limit: PositiveInt = Field(400, ge=4, description="sentences or documents that are used")
    least: PositiveInt = Field(10, description="words that a relation needs on the sentences where heads are chosen")
    probe: bool = Field(True, description="also a weighted sum of all attention heads, and that of a random model")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals over sentences")
    draws: PositiveInt = Field(10_000, ge=100, description="resamples of sentences")

    @model_validator(mode="after")
    def _check(self) -> WordRelations:
        if self.dependencies is None and self.coreference is None:
            raise ValueError("give `dependencies` or `coreference`: rows with words and what belongs together")
        return self

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.word_relations.word_attention import WordAttention

        attention = WordAttention(run.task, run.model, run.plugins)
        result: dict[str, Json] = {"measures": "part", "tables": {}, "metrics": {}}
        if self.dependencies is not None:
            self._dependencies(run, attention, result)
        if self.coreference is not None:
            self._coreference(run, attention, result)
        return result

    # ------------------------------------------------------------------ dependencies

    def _dependencies(self, run: Run, attention: WordAttention, result: dict[str, Json]) -> None:
        from topwork_analyses.word_relations.dependencies import ALL, confirmed

        assert self.dependencies is not None
        sentences = self._sentences(run, self.dependencies)
        choices = self._choose(run, attention, sentences)
        counts, used = self._confirm(run, attention, sentences, choices)
        lines = confirmed(choices, attention.heads, counts, confidence=self.confidence, draws=self.draws, seed=run.seed)
        if not lines:
            raise self._too_few(len(sentences), used, choices)
        result["tables"]["Dependencies"] = lines
        whole = next(line for line in lines if line["relation"] == ALL)
        result |= {"sentences": used, "relations": len(lines) - 1}
        result["sentences_left_out"] = len(sentences[1::2]) - used
        result["roles"] = sum(line["role"] for line in lines if line["relation"] != ALL)
        result["metrics"] |= {"uas_head": whole["accuracy"], "uas_offset": whole["by offset"]}
        if self.probe:
            self._probe(run, attention, sentences, result)

    def _too_few(self, sentences: int, used: int, choices: dict[str, Choice]) -> UsageError:
        """Return why there is no relation to report."""
        if choices:
            cause = f"of {sentences} sentences of two words or more {used} are left to confirm what was chosen"
            return UsageError(cause, hint="give more sentences, or shorter ones that the model takes whole")
        hint = f"give more sentences, or a lower `least` than {self.least}"
        return UsageError(f"no relation has {self.least} words in every second of {sentences} sentences", hint=hint)

    def _sentences(self, run: Run, options: RowsOptions) -> list[Sentence]:
        from topwork_analyses.word_relations.sentences import sentence_of

        rows = islice(run.read_rows(options, f"stage {self.name}, dependencies"), self.limit)
        sentences = [sentence_of(row, index) for index, row in enumerate(rows)]
        return [sentence for sentence in sentences if len(sentence.words) > 1]

    def _share(self, run: Run, values: list[Any], start: int) -> Iterator[tuple[int, Any]]:
        """Yield this process's share of every second value from `start` on, with its index."""
        half = list(enumerate(values))[start::2]
        return iter(half[run.process.index :: run.process.count])

    def _choose(self, run: Run, attention: WordAttention, sentences: list[Sentence]) -> dict[str, Choice]:
        """Choose heads and offsets on the even sentences."""
        from topwork_analyses.word_relations.dependencies import OFFSETS, Counts, chosen, offset_heads, predicted_heads

        by_heads, by_offsets = Counts(2 * len(attention.heads)), Counts(len(OFFSETS))
        share = self._share(run, sentences, 0)
        for index, sentence in run.progress(share, len(sentences) // 2, "choosing attention heads"):
            words = attention(sentence.words, index, sentence.text)
            if words is not None:
                by_heads.add(predicted_heads(words.between), sentence)
                by_offsets.add(offset_heads(len(sentence.words)), sentence)
        return chosen(_merged(run, by_heads), _merged(run, by_offsets), self.least)

    def _confirm(
        self, run: Run, attention: WordAttention, sentences: list[Sentence], choices: dict[str, Choice]
    ) -> tuple[dict[str, list[tuple[float, float, int, float]]], int]:
        """Count, on the odd sentences, words that the chosen heads and offsets have right, by relation and sentence."""
        from topwork_analyses.word_relations.dependencies import offset_heads, predicted_heads, right_words

        counts: dict[str, dict[int, tuple[float, float, int, float]]] = {}
        used = 0
        share = self._share(run, sentences, 1)
        for index, sentence in run.progress(share, len(sentences) // 2, "confirming them"):
            words = attention(sentence.words, index, sentence.text)
            if words is None:
                continue
            used += 1
            by_heads = right_words(predicted_heads(words.between), sentence)
            by_offsets = right_words(offset_heads(len(sentence.words)), sentence)
            for relation in by_heads.keys() & choices.keys():
                choice, (hits, count) = choices[relation], by_heads[relation]
                by_offset = by_offsets[relation][0][choice.offset]
                chance = count / (len(sentence.words) - 1)
                counts.setdefault(relation, {})[index] = (hits[choice.predictor], by_offset, count, chance)
        gathered = run.process.gather((counts, used))
        lines = {
            relation: {index: line for part, _ in gathered for index, line in part.get(relation, {}).items()}
            for relation in choices
        }
        # In the order of the sentences, whatever process counted them: resamples are then the same.
        in_order = {relation: [by_index[index] for index in sorted(by_index)] for relation, by_index in lines.items()}
        return in_order, sum(number for _, number in gathered)

    def _probe(self, run: Run, attention: WordAttention, sentences: list[Sentence], result: dict[str, Json]) -> None:
        """Fit the attention-only probe on the even sentences; score it, and that of a random model, on the odd ones."""
        from topwork_analyses.statistics.bootstrap import ratio_intervals
        from topwork_analyses.word_relations.attention_probe import accuracies, fit, randomised
        from topwork_analyses.word_relations.word_attention import WordAttention

        lines = []
        random = WordAttention(run.task, randomised(run.model, run.seed), run.plugins)
        for name, reader in (("attention heads", attention), ("attention heads of a random model", random)):
            train = _tables(reader, sentences[::2])
            test = _tables(reader, sentences[1::2])
            weights = fit(*train)
            right = accuracies(weights, *test)
            (interval,) = ratio_intervals(right[:, :1], right[:, 1], draws=self.draws, seed=run.seed)
            lines.append({"probe": name, "uas": interval.estimate, "low": interval.low, "high": interval.high})
        result["tables"]["Attention-only probe"] = lines
        result["metrics"] |= {"uas_probe": lines[0]["uas"], "uas_probe_random": lines[1]["uas"]}

    # ------------------------------------------------------------------ coreference

    def _coreference(self, run: Run, attention: WordAttention, result: dict[str, Json]) -> None:
        """Choose the best attention head for antecedents on even documents, and measure it on odd ones."""
        import numpy

        from topwork_analyses.statistics.bootstrap import ratio_intervals
        from topwork_analyses.word_relations.coreference import antecedents, baselines, links
        from topwork_analyses.word_relations.dependencies import DIRECTIONS

        documents = self._documents(run)
        tables: list[list[Any]] = [[], []]
        skipped = 0
        for index, document in enumerate(run.progress(documents, len(documents), "coreference")):
            words = attention(document.words, index, document.text)
            if words is None:
                skipped += 1
                continue
            known = list(links(document))
            hits = [[*antecedents(words.between, link), *baselines(document, link)] for link in known]
            if hits:
                tables[index % 2].append([*numpy.sum(hits, axis=0), len(hits)])
        if min(map(len, tables)) < 2:
            cause = f"{len(documents)} documents, {skipped} of them not read whole, leave too few with an antecedent"
            raise UsageError(cause, hint="give shorter documents, or more")
        choosing, judging = (numpy.array(table) for table in tables)
        predictors = 2 * len(attention.heads)
        best = int(choosing[:, :predictors].sum(0).argmax())
        columns = judging[:, [best, predictors, predictors + 1]]
        tried = numpy.concatenate([columns, columns[:, :1] - columns[:, 1:2]], axis=1)
        intervals = ratio_intervals(tried, judging[:, -1], draws=self.draws, seed=run.seed, confidence=self.confidence)
        group, layer, head = attention.heads[best % len(attention.heads)]
        chosen = f"{group} {layer} head {head} ({DIRECTIONS[best // len(attention.heads)]})"
        names = (chosen, "nearest mention", "same word, else nearest", "gain over the nearest")
        lines = [{"by": name, **interval.json()} for name, interval in zip(names, intervals, strict=True)]
        result["tables"]["Coreference"] = lines
        result["metrics"]["coreference"] = lines[0]["estimate"]
        result |= {"documents": len(documents), "documents_too_long": skipped, "mentions": int(judging[:, -1].sum())}

    def _documents(self, run: Run) -> list[Document]:
        from pathlib import Path

        from topwork_analyses.word_relations.sentences import document_of, read_documents

        options = self.coreference
        assert options is not None
        file = Path(options.path)
        if file.is_file() and file.name.endswith("conll"):
            return list(islice(read_documents(file), self.limit))
        rows = islice(run.read_rows(options, f"stage {self.name}, coreference"), self.limit)
        return [document_of(row, index) for index, row in enumerate(rows)]


def _merged(run: Run, counts: Counts) -> Counts:
    first, *others = run.process.gather(counts)
    for other in others:
        first.merge(other)
    return first


def _tables(attention: WordAttention, sentences: list[Sentence]) -> tuple[list[torch.Tensor], list[Sentence]]:
    """Return features of the sentences that the model takes, in half precision: they are kept until the end."""
    from topwork_analyses.word_relations.attention_probe import features

    tables, used = [], []
    for sentence in sentences:
        words = attention(sentence.words, text=sentence.text)
        if words is not None:
            tables.append(features(words).half())
            used.append(sentence)
    return tables, used
