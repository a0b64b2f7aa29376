"""Early exit: what the task head says of every layer, on tasks of every kind; and layers that it cannot read."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from dense_models import BEIT, DPT
from lens_recipes import RANGE, SIZES, TEXTS
from tiny_bases import BART, SEGFORMER, WAV2VEC2, YOLOS

import topwork
from topwork import Refused, UsageError
from topwork_analyses.exits.early_exit import early_exit
from topwork_analyses.exits.study import readable_stack
from topwork_lens.look import Look

GPT = {"config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 3, "n_head": 2, "initializer_range": 0.5}}
BERT = {"config": {"model_type": "bert", **SIZES, **RANGE}}
#: parts of the names of what writes to the residual stream of a vision transformer
WRITING = ("attention.output.dense", "output.dense")


def run(model, batch):
    outputs = model(**batch.inputs)
    return outputs.predicted_depth if "predicted_depth" in outputs else outputs.logits


def test_a_decoder_left_at_a_layer_says_what_its_norm_and_head_make_of_that_state():
    work = topwork.build("text-generation", GPT, rows=TEXTS)
    work.model.eval()
    look, ids = Look(work.model), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        whole = work.model(input_ids=ids, output_hidden_states=True)
        for layer in range(3):
            with early_exit(look, "transformer.h", layer, 3):
                logits = work.model(input_ids=ids).logits
            state = work.model.transformer.ln_f(whole.hidden_states[layer])
            torch.testing.assert_close(logits, work.model.lm_head(state))
        with early_exit(look, "transformer.h", 3, 3):
            assert torch.equal(work.model(input_ids=ids).logits, whole.logits)
        assert torch.equal(work.model(input_ids=ids).logits, whole.logits), "nothing stays behind"


def test_text_is_generated_from_an_early_layer_with_a_cache_as_without():
    work = topwork.build("text-generation", GPT, rows=TEXTS)
    work.model.eval()
    look, ids = Look(work.model), torch.tensor([[5, 6, 7, 8]])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with torch.no_grad(), early_exit(look, "transformer.h", 1, 3):
        cached, plain = (work.model.generate(ids, use_cache=cache, **options) for cache in (True, False))
    assert torch.equal(cached, plain)


@pytest.mark.parametrize(
    ("task", "base", "stack"),
    [
        ("text-classification", BERT, "bert.encoder.layer"),
        ("question-answering", BERT, "bert.encoder.layer"),
        ("image-classification", {"config": {"model_type": "vit", **SIZES, **RANGE, "image_size": 32}}, "vit."),
        ("audio-classification", WAV2VEC2, "wav2vec2.encoder.layers"),
        ("object-detection", YOLOS, "vit.encoder.layer"),
        ("summarization", BART, "model.decoder.layers"),
    ],
)
def test_the_stack_that_a_head_reads_is_recognised(plugins, task, base, stack):
    rows = plugins.task(task).example_rows()
    work = topwork.build(task, base, rows=rows)
    work.model.eval()
    batch = work.task.collate(work.task.encode(rows[:1], "predict", 0), "predict")
    path, layers = readable_stack(Look(work.model), lambda: work.task.predict(work.model, batch))
    assert path.startswith(stack)
    assert layers == sum(1 for _ in work.model.get_submodule(path))
    with torch.no_grad(), early_exit(Look(work.model), path, 0, layers):
        assert len(work.task.predict(work.model, batch)) == len(batch)


def test_a_head_that_needs_layers_of_several_sizes_is_refused(plugins):
    rows = plugins.task("image-segmentation").example_rows()
    work = topwork.build("image-segmentation", SEGFORMER, rows=rows)
    batch = work.task.collate(work.task.encode(rows[:1], "predict", 0), "predict")
    with pytest.raises(Refused, match="no stack of layers has states of one shape of which"):
        readable_stack(Look(work.model), lambda: work.task.predict(work.model, batch))


@pytest.mark.parametrize(
    ("task", "config"), [("depth-estimation", DPT), ("image-segmentation", DPT), ("image-segmentation", BEIT)]
)
def test_a_head_that_reads_several_layers_gets_the_exit_for_those_behind_it(plugins, task, config):
    """Reference: a network whose later layers do nothing; its head reads the state of the exit from all of them."""
    rows = plugins.task(task).example_rows()
    work = topwork.build(task, {"config": {**config, "initializer_range": 0.2}}, rows=rows)
    work.model.eval()
    result = work.apply("early_exit", {"evaluate": rows[:2]})
    assert result["head_reads"] == "several layers"
    batch = work.task.collate(work.task.encode(rows[:1], "predict", 0), "predict")
    look, stack, last = Look(work.model), result["stack"], result["layers_count"]
    with torch.no_grad():
        whole = run(work.model, batch)
        for layer in range(1, last):
            with early_exit(look, stack, layer, last):
                left = run(work.model, batch)
            idle = copy.deepcopy(work.model)
            for module in list(idle.get_submodule(stack))[layer:]:
                for name, parameter in module.named_parameters():
                    if "lambda" in name or any(part in name for part in WRITING):
                        parameter.zero_()
            torch.testing.assert_close(left, run(idle, batch))
            is_unread = layer == last - 1 and config is BEIT  # its head does not read the last state
            assert is_unread == torch.allclose(left, whole)


def test_the_stage_measures_the_task_at_every_layer_and_the_model_stays(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TEXTS), encoding="utf-8")
    data = {"train": {"path": str(file)}, "evaluate": {"path": str(file)}}
    recipe = {"task": "text-classification", "base": BERT, "data": data, "stages": ["early_exit", "evaluate"]}
    done = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    result, evaluated = done.results[0]["result"], done.results[1]["result"]
    lines = result["tables"]["by layer"]
    assert [line["layer"] for line in lines] == [0, 1, 2]
    assert lines[-1]["accuracy"] == evaluated["metrics"]["accuracy"]
    assert 0 <= result["first_within"] <= 2 and result["layers_count"] == 2
    recipe["stages"] = [{"early_exit": {"stack": "encoder"}}]
    with pytest.raises(UsageError, match="no stack of layers `encoder`"):
        topwork.run(recipe, folder=tmp_path / "other", quiet=True)
