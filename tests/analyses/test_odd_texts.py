"""Texts and annotations as they are found: no spaces, cut words, unknown words, several roots, circles, line ends."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_models import classifier

from topwork import DataError, Units, UsageError
from topwork_analyses.exits.study import first_within
from topwork_analyses.positions.heads import heads_of
from topwork_analyses.positions.readers import TextReader
from topwork_analyses.positions.spans import Layout, Span
from topwork_analyses.positions.tokens import TextTokens, text_tokens, tokenizer_of
from topwork_analyses.probing.labelled_rows import targets_of
from topwork_analyses.syntax.cat_score import cat_score, permuted_scores
from topwork_analyses.syntax.dependencies import dependency_tree
from topwork_analyses.syntax.python_trees import python_tree
from topwork_analyses.syntax.study import AlignedRow, score_rows
from topwork_analyses.syntax.trees import token_distances
from topwork_analyses.word_relations.sentences import document_of, sentence_of
from topwork_analyses.word_relations.word_attention import WordAttention


def test_a_token_over_the_end_of_a_word_counts_for_the_word_of_which_it_covers_more() -> None:
    """Four words of a text without spaces, "ab|cde|f|gh": tokens "abc", "de", "fg", "h"."""
    words = [(0, 2), (2, 5), (5, 6), (6, 8)]
    layout = Layout(6, Units("token", special=[0, 5]), TextTokens([None, (0, 3), (3, 5), (5, 7), (7, 8), None], (0, 8)))
    assert layout.words(words) == [[1], [2], [3], [4]]
    assert layout.words([(0, 2), (2, 3), (3, 8)]) is None, "the second word has no token that is more its own"


def test_words_of_a_text_without_spaces_are_found_in_it() -> None:
    """Attention between them is that of the text as it stands, not of one with spaces that nobody writes."""
    work, _ = classifier(12)
    attention = WordAttention(work.task, work.model)
    thai = ["ฉัน", "รัก", "แมว"]
    spaced, whole = attention(thai), attention(thai, text="".join(thai))
    assert spaced is not None and spaced.between.shape[1:] == (3, 3)
    assert whole is None or whole.between.shape[1:] == (3, 3)
    words = ["sea", "bird", "s"]
    seen = attention(words, text="sea birds")
    tokens = len(TextReader(work.task, work.model).encode({"text": "sea birds"}, 0)[0].inputs["input_ids"])
    assert (seen is None) == (tokens < 5), "where `birds` is one token, its last letter has none of its own"
    with pytest.raises(DataError, match="does not stand in the text"):
        attention(["sea", "bird"], text="bird sea")
    assert sentence_of({"words": ["a"], "heads": [0], "relations": ["root"], "text": "a."}).text == "a."


def test_a_word_that_is_cut_is_not_there() -> None:
    """Also a word of several tokens of which the first are left, and none where the text ends with something unseen."""
    work, _ = classifier(12)
    reader = TextReader(work.task, work.model, max_length=8)
    text = "river stone cloud greenslowbirdnightpapertallwarm"
    item = reader.encode({"text": text}, 0)[0]
    layout = reader.layout(item, len(item.inputs["input_ids"]))
    assert layout.text is not None and layout.text.shown[1] < len(text)
    assert layout.positions(Span("characters", (0, 5)))
    assert layout.positions(Span("characters", (18, len(text)))) == []
    whole = TextReader(work.task, work.model).encode({"text": text}, 0)[0].inputs["input_ids"]
    assert text_tokens(tokenizer_of(work.task), text, whole).shown == (0, len(text))
    attention = WordAttention(work.task, work.model)
    attention.reader.max_length = 8
    assert attention(text.split()) is None


def test_an_unknown_word_is_a_word_and_no_special_token() -> None:
    work, _ = classifier(12)
    reader = TextReader(work.task, work.model)
    (item,) = reader.encode({"text": "sea 漢 bird"}, 0)
    ids = item.inputs["input_ids"]
    assert reader.tokenizer.unk_token_id in ids
    assert list(reader.layout(item, len(ids)).units.special) == [0, len(ids) - 1]
    (item,) = work.task.encode([{"text": "sea 漢 bird"}], "predict", 0)
    assert list(work.task.units(item).special) == [0, len(ids) - 1]


@pytest.mark.parametrize(
    ("heads", "cause"),
    [
        ([0, 1], "2 entries for 3 words"),
        ([0, 1, 4], "4 is no word of 3"),
        ([0, "1", 2], "'1' is no word"),
        ([0, 1, True], "True is no word"),
        ([0, 2, 1], "from word 2 to its head"),
        ([0, 3, 2], "from word 2 to its head"),
        (None, "no list"),
    ],
)
def test_heads_that_make_no_tree_are_refused_by_every_reader(heads: Any, cause: str) -> None:
    row = {"words": ["a", "b", "c"], "relations": ["x"] * 3, "heads": heads}
    readers = [sentence_of, lambda row, index: heads_of(row, 3, index)]
    readers += [dependency_tree, lambda row, index: targets_of(row, "relations", index)] if heads is not None else []
    for read in readers:
        with pytest.raises(DataError, match=cause) as caught:
            read(row, 5)
        assert caught.value.row == 5 and caught.value.column == "heads"


def test_words_under_several_roots_have_a_distance() -> None:
    row = {"words": ["a", "b", "c", "d"], "heads": [0, 1, 0, 3]}
    distances = token_distances(dependency_tree(row), upgraded=False)
    assert np.isfinite(distances).all()
    assert distances[0].tolist() == [0, 1, 2, 3]
    assert token_distances(dependency_tree(row), False, [0, 3]).tolist() == [[0, 3], [3, 0]]


@pytest.mark.parametrize(
    ("clusters", "cause"),
    [([[0, 1]], "0 is no mention"), ([3], "no cluster"), ([[[1, 1]]], "words 1 to 1"), ([[["a", 1]]], "no mention")],
)
def test_clusters_in_another_shape_are_refused(clusters: Any, cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        document_of({"words": ["a", "b"], "clusters": clusters}, 0)


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
@pytest.mark.parametrize(
    "code",
    [
        "@cached\n@other.kind(1)\ndef f(x):\n\treturn x\n",
        "text = '''a\n  b'''\nnext = text \\\n  + text\n",
        "def g():\n    # comment\n    return 1\n\n\nclass A:\n    @property\n    def x(self): return self\n",
    ],
)
def test_python_has_the_same_tree_under_every_line_end(code: str, ending: str) -> None:
    tree, other = python_tree(code), python_tree(code.replace("\n", ending))
    assert (tree.parents, tree.leaves) == (other.parents, other.leaves)
    assert [token.text.replace(ending, "\n") for token in other.tokens] == [token.text for token in tree.tokens]
    written = code.replace("\n", ending)
    assert all(written[token.start : token.end] == token.text for token in other.tokens)


def test_a_decorator_belongs_to_what_it_decorates() -> None:
    tree = python_tree("x = 1\n@cached\ndef f(): pass\n")
    at = {token.text: tree.parents[leaf] for token, leaf in zip(tree.tokens, tree.leaves)}
    assert at["@"] == at["def"] != 0


def test_rows_in_which_nothing_is_near_are_counted() -> None:
    """Of four words in a chain less than a quarter of the distances lie below 1: none but those of 0."""
    distances = np.abs(np.subtract.outer(np.arange(4), np.arange(4))).astype(float)
    attention = np.random.default_rng(0).random((1, 4, 4))
    short = AlignedRow(attention, distances, ["x"] * 4)
    long = AlignedRow(
        np.random.default_rng(1).random((1, 30, 30)),
        np.abs(np.subtract.outer(np.arange(30), np.arange(30))).astype(float),
        ["x"] * 30,
    )
    single = AlignedRow(attention[:, :1, :1], distances[:1, :1], ["x"])
    scores = score_rows([short, long, single], None, 5, 0, 0.75, 0.25)
    assert (len(scores.scores), scores.left_out, scores.only_themselves) == (2, 1, 1)
    assert set(permuted_scores(attention, distances, 5, 0).flatten()) == set(cat_score(attention, distances))


@pytest.mark.parametrize(
    ("values", "higher_is_better", "wanted"),
    [
        ([0.1, 0.85, 0.9], True, 1),
        ([0.0, 0.0, 0.0], True, None),
        ([-0.5, -0.4, -0.3], True, None),
        ([9.0, 2.2, 2.0], False, 1),
        ([1.0, 0.0, 0.0], False, 1),
        ([0.5, None, None], True, None),
        ([None, 0.8, 0.8], True, 1),
    ],
)
def test_a_layer_reaches_a_share_of_a_metric_that_has_shares(
    values: list[float | None], higher_is_better: bool, wanted: int | None
) -> None:
    assert first_within(values, 0.9, higher_is_better=higher_is_better) == wanted


def _conllu(folder: Path, odd: bool) -> str:
    """A treebank; the odd one with ranges of several words, empty nodes, comments, and a sentence of one word."""
    draw, lines = random.Random(1), []
    for number in range(16):
        words = draw.choices(["river", "stone", "sea", "bird"], k=draw.randint(4, 6))
        lines += [f"# sent_id = {number}"] if odd else []
        for index, word in enumerate(words, 1):
            lines += [f"{index}-{index + 1}\t{word}x\t" + "\t".join("_" * 8)] if odd and index == 2 else []
            lines.append(f"{index}\t{word}\t{word}\tNOUN\tX\t_\t{index - 1}\tdep\t_\t_")
            lines += [f"{index}.1\tgone\t" + "\t".join("_" * 8)] if odd and index == 3 else []
        lines.append("")
    lines += ["1\tsea\tsea\tNOUN\tX\t_\t0\troot\t_\t_", ""] if odd else []
    file = folder / f"{'odd' if odd else 'plain'}.conllu"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def test_ranges_empty_nodes_and_single_words_of_conllu_change_nothing(tmp_path: Path) -> None:
    work, rows = classifier(12)
    plain, odd = (
        work.apply("word_relations", {"evaluate": rows}, dependencies={"path": _conllu(tmp_path, is_odd)}, draws=100)
        for is_odd in (False, True)
    )
    assert plain["tables"] == odd["tables"] and plain["sentences"] == odd["sentences"] == 8
    assert plain["sentences_left_out"] == 0


def test_too_few_sentences_are_named(tmp_path: Path) -> None:
    work, rows = classifier(12)
    file = tmp_path / "two.conllu"
    file.write_text("\n".join(_conllu_lines() * 2), encoding="utf-8")
    with pytest.raises(UsageError, match="of 2 sentences of two words or more 1 are left"):
        work.apply("word_relations", {"evaluate": rows}, dependencies={"path": str(file)}, draws=100, least=1)
    with pytest.raises(UsageError, match="no relation has 10 words in every second of 2 sentences"):
        work.apply("word_relations", {"evaluate": rows}, dependencies={"path": str(file)}, draws=100)


def _conllu_lines() -> list[str]:
    return ["1\tsea\tsea\tNOUN\tX\t_\t2\tdep\t_\t_", "2\tbird\tbird\tNOUN\tX\t_\t0\troot\t_\t_", ""]


def test_overlapping_mentions_have_links_and_a_mention_twice_in_a_cluster_counts_once() -> None:
    from topwork_analyses.word_relations.coreference import antecedents, links

    row = {"words": list("abcdefg"), "clusters": [[[0, 3], [4, 5], [4, 5]], [[2, 3], [5, 6]], [[1, 3]]]}
    found = list(links(document_of(row)))
    assert [(link.word, link.candidates) for link in found] == [(4, (2,)), (5, (2, 4))]
    assert antecedents(torch.eye(7)[None], found[0]).tolist() == [1.0, 1.0]
