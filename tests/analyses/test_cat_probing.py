"""CAT-probing: checks X1 to X5 of the literature, trees of Python and other languages, types of tokens, the stage."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
from lens_recipes import RANGE, SIZES

import topwork
from topwork import DataError, Refused, UsageError
from topwork_analyses.positions.readers import TextReader
from topwork_analyses.syntax.cat_score import cat_score, merged_attention, permuted_scores
from topwork_analyses.syntax.dependencies import dependency_tree
from topwork_analyses.syntax.grammars import grammar_tree, tree_of
from topwork_analyses.syntax.python_trees import python_tree
from topwork_analyses.syntax.study import aligned_rows
from topwork_analyses.syntax.token_types import TypeRates
from topwork_analyses.syntax.trees import SyntaxTree, Token, token_distances
from topwork_lens.look import Look

CODE = [
    "def add(a, b):\n    return a + b\n",
    "def twice(x):\n    y = x * 2\n    return y\n",
    "for name in names:\n    print(name)\n",
    "if a > b:\n    a = b\nelse:\n    b = a\n",
    "values = [f(x) for x in rows if x]\n",
    "class Small:\n    size = 1\n",
]


def random_tree(size: int, random: np.random.Generator) -> SyntaxTree:
    """Every node hangs on an earlier one; all nodes are tokens."""
    parents = [-1, *(int(random.integers(index)) for index in range(1, size))]
    return SyntaxTree(parents, range(size), [Token(index, index + 1, "x", "x") for index in range(size)])


def test_x1_attention_to_what_is_near_has_a_high_score():
    random = np.random.default_rng(0)
    scores = []
    for _ in range(50):
        distances = token_distances(random_tree(30, random), upgraded=False)
        scores.append(cat_score(-distances + random.normal(size=(30, 30)) * 1e-6, distances))
    assert np.mean(scores) >= 0.8


def test_x2_random_attention_has_the_score_of_chance():
    random = np.random.default_rng(0)
    scores, chance = [], []
    for index in range(200):
        distances = token_distances(random_tree(30, random), upgraded=False)
        attention = random.random((30, 30))
        scores.append(cat_score(attention, distances))
        chance.append(permuted_scores(attention, distances, 5, index).mean())
    assert np.mean(scores) == pytest.approx(0.13, abs=0.03)
    assert np.mean(chance) == pytest.approx(np.mean(scores), abs=0.005), "the permutation null"


def test_x3_neither_the_scale_of_attention_nor_the_order_of_tokens_plays_a_part():
    random = np.random.default_rng(0)
    distances = token_distances(random_tree(20, random), upgraded=False)
    attention = random.random((3, 20, 20))
    score = cat_score(attention, distances)
    # thresholds are quantiles, between two values where they interpolate: a straight line keeps them between the two
    np.testing.assert_array_equal(cat_score(attention * 7 + 3, distances), score)
    sharp = np.exp(5 * attention)
    ranks = np.argsort(np.argsort(attention.reshape(3, -1), axis=1), axis=1).reshape(3, 20, 20)
    assert np.abs(cat_score(sharp, distances) - score).max() <= 1 / 100
    assert np.abs(cat_score(ranks, distances) - score).max() <= 1 / 100
    order = random.permutation(20)
    np.testing.assert_array_equal(cat_score(attention[:, order][:, :, order], distances[np.ix_(order, order)]), score)


def test_x4_a_tree_of_three_leaves_computed_by_hand():
    """Root with the leaf a and a node with the leaves b, c; U-AST adds a-b and b-c."""
    tokens = [Token(0, 1, "identifier", "a"), Token(1, 2, "+", "+"), Token(2, 3, "identifier", "a")]
    tree = SyntaxTree([-1, 0, 0, 2, 2], [1, 3, 4], tokens)
    plain = [[0, 3, 3], [3, 0, 2], [3, 2, 0]]
    np.testing.assert_array_equal(token_distances(tree, upgraded=False), plain)
    # a-b, b-c, and the two uses of `a` are neighbours: every two tokens are one edge apart
    np.testing.assert_array_equal(token_distances(tree), [[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    attention = np.array([[9.0, 1, 8], [2, 7, 3], [4, 5, 6]])
    # Distances in order: 0 0 0 2 2 3 3 3 3. Their .25 quantile is the third, 0, and none lies below it.
    assert cat_score(attention, plain) == 0
    # Their median is 2: the diagonal is near. The .75 quantile of 1 to 9 is 7: 9 and 8 are large. One cell is both.
    assert cat_score(attention, plain, distance_quantile=0.5) == pytest.approx(1 / 4)


def test_x5_tokens_of_one_piece_are_merged_into_themselves():
    attention = np.random.default_rng(0).random((2, 4, 4))
    np.testing.assert_allclose(merged_attention(attention, [[0], [1], [2], [3]]), attention, rtol=1e-15)
    merged = merged_attention(attention, [[0, 1], [3]])
    assert merged[1, 0, 1] == pytest.approx(attention[1, :2, 3].mean())
    assert merged[0, 0, 0] == pytest.approx(attention[0, :2, :2].mean())


def test_distances_are_those_of_networkx():
    tree = python_tree(CODE[3])
    graph = networkx.Graph(tree.edges())
    distances = token_distances(tree)
    for first, leaf in enumerate(tree.leaves):
        for second, other in enumerate(tree.leaves):
            assert distances[first, second] == networkx.shortest_path_length(graph, leaf, other)


@pytest.mark.parametrize("code", [*CODE, "näme = 'ä' + \"x\"; b = näme\n", "@d\ndef f(*, a=1, **k): pass\n"])
def test_tokens_of_python_stand_in_the_code_and_hang_on_the_smallest_node_around_them(code):
    tree = python_tree(code)
    assert "".join(token.text for token in tree.tokens) == "".join(code.split())
    assert all(code[token.start : token.end] == token.text for token in tree.tokens)
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    used = [token.text for token in tree.tokens if token.type == "identifier"]
    assert {name.id for name in names} <= set(used)
    assert tree.parents.count(-1) == 1 and all(parent < node for node, parent in enumerate(tree.parents))


def test_what_stands_in_one_expression_is_nearer_than_what_does_not():
    code = "first = a + b\nsecond = c\n"
    tree = python_tree(code)
    at = {token.text: index for index, token in enumerate(tree.tokens)}
    distances = token_distances(tree, upgraded=False)
    assert distances[at["a"], at["b"]] < distances[at["a"], at["first"]] < distances[at["a"], at["c"]]
    upgraded = token_distances(python_tree("total = 1\nother = 2\nthing = total\n"))
    plain = token_distances(python_tree("total = 1\nother = 2\nthing = total\n"), upgraded=False)
    assert upgraded[0, -1] == 1 < plain[0, -1], "successive uses of one identifier"


def test_code_of_another_language_has_a_tree_where_its_grammar_is_installed():
    pytest.importorskip("tree_sitter")
    pytest.importorskip("tree_sitter_javascript")
    code = "function f(a) { return a + 'ü'; } // done"
    tree = grammar_tree(code, "javascript")
    assert [token.text for token in tree.tokens][:6] == ["function", "f", "(", "a", ")", "{"]
    assert all(code[token.start : token.end] == token.text for token in tree.tokens)
    assert "done" not in [token.text for token in tree.tokens]
    with pytest.raises(DataError, match="does not follow the grammar of javascript"):
        grammar_tree("function (", "javascript", 3)


def test_a_grammar_that_is_not_installed_is_an_error_that_names_the_extra():
    with pytest.raises(UsageError, match=r"topwork\[grammars\].*tree-sitter-cobol"):
        tree_of("x", "cobol")


def test_code_that_is_no_python_is_refused_with_its_row():
    with pytest.raises(DataError, match="row 4: no Python"):
        python_tree("def f(:", 4)


def test_words_of_a_sentence_are_as_far_apart_as_in_its_tree():
    row = {"words": ["the", "old", "man", "sings"], "heads": [3, 3, 4, 0]}
    tree = dependency_tree(row)
    expected = [[0, 2, 1, 2], [2, 0, 1, 2], [1, 1, 0, 1], [2, 2, 1, 0]]
    np.testing.assert_array_equal(token_distances(tree, upgraded=False), expected)
    with pytest.raises(DataError, match="9 is no word of 4"):
        dependency_tree({**row, "heads": [3, 3, 9, 0]}, 0)


def test_types_are_ranked_by_the_share_of_large_attention_in_their_rows_and_columns():
    rates = TypeRates()
    rates.add(np.eye(4) + np.diag([9.0, 0, 9, 0]), ["a", "b", "a", "c"])
    ranked = {line["type"]: line for line in rates.ranked()}
    assert set(ranked) == {"a"}, "b and c occur once a row, not more"
    # 12 of 16 cells stand in the rows and columns of `a`; of the 4 cells above the .75 quantile two do
    assert ranked["a"]["rate"] == pytest.approx(2 / 12)
    assert rates.best(8) == ["a"]


def rows_file(folder: Path, rows: list[dict[str, Any]], name: str) -> dict[str, str]:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(file)}


def run(folder: Path, rows: list[dict[str, Any]], task: str = "fill-mask", config: Any = None, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    source = rows_file(folder, rows, "code")
    stage = {"cat_probing": {"rows": source, "permutations": 20, "draws": 50, "type_rows": 2, **options}}
    texts = rows_file(folder, [{"text": " ".join(CODE)}] * 4 + rows, "texts")
    data = {"train": texts, "evaluate": texts}
    base = {"config": config or {"model_type": "bert", **SIZES, **RANGE}}
    return topwork.run({"task": task, "base": base, "data": data, "stages": [stage]}, folder=folder / "run", quiet=True)


def test_attention_of_every_layer_is_scored_beside_its_null(tmp_path):
    result = run(tmp_path, [{"text": code} for code in CODE * 2], types=None).results[0]["result"]
    lines = result["tables"]["CAT-score"]
    assert [line["layer"] for line in lines] == [0, 1]
    assert result["rows"] == 12
    for line in lines:
        assert 0 < line["cat"] < 1 and 0 < line["p"] <= line["p_holm"] <= 1
        assert line["above_null"] == pytest.approx(line["cat"] - line["null"])
        assert line["above_null_low"] <= line["above_null"] <= line["above_null_high"]
    assert result["metrics"]["cat"] == lines[-1]["cat"]
    assert result["types"] is None


def test_types_are_chosen_on_other_rows_than_those_that_are_scored(tmp_path):
    result = run(tmp_path, [{"text": code} for code in CODE * 2], types=2, type_rows=6).results[0]["result"]
    assert result["types"] == ["identifier"], "the only type that occurs more than once a row"
    assert 0 < result["rows"] <= 6
    assert {line["type"] for line in result["tables"]["types of tokens"]} >= set(result["types"])


def test_sentences_are_scored_against_their_dependencies_in_a_decoder(tmp_path):
    rows = [{"text": "the old man sings", "words": ["the", "old", "man", "sings"], "heads": [3, 3, 4, 0]}] * 4
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 3, "n_head": 2}
    result = run(tmp_path, rows, "text-generation", config, language="dependencies", types=None).results[0]["result"]
    assert len(result["tables"]["CAT-score"]) == 3


def test_attention_of_a_row_is_the_mean_of_the_model_s_own_over_its_heads():
    work = topwork.build(
        "fill-mask", {"config": {"model_type": "bert", **SIZES, **RANGE}}, rows=[{"text": code} for code in CODE]
    )
    work.model.eval()
    reader = TextReader(work.task, work.model)
    rows = [{"text": "a b"}]
    tree = SyntaxTree([-1, 0, 0], [1, 2], [Token(0, 1, "x", "a"), Token(2, 3, "x", "b")])
    row = next(aligned_rows(reader, Look(work.model), rows, lambda row, index: tree))
    import torch

    inputs = {name: torch.tensor([values]) for name, values in reader.encode(rows[0], 0)[0].inputs.items()}
    work.model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = work.model(**inputs, output_attentions=True).attentions
    assert inputs["input_ids"].shape[1] == 4, "a class token, a, b, a separator"
    wanted = torch.stack(weights)[:, 0].mean(1)[:, 1:3, 1:3]
    np.testing.assert_allclose(row.attention, wanted.numpy(), atol=1e-6)


def test_a_model_without_attention_and_rows_without_code_are_refused(tmp_path):
    with pytest.raises(topwork.TopworkError, match="none is left to score"):
        run(tmp_path / "few", [{"text": CODE[0]}], limit=2)
    with pytest.raises(DataError, match="no Python"):
        run(tmp_path / "prose", [{"text": "no python at all"}], types=None)
    config = {"model_type": "mamba", "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    with pytest.raises(Refused, match="no layer in which each token attends"):
        run(tmp_path / "mamba", [{"text": CODE[0]}], "text-generation", config, types=None)
