"""The stage `word_relations`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, RowsOptions, Stage, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topwork import Run
    from topwork_analyses.word_relations.attention_probe import Example
    from topwork_analyses.word_relations.dependencies import Choice, Counts
    from topwork_analyses.word_relations.sentences import Document, Sentence, Sentences
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
        from topwork_analyses.word_relations.sentences import Sentences

        assert self.dependencies is not None
        rows = run.read_rows(self.dependencies, f"stage {self.name}, dependencies")
        sentences = Sentences(rows, self.limit)
        choices, counted = self._choose(run, attention, sentences)
        counts, used, odd = self._confirm(run, attention, sentences, choices)
        lines = confirmed(choices, attention.heads, counts, confidence=self.confidence, draws=self.draws, seed=run.seed)
        if not lines:
            raise self._too_few(counted + odd, used, choices)
        result["tables"]["Dependencies"] = lines
        whole = next(line for line in lines if line["relation"] == ALL)
        result |= {"sentences": used, "relations": len(lines) - 1}
        result["sentences_left_out"] = odd - used
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

    def _half(self, run: Run, sentences: Sentences, start: int, label: str) -> Iterator[tuple[int, Sentence]]:
        """Yield this process's share of every second sentence from `start` on, with its index."""
        total = min(len(sentences.rows), self.limit) // 2 if isinstance(sentences.rows, Sized) else None
        share = (run.process.index, run.process.count)
        yield from run.progress(sentences.half(start, share), total, label)

    def _choose(self, run: Run, attention: WordAttention, sentences: Sentences) -> tuple[dict[str, Choice], int]:
        """Choose heads and offsets on the even sentences; return how many there are, too."""
        from topwork_analyses.word_relations.dependencies import OFFSETS, Counts, chosen, offset_heads, predicted_heads

        by_heads, by_offsets, count = Counts(2 * len(attention.heads)), Counts(len(OFFSETS)), 0
        for index, sentence in self._half(run, sentences, 0, "choosing attention heads"):
            count += 1
            words = attention(sentence.words, index, sentence.text)
            if words is not None:
                by_heads.add(predicted_heads(words.between), sentence)
                by_offsets.add(offset_heads(len(sentence.words)), sentence)
        choices = chosen(_merged(run, by_heads), _merged(run, by_offsets), self.least)
        return choices, sum(run.process.gather(count))

    def _confirm(
        self, run: Run, attention: WordAttention, sentences: Sentences, choices: dict[str, Choice]
    ) -> tuple[dict[str, NDArray[Any]], int, int]:
        """Count, on the odd sentences, words that the chosen heads and offsets have right.

        Returns:
            by relation [sentences, 4]: words right by the head, by the offset, all, sum of the chances of a random
            word; how many sentences were read; how many there are.
        """
        from topwork_analyses.statistics.row_table import RowTable
        from topwork_analyses.word_relations.dependencies import offset_heads, predicted_heads, right_words

        counts = {relation: RowTable(4) for relation in choices}
        used = count = 0
        for index, sentence in self._half(run, sentences, 1, "confirming them"):
            count += 1
            words = attention(sentence.words, index, sentence.text)
            if words is None:
                continue
            used += 1
            by_heads = right_words(predicted_heads(words.between), sentence)
            by_offsets = right_words(offset_heads(len(sentence.words)), sentence)
            for relation in by_heads.keys() & choices.keys():
                choice, (hits, number) = choices[relation], by_heads[relation]
                by_offset = by_offsets[relation][0][choice.offset]
                chance = number / (len(sentence.words) - 1)
                counts[relation].add(index, (hits[choice.predictor], by_offset, number, chance))
        gathered = run.process.gather((counts, used, count))
        # In the order of the sentences, whatever process counted them: resamples are then the same.
        tables = {relation: RowTable.joined([part[relation] for part, _, _ in gathered]) for relation in choices}
        return tables, sum(part[1] for part in gathered), sum(part[2] for part in gathered)

    def _probe(self, run: Run, attention: WordAttention, sentences: Sentences, result: dict[str, Json]) -> None:
        """Fit the attention-only probe on the even sentences; score it, and that of a random model, on the odd ones."""
        from topwork_analyses.statistics.bootstrap import ratio_intervals
        from topwork_analyses.word_relations.attention_probe import FeatureFile, accuracies, fit, randomised
        from topwork_analyses.word_relations.word_attention import WordAttention

        lines = []
        random = WordAttention(run.task, randomised(run.model, run.seed), run.plugins)
        for name, reader in (("attention heads", attention), ("attention heads of a random model", random)):
            file = run.folder / "checkpoints" / f"probe-{run.process.index}.features"
            weights = fit(FeatureFile(file, _examples(reader, sentences.half(0))))
            file.unlink()
            right = accuracies(weights, _examples(reader, sentences.half(1)))
            (interval,) = ratio_intervals(right[:, :1], right[:, 1], draws=self.draws, seed=run.seed)
            lines.append({"probe": name, "uas": interval.estimate, "low": interval.low, "high": interval.high})
        result["tables"]["Attention-only probe"] = lines
        result["metrics"] |= {"uas_probe": lines[0]["uas"], "uas_probe_random": lines[1]["uas"]}

    # ------------------------------------------------------------------ coreference

    def _coreference(self, run: Run, attention: WordAttention, result: dict[str, Json]) -> None:
        """Choose the best attention head for antecedents on even documents, and measure it on odd ones."""
        import numpy

        from topwork_analyses.statistics.bootstrap import ratio_intervals
        from topwork_analyses.statistics.row_table import RowTable
        from topwork_analyses.word_relations.coreference import antecedents, baselines, links
        from topwork_analyses.word_relations.dependencies import DIRECTIONS

        predictors = 2 * len(attention.heads)
        choosing, judging = numpy.zeros(predictors + 3), RowTable(predictors + 3)
        documents = skipped = chose = 0
        for index, document in enumerate(run.progress(self._documents(run), None, "coreference")):
            documents += 1
            words = attention(document.words, index, document.text)
            if words is None:
                skipped += 1
                continue
            known = list(links(document))
            hits = [[*antecedents(words.between, link), *baselines(document, link)] for link in known]
            if hits:
                counted = [*numpy.sum(hits, axis=0), len(hits)]
                if index % 2:
                    judging.add(index, counted)
                else:
                    choosing += counted
                    chose += 1
        if min(chose, len(judging)) < 2:
            cause = f"{documents} documents, {skipped} of them not read whole, leave too few with an antecedent"
            raise UsageError(cause, hint="give shorter documents, or more")
        judged = judging.table()
        best = int(choosing[:predictors].argmax())
        columns = judged[:, [best, predictors, predictors + 1]]
        tried = numpy.concatenate([columns, columns[:, :1] - columns[:, 1:2]], axis=1)
        intervals = ratio_intervals(tried, judged[:, -1], draws=self.draws, seed=run.seed, confidence=self.confidence)
        group, layer, head = attention.heads[best % len(attention.heads)]
        chosen = f"{group} {layer} head {head} ({DIRECTIONS[best // len(attention.heads)]})"
        names = (chosen, "nearest mention", "same word, else nearest", "gain over the nearest")
        lines = [{"by": name, **interval.json()} for name, interval in zip(names, intervals, strict=True)]
        result["tables"]["Coreference"] = lines
        result["metrics"]["coreference"] = lines[0]["estimate"]
        result |= {"documents": documents, "documents_too_long": skipped, "mentions": int(judged[:, -1].sum())}

    def _documents(self, run: Run) -> Iterator[Document]:
        from pathlib import Path

        from topwork_analyses.word_relations.sentences import document_of, read_documents

        options = self.coreference
        assert options is not None
        file = Path(options.path)
        if file.is_file() and file.name.endswith("conll"):
            yield from islice(read_documents(file), self.limit)
            return
        rows = islice(run.read_rows(options, f"stage {self.name}, coreference"), self.limit)
        for index, row in enumerate(rows):
            yield document_of(row, index)


def _merged(run: Run, counts: Counts) -> Counts:
    first, *others = run.process.gather(counts)
    for other in others:
        first.merge(other)
    return first


def _examples(attention: WordAttention, sentences: Iterable[tuple[int, Sentence]]) -> Iterator[Example]:
    """Yield features and heads of the sentences that the model takes."""
    from topwork_analyses.word_relations.attention_probe import features

    for index, sentence in sentences:
        words = attention(sentence.words, index, sentence.text)
        if words is not None:
            yield features(words), sentence.heads
