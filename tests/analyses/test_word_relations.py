"""Attention between words against planted attention and toy treebanks; the checks C4, C5 and C6 of Clark et al."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from analysis_models import WORDS, classifier

from topwork import DataError, TopworkError, UsageError
from topwork_analyses.statistics.bootstrap import ratio_intervals
from topwork_analyses.word_relations import attention_probe
from topwork_analyses.word_relations.coreference import antecedents, baselines, links
from topwork_analyses.word_relations.dependencies import (
    ALL,
    OFFSETS,
    Counts,
    chosen,
    confirmed,
    offset_heads,
    predicted_heads,
    right_words,
)
from topwork_analyses.word_relations.sentences import Document, Sentence, document_of, read_documents, sentence_of
from topwork_analyses.word_relations.word_attention import WordAttention, Words, between_groups


def _tree(count: int, draw: random.Random) -> Sentence:
    """A random tree: each word hangs on an earlier one, in a random order."""
    order = draw.sample(range(count), count)
    heads = [-1] * count
    for index, word in enumerate(order[1:], 1):
        heads[word] = order[draw.randrange(index)]
    relations = ["root" if head < 0 else ("left" if head < word else "right") for word, head in enumerate(heads)]
    return Sentence(tuple(draw.choices(WORDS, k=count)), tuple(heads), tuple(relations))


def _attention(heads: int, words: int, seed: int) -> torch.Tensor:
    return torch.rand(heads, words, words, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_c4_attention_to_words_is_a_sum_and_from_words_a_mean() -> None:
    """C4: rows still add up to 1; words of one token keep their attention."""
    weights = _attention(3, 6, 0)
    groups = [[0], [1, 2], [3], [4], [5]]
    merged = between_groups(weights, groups)
    assert merged.sum(-1).numpy() == pytest.approx(1.0, abs=1e-6)
    assert merged[:, 1, 2].tolist() == pytest.approx(((weights[:, 1, 3] + weights[:, 2, 3]) / 2).tolist())
    assert merged[:, 3, 1].tolist() == pytest.approx((weights[:, 4, 1] + weights[:, 4, 2]).tolist())
    assert torch.allclose(between_groups(weights, [[index] for index in range(6)]), weights)


def _study(attentions: list[torch.Tensor], sentences: list[Sentence]) -> list[dict[str, Any]]:
    """Choose on the even sentences, confirm on the odd ones."""
    heads = len(attentions[0])
    by_heads, by_offsets = Counts(2 * heads), Counts(len(OFFSETS))
    for between, sentence in zip(attentions[::2], sentences[::2], strict=True):
        by_heads.add(predicted_heads(between), sentence)
        by_offsets.add(offset_heads(len(sentence.words)), sentence)
    choices = chosen(by_heads, by_offsets)
    counts: dict[str, list[Any]] = {}
    for between, sentence in zip(attentions[1::2], sentences[1::2], strict=True):
        right, fixed = (
            right_words(predicted_heads(between), sentence),
            right_words(offset_heads(len(between[0])), sentence),
        )
        for relation, (hits, count) in right.items():
            choice = choices[relation]
            chance = count / (len(sentence.words) - 1)
            counts.setdefault(relation, []).append(
                (hits[choice.predictor], fixed[relation][0][choice.offset], count, chance)
            )
    return confirmed(choices, [("encoder", 0, index) for index in range(heads)], counts, draws=300)


def _planted(sentence: Sentence, seed: int, backwards: bool = False) -> torch.Tensor:
    """Three random attention heads and one that looks at the head of each word (or at its dependents)."""
    between = _attention(4, len(sentence.words), seed)
    for word, head in enumerate(sentence.heads):
        if head >= 0:
            between[(2, head, word) if backwards else (2, word, head)] = 5.0
    return between


@pytest.mark.parametrize("backwards", [False, True])
def test_c5_a_planted_head_is_chosen_and_confirmed_at_accuracy_1(backwards: bool) -> None:
    draw = random.Random(0)
    sentences = [_tree(draw.randint(6, 12), draw) for _ in range(40)]
    lines = _study([_planted(s, i, backwards) for i, s in enumerate(sentences)], sentences)
    assert {line["relation"] for line in lines} == {ALL, "left", "right"}
    for line in lines:
        assert (line["accuracy"], line["low"], line["high"], line["head"]) == (1.0, 1.0, 1.0, 2)
        assert line["direction"] == ("is attended by" if backwards else "attends to")
        assert line["role"] and line["by offset"] < 0.6


def test_c5_random_attention_is_right_by_chance() -> None:
    """C5: one word in n - 1; what was best on the other half falls back to that, and has no role."""
    draw = random.Random(1)
    sentences = [_tree(9, draw) for _ in range(300)]
    lines = _study([_attention(6, 9, index) for index in range(300)], sentences)
    whole = next(line for line in lines if line["relation"] == ALL)
    assert whole["chance"] == pytest.approx(1 / 8)
    assert whole["low"] < 1 / 8 < whole["high"]
    assert not any(line["role"] for line in lines)


def test_c5_the_offset_baseline_is_exact_on_a_toy_treebank() -> None:
    sentence = Sentence(("the", "bird", "sees", "a", "sea"), (1, 2, -1, 4, 2), ("det", "nsubj", "root", "det", "obj"))
    counts = Counts(len(OFFSETS))
    counts.add(offset_heads(5), sentence)
    assert counts.all == {"det": 2, "nsubj": 1, "obj": 1, ALL: 4}
    by_offset = {offset: counts.right["det"][index] for index, offset in enumerate(OFFSETS)}
    assert by_offset == {offset: 2.0 if offset == 1 else 0.0 for offset in OFFSETS}
    assert counts.right[ALL][OFFSETS.index(1)] == 3
    assert counts.right["obj"][OFFSETS.index(-2)] == 1


def _probe_words(sentence: Sentence, seed: int, signal: float) -> Words:
    """Attention whose heads 1 (to the head of a word) and 3 (from it) know half of the relations each."""
    between = _attention(4, len(sentence.words), seed)
    for word, head in enumerate(sentence.heads):
        if head >= 0 and sentence.relations[word] == "left":
            between[1, word, head] += signal
        elif head >= 0:
            between[3, head, word] += signal
    to_root = torch.rand(4, len(sentence.words), generator=torch.Generator().manual_seed(seed)) * 0.01
    root = sentence.heads.index(-1)
    to_root[0, root] += signal
    return Words(between, torch.zeros_like(to_root), to_root)


def test_c6_the_probe_finds_a_combination_of_two_heads() -> None:
    """C6: neither attention head alone is right more than about half of the time, their sum is."""
    draw = random.Random(2)
    sentences = [_tree(draw.randint(5, 9), draw) for _ in range(60)]
    scores = {}
    for name, signal in (("planted", 0.5), ("random", 0.0)):
        tables = [attention_probe.features(_probe_words(s, i, signal)) for i, s in enumerate(sentences)]
        examples = [(table, sentence.heads) for table, sentence in zip(tables, sentences)]
        weights = attention_probe.fit(examples[::2])
        right = attention_probe.accuracies(weights, examples[1::2])
        scores[name] = right[:, 0].sum() / right[:, 1].sum()
    assert scores["planted"] >= 0.95
    fixed = Counts(len(OFFSETS))
    for sentence in sentences[1::2]:
        fixed.add(offset_heads(len(sentence.words)), sentence)
    assert scores["random"] <= fixed.right[ALL].max() / fixed.all[ALL] + 0.05
    with pytest.raises(UsageError, match="no sentences"):
        attention_probe.fit([])


def test_ratios_are_resampled_with_their_denominators() -> None:
    words = numpy.array([1.0, 9.0, 5.0, 5.0])
    (interval,) = ratio_intervals(words[:, None] / 2, words, draws=100)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((0.5, 0.5, 0.5))


CONLL = """#begin document (a); part 000
a 0 0 The (1
a 0 1 bird 1)
a 0 2 sees -
a 0 3 the (2
a 0 4 sea 2)

a 0 0 It (1)
a 0 1 likes -
a 0 2 the (2|(3)
a 0 3 sea 2)
#end document
"""


def test_clusters_of_conll_and_their_links(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text(CONLL, encoding="utf-8")
    (document,) = read_documents(file)
    assert document.words == ("The", "bird", "sees", "the", "sea", "It", "likes", "the", "sea")
    assert set(document.clusters) == {((0, 2), (5, 6)), ((3, 5), (7, 9)), ((7, 8),)}
    it, sea = links(document)
    assert (it.word, it.candidates, set(it.antecedents), it.is_pronoun) == (5, (1, 4), {1}, True)
    assert baselines(document, it) == (0.0, 0.0)  # the nearest is the sea
    assert baselines(document, sea) == (0.0, 1.0)
    between = torch.zeros(2, 9, 9)
    between[0, 5, 1] = between[1, 4, 5] = 1.0
    assert antecedents(between, it).tolist() == [1.0, 1.0, 1.0, 0.0]  # ties go to the first
    file.write_text(CONLL.replace("2)\n#end", "-\n#end"), encoding="utf-8")
    with pytest.raises(DataError, match="mention 2 does not"):
        list(read_documents(file))
    file.write_text(CONLL.replace("(1)", "7)"), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.conll:8: mention 7 ends"):
        list(read_documents(file))


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"words": []}, "empty"),
        ({"words": ["a"], "heads": [0]}, "missing"),
        ({"words": ["a", "b"], "heads": [0], "relations": ["x", "y"]}, "1 entries for 2 words"),
        ({"words": ["a"], "heads": [3], "relations": ["x"]}, "3 is no word"),
    ],
)
def test_rows_that_are_no_sentence_are_refused(row: dict[str, Any], cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        sentence_of(row, 4)


def test_a_mention_outside_of_the_words_is_refused() -> None:
    with pytest.raises(DataError, match="words 1 to 3 of 2"):
        document_of({"words": ["a", "b"], "clusters": [[[1, 3]]]})
    assert document_of({"words": ["a"], "clusters": []}) == Document(("a",), ())


def _treebank(folder: Path, count: int = 24) -> str:
    draw = random.Random(3)
    lines = []
    for _ in range(count):
        sentence = _tree(draw.randint(4, 8), draw)
        for word, (form, head, relation) in enumerate(zip(sentence.words, sentence.heads, sentence.relations), 1):
            lines.append("\t".join([str(word), form, form, "X", "X", "_", str(head + 1), relation, "_", "_"]))
        lines.append("")
    (folder / "trees.conllu").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "trees.conllu")


def test_the_stage_reads_conllu_and_conll(tmp_path: Path) -> None:
    work, rows = classifier(12)
    file = tmp_path / "documents.conll"
    file.write_text(CONLL * 6, encoding="utf-8")
    options = {"dependencies": {"path": _treebank(tmp_path)}, "coreference": {"path": str(file)}, "draws": 100}
    result = work.apply("word_relations", {"evaluate": rows}, **options)
    assert result["sentences"] == 12
    assert result["documents"] == 6
    lines = result["tables"]["Dependencies"]
    assert lines[0]["relation"] == ALL
    assert all(line["low"] <= line["accuracy"] <= line["high"] for line in lines)
    assert [line["probe"] for line in result["tables"]["Attention-only probe"]][1].endswith("random model")
    assert len(result["tables"]["Coreference"]) == 4
    assert set(result["metrics"]) == {"uas_head", "uas_offset", "uas_probe", "uas_probe_random", "coreference"}


def test_words_are_those_of_the_library_s_attention(tmp_path: Path) -> None:
    """Against eager attention with output_attentions, merged by hand from the tokenizer's own word numbers."""
    work, _ = classifier(12)
    attention = WordAttention(work.task, work.model)
    words = ["river", "stonecloud", "birds"]
    seen = attention(words)
    assert seen is not None
    tokenizer = work.task.state.processors["tokenizer"]
    encoded = tokenizer(" ".join(words), return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    work.model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = torch.cat(work.model(**encoded, output_attentions=True).attentions)[:, :].flatten(0, 1)
    bounds = [(0, 5), (6, 16), (17, 22)]
    groups = [[i for i, (a, b) in enumerate(offsets) if b > a and a >= x and b <= y] for x, y in bounds]
    for query, from_pieces in enumerate(groups):
        for key, to_pieces in enumerate(groups):
            wanted = weights[:, from_pieces][:, :, to_pieces].sum(-1).mean(-1)
            assert seen.between[:, query, key].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_task_without_texts_is_refused() -> None:
    import copy

    from tiny_bases import BASES

    import topwork

    task = topwork.load_plugins().tasks["image-classification"]
    work = topwork.build(task.name, copy.deepcopy(BASES[task.name]), rows=task.example_rows())
    with pytest.raises(TopworkError, match="no tokenizer"):
        work.apply("word_relations", {}, dependencies={"path": "trees.conllu"})
    work, rows = classifier(12)
    with pytest.raises((TopworkError, ValueError), match="give `dependencies` or `coreference`"):
        work.apply("word_relations", {"evaluate": rows})
