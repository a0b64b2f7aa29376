"""The stage `edge_probing` on rows of several tasks: positions of spans, states, figures, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lens_recipes import RANGE, SIZES
from tiny_bases import BART, GPT2, SEGFORMER, WAV2VEC2

import topwork
from topwork import DataError, Refused, UsageError
from topwork_analyses.positions.readers import reader_of
from topwork_analyses.positions.spans import Layout, Span
from topwork_analyses.positions.tokens import text_tokens, tokenizer_of, words_in
from topwork_analyses.probing.labelled_rows import targets_of
from topwork_analyses.probing.states import batch_states, write_states
from topwork_lens.look import Look

SENTENCES = [
    {"words": ["the", "old", "man", "sings"], "tags": ["D", "A", "N", "V"], "heads": [3, 3, 4, 0]},
    {"words": ["a", "dog", "barks"], "tags": ["D", "N", "V"], "heads": [2, 3, 0]},
    {"words": ["small", "cats", "sleep", "well"], "tags": ["A", "N", "V", "R"], "heads": [2, 3, 0, 3]},
    {"words": ["dogs", "run"], "tags": ["N", "V"], "heads": [2, 0]},
    {"words": ["the", "man", "runs", "fast"], "tags": ["D", "N", "V", "R"], "heads": [2, 3, 0, 3]},
    {"words": ["old", "dogs", "sleep"], "tags": ["A", "N", "V"], "heads": [2, 3, 0]},
]
NAMES = {"D": "det", "A": "amod", "N": "subj", "V": "root", "R": "adv"}
for sentence in SENTENCES:
    sentence["relations"] = [NAMES[tag] for tag in sentence["tags"]]
    sentence["text"] = sentence["document"] = " ".join(sentence["words"])
    sentence |= {"label": sentence["tags"][0], "summary": sentence["words"][-1]}
LABELLED = [{name: row[name] for name in ("words", "tags", "heads", "relations")} for row in SENTENCES]
QUICK = {"seeds": 2, "epochs": 2, "projection": 8, "draws": 20}


def rows_file(folder: Path, rows: list[dict[str, Any]], name: str = "rows") -> dict[str, str]:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(file)}


def text_recipe(folder: Path, stages: list[Any], task: str = "fill-mask", **base: Any) -> dict[str, Any]:
    rows = rows_file(folder, SENTENCES)
    config = base or {"model_type": "bert", **SIZES, **RANGE}
    return {"task": task, "base": {"config": config}, "data": {"train": rows, "evaluate": rows}, "stages": stages}


def probe(folder: Path, task: str = "fill-mask", rows: Any = None, base: Any = None, **options: Any) -> Any:
    source = rows_file(folder, LABELLED if rows is None else rows, "labelled")
    stage = {"edge_probing": {"train": source, "evaluate": source, **QUICK, **options}}
    return topwork.run(text_recipe(folder, [stage], task, **(base or {})), folder=folder / "run", quiet=True)


def test_words_and_pairs_of_words_are_probed_on_a_model_that_stays_as_it_is(tmp_path):
    source = rows_file(tmp_path, LABELLED, "labelled")
    stages = ["save", {"edge_probing": {"train": source, "evaluate": source, **QUICK}}]
    done = topwork.run(text_recipe(tmp_path, stages), folder=tmp_path / "run", quiet=True)
    result = done.results[1]["result"]
    lines = {line["labels"]: line for line in result["tables"]["edge probing"]}
    assert set(lines) == {"tags", "relations"}
    assert (lines["tags"]["train_targets"], lines["relations"]["train_targets"]) == (20, 14), "roots have no relation"
    assert (lines["tags"]["names"], lines["relations"]["names"]) == (5, 4)
    assert result["rows"] == 6 and result["measures"] == "part"
    assert result["states"]["layers"] == 3, "embeddings and two layers"
    assert len(lines["tags"]["expected_layer_of_seeds"]) == 2
    for line in lines.values():
        assert line["selectivity"] == pytest.approx(line["f1"] - line["control_f1"])
        assert line["f1_low"] <= line["f1"] <= line["f1_high"]
        assert line["cut_off"] == 0
    curve = result["curves"][0]["series"]["tags"]
    assert [layer for layer, _ in curve] == [0, 1, 2]
    assert result["metrics"]["tags_f1"] == pytest.approx(curve[-1][1])
    saved = topwork.load(done.model_folder).model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in done.model.state_dict().items()), "T5"
    assert not (done.root / done.results[1]["folder"] / "checkpoints").exists()


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "text-generation", "summarization"])
def test_words_are_probed_on_the_model_of_any_task_on_texts(tmp_path, task):
    base = {"text-generation": GPT2, "summarization": BART}.get(task, {}).get("config")
    result = probe(tmp_path, task, base=base, labels=["tags"]).results[0]["result"]
    assert result["tables"]["edge probing"][0]["train_targets"] == 20


def test_labels_of_whole_rows_are_probed_on_the_rows_of_the_run(tmp_path):
    stages = [{"edge_probing": {**QUICK}}]
    done = topwork.run(text_recipe(tmp_path, stages, "text-classification"), folder=tmp_path / "run", quiet=True)
    line = done.results[0]["result"]["tables"]["edge probing"][0]
    assert (line["labels"], line["train_targets"]) == ("label", 6)


def test_whole_images_and_regions_are_probed_by_their_patches(tmp_path):
    base = {"model_type": "vit", **SIZES, **RANGE, "image_size": 16, "patch_size": 4, "num_channels": 1}
    recipe = {
        "task": "image-classification",
        "base": {"config": base},
        "data": {"train": {"path": "sample:digits", "split": "train", "limit": 30}, "evaluate": {"cut": 10}},
        "stages": [{"edge_probing": {**QUICK, "seeds": 1, "epochs": 1}}],
    }
    result = topwork.run(recipe, folder=tmp_path / "run", quiet=True).results[0]["result"]
    assert result["states"] == {"positions": 20 * 17, "layers": 3, "width": 32}
    assert result["tables"]["edge probing"][0]["labels"] == "label"
    units = topwork.Units("patch", special=(0,), grid=(2, 3))
    layout = Layout(7, units)
    assert layout.positions(Span("whole")) == [1, 2, 3, 4, 5, 6]
    assert layout.positions(Span("region", (0.3, 0, 1, 0.5))) == [2, 3]
    assert layout.positions(Span("region", (0, 0.5, 1, 1))) == [4, 5, 6]
    assert layout.positions(Span("region", (0.9, 0.9, 0.95, 0.95))) == [6], "a small region has the patch around it"


def test_stretches_of_sound_are_probed_by_their_frames(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        {
            "audio": {"array": random.normal(size=8000).astype(np.float32), "sampling_rate": 16000},
            "label": str(index % 2),
        }
        for index in range(8)
    ]
    work = topwork.build("audio-classification", WAV2VEC2, rows=rows)
    reader = reader_of(work.task, work.model, rows[0])
    items = reader.encode(rows[0], 0)
    states = batch_states(reader, Look(work.model), items)
    seconds = work.task.units(items[0]).seconds
    assert states.shape[1] == pytest.approx(0.5 / seconds, abs=2)
    layout = reader.layout(items[0], states.shape[1])
    assert layout.positions(Span("seconds", (10 * seconds, 20 * seconds))) == list(range(10, 20))


def test_states_of_many_items_are_those_of_each_alone_and_those_of_the_model(tmp_path):
    work = topwork.build("fill-mask", {"config": {"model_type": "bert", **SIZES, **RANGE}}, rows=SENTENCES)
    reader = reader_of(work.task, work.model, SENTENCES[0])
    items = [item for index, row in enumerate(SENTENCES) for item in reader.encode(row, index)]
    starts: dict[int, tuple[int, int]] = {}

    def written(item: topwork.Item, start: int, count: int) -> None:
        starts[item.row] = (start, count)

    states = write_states(reader, items, tmp_path / "x", written=written)
    work.model.eval()
    for item in items:
        start, count = starts[item.row]
        inputs = {name: torch.tensor([values]) for name, values in item.inputs.items()}
        with torch.no_grad():
            wanted = work.model(**inputs, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(states[start : start + count], torch.stack(wanted, 2)[0].numpy(), atol=1e-5)


def test_tokens_of_a_text_are_found_among_special_and_other_tokens():
    work = topwork.build("fill-mask", {"config": {"model_type": "bert", **SIZES}}, rows=SENTENCES)
    tokenizer = tokenizer_of(work.task)
    text = "the old man sings"
    ids = tokenizer("a dog barks", text)["input_ids"]
    characters = text_tokens(tokenizer, text, ids).characters
    assert "".join(text[slice(*span)] for span in characters if span) == text.replace(" ", "")
    assert characters[0] is None and characters[-1] is None
    with pytest.raises(Refused, match="do not stand"):
        text_tokens(tokenizer, text, tokenizer("dogs run fast and well and fast and well and small")["input_ids"])


def test_what_a_cut_text_has_lost_is_counted_and_not_probed(tmp_path):
    rows = [{"words": [*row["words"], *["far"] * 40], "tags": [*row["tags"], *["R"] * 40]} for row in SENTENCES]
    recipe = text_recipe(tmp_path, [], "text-classification")
    source = rows_file(tmp_path, rows, "labelled")
    recipe["stages"] = [{"edge_probing": {"train": source, "evaluate": source, "max_length": 16, **QUICK}}]
    line = topwork.run(recipe, folder=tmp_path / "run", quiet=True).results[0]["result"]["tables"]["edge probing"][0]
    total = sum(len(row["words"]) for row in rows)
    assert line["cut_off"] == 2 * total - line["train_targets"] - line["evaluate_targets"] > 0


def test_rows_of_jiant_have_spans_of_words_and_several_labels():
    row = {
        "text": "the old man sings",
        "targets": [
            {"span1": [0, 3], "span2": [3, 4], "label": ["agent", "aware"]},
            {"region1": [0, 0, 1, 1], "label": "x"},
        ],
    }
    first, second = targets_of(row, "targets")
    assert [span.name for span in first.spans] == ["the old man", "sings"] and first.labels == ("agent", "aware")
    assert second.spans[0] == Span("region", (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"words": ["a", "b"], "tags": ["X"]}, "tags", "1 for 2 words"),
        ({"words": ["a"], "heads": [4], "relations": ["x"]}, "relations", "no word of 1"),
        ({"text": "abc", "spans": [{"start": 2, "end": 9, "label": "x"}]}, "spans", "characters 2 to 9 of 3"),
        ({"text": "abc", "spans": ["x"]}, "spans", "no span"),
        ({"text": "a b", "targets": [{"span1": [0, 5], "label": "x"}]}, "targets", "words 0 to 5 of 2"),
        ({"text": "a b", "targets": [{"label": "x"}]}, "targets", "without a span"),
        ({"text": "a b", "targets": [{"span1": "ab", "label": "x"}]}, "targets", "not 2 numbers"),
        ({"text": "a b", "tags": None}, "tags", "missing or empty"),
        ({"text": "a", "label": [None]}, "label", "no label"),
        ({"words": ["a", "b"], "text": "b a", "tags": ["X", "Y"]}, "tags", "does not stand"),
    ],
)
def test_a_row_that_does_not_hold_what_is_probed_is_refused_by_name(row, kind, message):
    with pytest.raises(DataError, match=message):
        targets_of(row, kind, 3)


def test_words_stand_in_a_text_one_after_another():
    assert words_in("no, no", ["no", ",", "no"]) == [(0, 2), (2, 3), (4, 6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["tag"]}, "did you mean `tags`"),
        ({"stack": "decoder"}, "no stack of layers `decoder`"),
        ({"rows": [{"words": ["a", "b"], "tags": ["X", "X"]}]}, "one label only"),
        ({"rows": [{"words": ["a", "b"]}]}, "no labels that a probe knows"),
    ],
)
def test_what_is_not_there_is_an_error_that_names_what_there_is(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        probe(tmp_path, **options)


def test_layers_of_different_widths_are_refused_by_name(plugins):
    rows = plugins.task("image-segmentation").example_rows()
    work = topwork.build("image-segmentation", SEGFORMER, rows=rows)
    reader = reader_of(work.task, work.model, rows[0])
    with pytest.raises(Refused, match=r"different positions or widths|dimensions"):
        batch_states(reader, Look(work.model), reader.encode(rows[0], 0))
