"""The walk of a newcomer: from a csv file to a page, a saved model and predictions, by the commands of the README."""

from __future__ import annotations

import csv
import json
import re

import datasets
import pytest
import transformers

from topwork.cli import main

pytestmark = pytest.mark.recipes

WORDS = {"5": ("warm", "generous", "bright", "lovely"), "1": ("dull", "cold", "slow", "weak")}


@pytest.fixture
def topwork(tmp_path, monkeypatch, capsys):
    """Call the command line in a folder of its own; the call returns what it printed on stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> str:
        code = main(list(arguments))
        shown = capsys.readouterr()
        assert code == 0, f"{' '.join(arguments)}\n{shown.out}\n{shown.err}"
        return shown.out

    return call


def test_a_newcomer_trains_on_reviews_of_their_own(topwork, tmp_path) -> None:
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "stars"])
        writer.writerows(
            [f"a {word} film, number {index}", star] for index in range(15) for star in WORDS for word in WORDS[star]
        )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", ",", "number", *WORDS["5"], *WORDS["1"]]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    config = transformers.BertConfig(vocab_size=len(vocabulary), **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")

    shown = topwork("data", "reviews.csv", "--task", "text-classification", "-c", "text=review", "-c", "label=stars")
    assert "120" in shown and "review" in shown
    topwork("new", "text-classification", "reviews.yaml", "--base", "bert", "--data", "reviews.csv")
    text = (tmp_path / "reviews.yaml").read_text(encoding="utf-8")
    assert "text: review" in text and "label: stars" in text, text
    assert "ok" in topwork("validate", "reviews.yaml")
    options = ["-o", "stages.train.epochs=6", "-o", "stages.train.learning_rate=0.01"]
    run = tmp_path / topwork("run", "reviews.yaml", *options).strip().splitlines()[-1]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "accuracy" in page and not re.search(r'(src|href)="https?://', page)
    (run / "report.html").unlink()
    topwork("report", str(run))
    assert (run / "report.html").is_file()
    evaluated = [json.loads(file.read_text())["result"] for file in sorted(run.glob("stages/*-evaluate/result.json"))]
    assert evaluated[-1]["metrics"]["accuracy"] >= 0.9
    model = next(path.parent for path in run.rglob("topwork.json") if "stages" not in path.relative_to(run).parts)
    lines = topwork("predict", str(model), "-i", "text=a generous film", "-i", "text=a dull film").splitlines()
    assert [json.loads(line)["prediction"][0]["label"] for line in lines] == ["5", "1"], lines
