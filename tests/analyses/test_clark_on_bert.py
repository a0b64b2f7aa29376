"""C7 of the literature: what Clark et al. 2019 found in BERT-base, by the stages, on its real weights.

The weights (bert-base-uncased) and a treebank (the development part of UD English EWT) are in no package: name their
folder and file by the variables `TOPWORK_BERT_BASE` and `TOPWORK_EWT_DEV`. The reading of the results is tested beside
on a small model, so that it works on the day when they are there.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from analysis_models import BERT, WORDS

import topwork

VARIABLES = ("TOPWORK_BERT_BASE", "TOPWORK_EWT_DEV")
MISSING = [name for name in VARIABLES if not os.environ.get(name)]


def figures(base: dict[str, Any], treebank: str, *, layers: range, rows: int, least: int = 10) -> dict[str, Any]:
    """Share of attention on [SEP] in some layers, and the head that points from determiners to their nouns."""
    source = {"path": treebank}
    recipe: dict[str, Any] = {
        "task": "token-classification",
        "base": base,
        "data": {"train": source, "evaluate": source},
        "stages": [
            {"attention_patterns": {"rows": rows, "compared": 1}},
            {"word_relations": {"dependencies": source, "limit": 2 * rows, "probe": False, "least": least}},
        ],
    }
    patterns, relations = (result["result"] for result in topwork.run(recipe, quiet=True).results)
    shares = [sum(patterns["layers"][layer]["share [SEP]"]) / patterns["layers"][layer]["heads"] for layer in layers]
    (determiners,) = [line for line in relations["tables"]["Dependencies"] if line["relation"] == "det"]
    return {"separators": sum(shares) / len(shares), **determiners}


@pytest.mark.learn
@pytest.mark.skipif(bool(MISSING), reason=f"needs bert-base-uncased and UD EWT: {' and '.join(MISSING)} not set")
def test_c7_bert_base_rests_on_separators_and_points_to_nouns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """C7: layers 6 to 10 of 12 give more than half of their attention to [SEP]; head 8-11 finds nouns, .943 there."""
    monkeypatch.chdir(tmp_path)
    weights, treebank = (os.environ[name] for name in VARIABLES)
    measured = figures({"model": weights}, treebank, layers=range(5, 10), rows=400)
    assert measured["separators"] > 0.5
    assert measured["accuracy"] >= 0.85
    assert (measured["layer"], measured["head"]) == (7, 10)


def test_c7_is_read_from_the_results_of_the_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """C7 on random weights of a small model: [SEP] gets the share of one token, determiners are found by chance."""
    monkeypatch.chdir(tmp_path)
    draw, lines = random.Random(0), []
    for _ in range(24):
        words = draw.choices(WORDS, k=6)
        for number, word in enumerate(words, 1):
            head, relation = (number + 1, "det") if number % 2 else (0 if number == 2 else 2, "nsubj")
            lines.append(f"{number}\t{word}\t{word}\t{relation}\tX\t_\t{head}\t{relation}\t_\t_")
        lines.append("")
    (tmp_path / "trees.conllu").write_text("\n".join(lines), encoding="utf-8")
    config = {**BERT["config"], "initializer_range": 1e-4}
    measured = figures({"config": config}, str(tmp_path / "trees.conllu"), layers=range(2), rows=12)
    assert measured["separators"] == pytest.approx(1 / 8, abs=0.03)
    assert 0 <= measured["accuracy"] <= 1 and measured["by offset"] == 1.0
