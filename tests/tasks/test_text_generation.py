"""text-generation: loss and texts equal to plain transformers' and its pipeline, blocks, packing, chats."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from tiny_bases import TEXT as BERT
from tolerance import about, close

import topwork
from topwork import BaseOptions, DataError, UsageError
from topwork_bases.transformers.base import load_base
from topwork_tasks._text.metrics import rouge_l
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks.text_generation.metric import GeneratedText, LanguageMetric
from topwork_tasks.text_generation.prompts import EncodedRow, blocks, pack, reference
from topwork_tasks.text_generation.task import TextGeneration

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
ROWS = TextGeneration.example_rows()
TEXTS = [{"text": f"{row['prompt']}{row['completion']} , said the {row['prompt'][:3]} fox"} for row in ROWS]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build(base_options=None, rows=ROWS, **options):
    torch.manual_seed(0)
    base_options = BaseOptions(**(base_options or {"config": {"model_type": "gpt2", **GPT2}}))
    base = load_base(base_options.model or f"config:{base_options.config['model_type']}", base_options)
    learn = {"min_frequency": 1, "vocab_size": 400, "kind": "bpe", "lowercase": False}
    options = TextGeneration.Options(tokenizer=learn, **options)
    task = TextGeneration({"base": base}, options, TextGeneration.learn(rows, {"base": base}, options))
    return task, task.build().eval()


def predict(task, model, rows):
    items = task.encode(rows, "predict", 0)
    with torch.inference_mode():
        parts = task.predict(model, task.collate(items, "predict"))
    by_row = [[part for item, part in zip(items, parts) if item.row == number] for number in range(len(rows))]
    return [task.merge(row, found) for row, found in zip(rows, by_row)]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def written(request, tmp_path_factory):
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp(request.param)
    texts = (row["prompt"] + row["completion"] for row in ROWS)
    options = TokenizerOptions(kind="bpe", lowercase=False, min_frequency=1, vocab_size=400)
    tokenizer = learn_tokenizer(texts, options, template=False)
    tokenizer.pad_token = None
    shape = GPT2 if request.param == "gpt2" else LLAMA
    config = transformers.AutoConfig.for_model(
        request.param, **shape, vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, pad_token_id=None
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_texts_equal_the_pipeline(written):
    rows = [{"prompt": row["prompt"] * times} for row, times in zip(ROWS, (1, 3, 2, 1, 5, 1, 1, 2, 1))]
    task, model = build({"model": str(written)}, rows=None, generation={"max_new_tokens": 8})
    pipe = transformers.pipeline("text-generation", model=str(written), tokenizer=str(written), device="cpu")
    expected = [pipe(row["prompt"], max_new_tokens=8, do_sample=False) for row in rows]
    assert predict(task, model, rows) == expected
    task.options.return_full_text = False
    assert predict(task, model, rows) == [
        [{"generated_text": answer[0]["generated_text"][len(row["prompt"]) :]}] for row, answer in zip(rows, expected)
    ]


@pytest.mark.parametrize("rows", [ROWS, TEXTS])
def test_loss_equals_the_native_class(written, rows):
    task, model = build({"model": str(written)}, rows=rows)
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    close(task.loss(model, batch), model(**batch.inputs).loss)
    with torch.no_grad():
        alone = super(TextGeneration, task).row_losses(model, batch)
        close(task.row_losses(model, batch), alone)


def test_loss_is_on_the_completion_only():
    task, _ = build()
    (item,) = task.encode(ROWS[:1], "train", 0)
    wanted = [label for label in item.inputs["labels"] if label != -100]
    assert task.tokenizer.decode(wanted) == ROWS[0]["completion"] + "[SEP]"
    assert item.inputs["ids"][-len(wanted) :] == wanted


def test_a_chat_is_learned_where_the_assistant_speaks():
    task, _ = build()
    task.tokenizer.chat_template = TEMPLATE
    chat = [("user", "red"), ("assistant", "rot"), ("user", "blue"), ("assistant", "blau")]
    row = {"messages": [{"role": role, "content": content} for role, content in chat]}
    (item,) = task.encode([row], "train", 0)
    wanted = [label for label in item.inputs["labels"] if label != -100]
    assert task.tokenizer.decode(wanted) == "rot[SEP]blau[SEP]"
    (item,) = task.encode([row], "predict", 0)
    assert task.tokenizer.decode(item.inputs["prompt"]).endswith("<user>blue[SEP]<assistant>")
    assert reference(row) == "blau"
    (found,) = predict(task, build()[1], [row])
    said = found[0]["generated_text"]
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant"]
    assert said[-1]["content"] == found.completion


def test_perplexity_counts_every_token_once_over_blocks():
    """Blocks of a model that looks one token back only would give the very same sum; here: the counts and the ends."""
    ids = list(range(10, 33))
    found = list(blocks(EncodedRow(ids, ids, []), 5))
    targets = [label for block in found for label in block.labels[1:]]
    assert targets == ids[1:]
    assert all(len(block.ids) <= 5 for block in found)
    task, model = build(rows=TEXTS, max_length=8)
    row = {"text": " ".join(entry["text"] for entry in TEXTS)}
    (prediction,) = predict(task, model, [row])
    ids = task.tokenizer(row["text"])["input_ids"]
    assert prediction.tokens == len(ids)  # the end token is predicted, the first is not
    nll = 0.0
    for start in range(0, len(ids), 7):
        block = torch.tensor([[*ids, 3][start : start + 8]])
        if block.shape[1] > 1:
            with torch.no_grad():
                nll += float(model(input_ids=block, labels=block).loss) * (block.shape[1] - 1)
    assert prediction.nll == about(nll)


def test_packing_loses_nothing():
    rows = [
        EncodedRow([1, 2, 3], [1, 2, 3], []),
        EncodedRow([4, 5, 6, 7], [-100, -100, 6, 7], []),
        EncodedRow([8], [8], []),
    ]
    found = list(pack(rows, 4))
    assert [(row, entry.ids) for row, entry in found] == [(0, [1, 2, 3, 4]), (1, [4, 5, 6, 7]), (1, [7, 8])]
    assert [label for _, entry in found for label in entry.labels[1:]] == [2, 3, -100, -100, 6, 7, 8]
    task, model = build(rows=TEXTS, packing=True, max_length=16)
    assert task.group_rows > 1
    items = task.encode(TEXTS, "train", 0)
    assert {len(item.inputs["ids"]) for item in items[:-1]} == {16}
    assert math.isfinite(float(task.loss(model, task.collate(items, "train")).detach()))
    assert len(task.encode(TEXTS, "loss", 0)) >= len(TEXTS)


def test_long_prompts_and_completions_are_cut_at_the_right_end():
    ids = list(range(20))
    labels = [-100] * 12 + ids[12:]
    (found,) = blocks(EncodedRow(ids, labels, []), 10)
    assert found.ids == ids[7:17]  # half of the block is left for the completion when both are long
    assert found.labels == labels[7:17]
    task, model = build(generation={"max_new_tokens": 8})
    row = {"prompt": "red green blue " * 40}
    (item,) = task.encode([row], "predict", 0)
    assert len(item.inputs["prompt"]) + 8 <= 64
    assert item.inputs["prompt"] == task.tokenizer(row["prompt"])["input_ids"][-56:]
    assert predict(task, model, [row])[0].completion is not None


def test_sampling_is_seeded_and_leaves_the_generator_alone():
    drawn = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 8}
    task, model = build(generation={**drawn, "seed": 1})
    before = torch.random.get_rng_state()
    first = predict(task, model, ROWS)
    assert torch.equal(before, torch.random.get_rng_state())
    assert predict(task, model, ROWS) == first
    task.options.generation.seed = 2
    assert predict(task, model, ROWS) != first


KINDS = {"gpt2": GPT2, "llama": LLAMA, "bert": BERT, "bert-generation": BERT}


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_and_writes_what_it_learned(kind):
    task, model = build(
        {"config": {"model_type": kind, **KINDS[kind]}}, generation={"max_new_tokens": 8, "stop": ["!"]}
    )
    batch = task.collate(task.encode(ROWS, "train", 0), "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = [9.0]
    while losses[-1] > 0.02 and len(losses) < 300:
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    metric = task.metric()
    for row, prediction in zip(ROWS, predict(task, model, ROWS)):
        metric.update(row, prediction)
    found = metric.result()
    assert set(metric.keys) <= set(found)
    assert found["exact_match"] == 1, (found, losses)
    assert math.isnan(found["bleu"])  # single words have no 4-grams
    assert found["perplexity"] < 1.2
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert task.draw(ROWS[0], predict(task, model, ROWS[:1])[0]).badness < 0.2


def test_bert_does_not_see_what_it_predicts():
    _, model = build({"config": {"model_type": "bert", **BERT}})
    ids = torch.randint(5, 20, (1, 6))
    changed = ids.clone()
    changed[0, -1] = 4
    with torch.no_grad():
        close(model(input_ids=ids).logits[:, :-1], model(input_ids=changed).logits[:, :-1])


def test_metric_merges_and_compares_with_its_libraries():
    import sacrebleu

    pairs = [("the cat sat on the mat", "the cat sat on a mat"), ("こんにちは 世界", "こんにちは 世界"), ("x", "y z")]
    halves = [LanguageMetric(True, reference) for _ in range(2)]
    for index, (guess, truth) in enumerate(pairs):
        prediction = GeneratedText([{"generated_text": guess}])
        prediction.completion, prediction.nll, prediction.tokens, prediction.hits = guess, 2.0, 4, 1
        halves[index % 2].update({"completion": truth}, prediction)
    halves[0].merge(halves[1])
    found = halves[0].result()
    order = [pairs[0], pairs[2], pairs[1]]
    expected = sacrebleu.corpus_bleu([guess for guess, _ in order], [[truth for _, truth in order]]).score
    assert found["bleu"] == pytest.approx(expected)
    assert found["perplexity"] == pytest.approx(math.exp(0.5))
    assert found["token_accuracy"] == 0.25
    assert rouge_l("こんにちは 世界", "こんにちは 世界") == 1
    assert rouge_l("the cat sat on the mat", "the cat sat on a mat") == pytest.approx(5 / 6)
    assert all(math.isnan(value) for value in LanguageMetric(True, reference).result().values())


BAD = {
    "nothing": ({}, "text", "no `text`"),
    "prompt is a number": ({"prompt": 3, "completion": "a"}, "prompt", "not text"),
    "no completion": ({"prompt": "a"}, "completion", "missing"),
    "completion is a number": ({"prompt": "a", "completion": 3}, "completion", "not text"),
    "text is a list": ({"text": ["a"]}, "text", "not text"),
    "no chat": ({"messages": "hello"}, "messages", "no chat"),
    "nobody answers": ({"messages": [{"role": "user", "content": "a"}]}, "messages", "assistant says"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused(case):
    row, column, message = BAD[case]
    task, _ = build()
    task.tokenizer.chat_template = TEMPLATE
    with pytest.raises(DataError, match=message) as caught:
        task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)


def test_what_cannot_work_is_said():
    task, model = build()
    with pytest.raises(UsageError, match="chat template"):
        task.encode([{"messages": [{"role": "user", "content": "a"}]}], "predict", 0)
    with pytest.raises(UsageError, match="no causal language model"):
        build({"config": {"model_type": "distilbert", "dim": 32, "n_heads": 4, "hidden_dim": 64}})
    assert predict(task, model, [{"prompt": ""}])[0].completion is not None
    assert predict(task, model, [{"text": ""}])[0].tokens == 0


def test_of_several_columns_prompts_go_before_texts(written):
    work = topwork.build("text-generation", str(written), rows=[{**ROWS[0], "text": "x"}], return_full_text=False)
    both = [{**row, "text": f"{row['prompt']}{row['completion']}"} for row in ROWS]
    alone = work.predict(ROWS)
    found = work.predict(both)
    assert found == alone and [entry.nll for entry in found] == [entry.nll for entry in alone]
    assert work.evaluate(both) == work.evaluate(ROWS)
    assert "exact_match" in work.evaluate(both)


def test_a_tokenizer_that_is_learned_writes_every_text_as_it_was():
    """Also when something else is said of it: its algorithm stays the one of tasks that write."""
    for task, rows in (
        ("text-generation", [{"text": "Größe  “A”: 3-4 e\u0301 \U0001f600\r\n"}]),
        ("summarization", [{"document": "Größe  “A”: 3-4 e\u0301 \U0001f600\r\n", "summary": "x"}]),
    ):
        config = {"model_type": "gpt2", **GPT2}
        work = topwork.build(task, {"config": config}, rows=rows, tokenizer={"vocab_size": 300})
        text = next(iter(rows[0].values()))
        assert work.task.tokenizer.decode(work.task.tokenizer(text)["input_ids"], skip_special_tokens=True) == text
