"""text-classification: equal to plain transformers and its pipeline, scores equal to scikit-learn's, bad input."""

from __future__ import annotations

import math

import datasets
import numpy
import pytest
import torch
import transformers
from sklearn import metrics
from tiny_bases import TEXT as SMALL
from tolerance import about, close

from topwork import BaseOptions, DataError, State, TopworkError, UsageError, load_plugins
from topwork_bases.transformers.base import load_base
from topwork_tasks._classification.loss import classification_loss, learn_weights
from topwork_tasks._classification.metric import ClassificationMetric
from topwork_tasks._classification.scores import LabelScores
from topwork_tasks._classification.targets import Targets
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
#: wherever it is installed from: a test moves it into a package of its own
TextClassification = load_plugins().tasks["text-classification"]
ROWS = TextClassification.example_rows()
NAMES = {0: "bad", 1: "good", 2: "mixed"}


def build(base_options, rows=ROWS, seed=0, **options):
    torch.manual_seed(seed)
    base_options = BaseOptions(**base_options)
    base = load_base(base_options.model or f"config:{base_options.config['model_type']}", base_options)
    options = TextClassification.Options(**options)
    state = TextClassification.learn(rows, {"base": base}, options)
    task = TextClassification({"base": base}, options, state)
    return task, task.build().eval()


def predict(task, model, rows):
    items = task.encode(rows, "predict", 0)
    with torch.no_grad():
        parts = task.predict(model, task.collate(items, "predict"))
    return [task.merge(row, [part]) for row, part in zip(rows, parts)]


def tokenizer_for(model_type):
    tokenizer = learn_tokenizer((row["text"] for row in ROWS), TokenizerOptions(vocab_size=200, min_frequency=1))
    tokenizer.model_max_length = 32
    if model_type == "gpt2":  # as the published one: no padding token of its own
        tokenizer.pad_token = None
    return tokenizer


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def written(request, tmp_path_factory):
    """A folder that plain transformers wrote: model with a trained task head, and tokenizer."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tokenizer_for(request.param)
    config = transformers.AutoConfig.for_model(
        request.param,
        **(SMALL if request.param == "bert" else GPT2),
        vocab_size=len(tokenizer),
        id2label=NAMES,
        pad_token_id=3 if request.param == "gpt2" else 0,
        **({"bos_token_id": 2, "eos_token_id": 3} if request.param == "gpt2" else {}),
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.get_submodule("score" if request.param == "gpt2" else "classifier").weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- against plain transformers


def test_predictions_equal_the_pipeline(written):
    task, model = build({"model": str(written)}, rows=None, top_k=3)
    texts = [row["text"] for row in ROWS] + ["money " * 60]  # the last is longer than the model
    pipe = transformers.pipeline("text-classification", model=str(written), tokenizer=str(written), device="cpu")
    expected = pipe(texts, top_k=3, truncation=True)
    found = predict(task, model, [{"text": text} for text in texts])
    for mine, theirs in zip(found, expected, strict=True):
        assert [entry["label"] for entry in mine] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in mine] == about([entry["score"] for entry in theirs])


def test_loss_equals_the_native_class(written):
    task, model = build({"model": str(written)})
    batch = task.collate(task.encode(ROWS, "loss", 0), "loss")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(written)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        written, pad_token="[SEP]" if task.tokenizer.pad_token == "[SEP]" else None
    )
    tokenizer.pad_token = task.tokenizer.pad_token
    encoded = tokenizer([row["text"] for row in ROWS], padding=True, return_tensors="pt")
    encoded = {name: value for name, value in encoded.items() if name in task.text.names}
    labels = torch.tensor([{"bad": 0, "good": 1, "mixed": 2}[row["label"]] for row in ROWS])
    expected = plain(**encoded, labels=labels).loss
    close(task.loss(model, batch), expected)


@pytest.mark.parametrize("weighted", [{}, {"class_weights": {"good": 3.0}, "label_smoothing": 0.1}])
def test_row_losses_are_those_of_rows_alone(written, weighted):
    task, model = build({"model": str(written)}, **weighted)
    batch = task.collate(task.encode(ROWS, "loss", 0), "loss")
    with torch.no_grad():
        together = task.row_losses(model, batch)
        alone = super(TextClassification, task).row_losses(model, batch)
        close(together, alone)
        close(task.loss(model, batch), together.mean())


def test_pairs_are_encoded_as_the_tokenizer_does(written):
    task, _ = build({"model": str(written)})
    rows = [
        {"text": "a warm film", "text_pair": "dull"},
        {"text": "a warm film"},
        {"text": "a warm film", "text_pair": None},
    ]
    items = task.encode(rows, "predict", 0)
    expected = task.tokenizer("a warm film", "dull")
    assert items[0].inputs == {name: expected[name] for name in task.text.names}
    assert items[1].inputs == items[2].inputs == {name: task.tokenizer("a warm film")[name] for name in task.text.names}


def test_a_decoder_pads_without_changing_its_answer():
    task, model = build({"config": {"model_type": "gpt2", **GPT2}})
    assert model.config.pad_token_id == task.tokenizer.pad_token_id
    together = predict(task, model, ROWS)
    for row, expected in zip(ROWS, together):
        assert predict(task, model, [row])[0].scores == about(expected.scores)


# ---------------------------------------------------------------- from scratch: what is learned from rows


def test_state_survives_saving(tmp_path):
    """Tokenizer and values are all that a new task needs to encode alike."""
    task, _ = build({"config": {"model_type": "bert", **SMALL}})
    task.base.config.save_pretrained(tmp_path)
    task.tokenizer.save_pretrained(tmp_path)
    base = load_base(str(tmp_path), BaseOptions(model=str(tmp_path), weights=False))
    again = TextClassification(
        {"base": base}, task.options, State(task.state.values, {"tokenizer": base.processor("tokenizer")})
    )
    rows = [*ROWS, {"text": "warm", "text_pair": "unheard-of"}]
    before, after = (entry.encode(rows, "predict", 0) for entry in (task, again))
    assert [item.inputs for item in before] == [item.inputs for item in after]
    assert again.text.max_length == task.text.max_length


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_tokenizers_learned_from_rows(kind):
    options = TokenizerOptions(kind=kind, vocab_size=300, min_frequency=1)
    tokenizer = learn_tokenizer((row["text"] for row in ROWS for _ in range(3)), options)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = tokenizer("a warm film", "dull")["input_ids"]
    assert (ids[0], ids[-1], ids.count(3)) == (2, 3, 2)
    assert tokenizer.decode(tokenizer("a warm film")["input_ids"], skip_special_tokens=True).strip() == "a warm film"


# ---------------------------------------------------------------- kinds of targets


def test_multi_label():
    rows = [
        {"text": "warm and dull", "label": ["good", "bad"]},
        {"text": "warm", "label": ["good"]},
        {"text": "dull", "label": ["bad"]},
        {"text": "green", "label": []},
    ]
    task, model = build({"config": {"model_type": "bert", **SMALL}}, rows=rows, multi_label=True)
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    assert batch.inputs["labels"].tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]
    close(task.loss(model, batch), model(**batch.inputs).loss)
    metric = task.metric()
    for row, prediction in zip(rows, predict(task, model, rows)):
        assert sorted(entry["label"] for entry in prediction) == ["bad", "good"]
        metric.update(row, prediction)
    assert set(metric.keys) <= set(metric.result())


def test_regression():
    rows = [{"text": text, "label": value} for text, value in zip(["a", "b", "c", "d"], [0.5, 1, 2.5, -1])]
    task, model = build({"config": {"model_type": "bert", **SMALL}}, rows=rows, regression=True)
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    close(task.loss(model, batch), model(**batch.inputs).loss)
    (prediction,) = predict(task, model, rows[:1])
    logits = model(**{name: value[:1] for name, value in batch.inputs.items() if name != "labels"}).logits
    assert prediction == [{"label": "LABEL_0", "score": about(float(logits.detach()))}]


def test_labels_are_mapped_by_name(written):
    """The data set lists its classes in another order than the checkpoint: names decide."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["mixed", "good", "bad"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [0, 1, 2]}, features=features)
    task, _ = build({"model": str(written)}, rows=rows)
    assert task.names == ["bad", "good", "mixed"]
    assert [item.extra for item in task.encode(list(rows), "loss", 0)] == [2, 1, 0]


def test_integers_as_labels():
    rows = [{"text": "a", "label": 10}, {"text": "b", "label": 9}, {"text": "c", "label": 2}]
    task, _ = build({"config": {"model_type": "bert", **SMALL}}, rows=rows)
    assert task.names == ["2", "9", "10"]
    assert [item.extra for item in task.encode(rows, "loss", 0)] == [2, 1, 0]


def test_integers_under_named_labels_need_names(written):
    rows = [{"text": "a", "label": 1}]
    task, _ = build({"model": str(written)}, rows=None)
    with pytest.raises(DataError, match="label_names"):
        task.encode(rows, "loss", 0)
    task, _ = build({"model": str(written)}, rows=None, label_names=["mixed", "bad", "good"])
    assert task.encode(rows, "loss", 0)[0].extra == 0


def test_other_labels_than_the_checkpoint_s(written):
    rows = [{"text": "a", "label": "up"}, {"text": "b", "label": "down"}]
    task, _ = build({"model": str(written)}, rows=rows)
    with pytest.raises(DataError, match="unknown label 'up'"):
        task.encode(rows, "train", 0)
    task, model = build({"model": str(written), "head": "new"}, rows=rows)
    assert task.names == ["down", "up"]
    assert model.config.id2label == {0: "down", 1: "up"}


def test_balanced_weights_equal_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    found = learn_weights("balanced", [{"label": label} for label in labels], Targets("single", ["a", "b", "c"]))
    assert found == pytest.approx(compute_class_weight("balanced", classes=numpy.array(["a", "b", "c"]), y=labels))
    assert learn_weights({"b": 2}, None, Targets("single", ["a", "b", "c"])) == [1, 2, 1]
    with pytest.raises(UsageError, match="did you mean `good`"):
        learn_weights({"goood": 2}, None, Targets("single", ["good", "bad"]))


def test_loss_in_closed_form():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
    labels = torch.tensor([0, 2])
    nll = -logits.log_softmax(-1)
    expected = torch.stack([2 * nll[0, 0], 5 * nll[1, 2]])
    close(classification_loss(logits, labels, "single", [2, 3, 5], "none"), expected)
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    bce = -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).mean(-1)
    close(classification_loss(logits, targets, "multi", reduction="none"), bce)


# ---------------------------------------------------------------- the metric


def scored(rows, names):
    return [LabelScores(row, names, None) for row in rows]


def test_single_metric_equals_scikit_learn():
    random = numpy.random.default_rng(0)
    names = ["a", "b", "c", "never"]
    truth = random.integers(0, 3, 60)
    scores = random.dirichlet([1, 1, 1, 1], 60)
    halves = [ClassificationMetric(names, "single", top=2) for _ in range(2)]
    for index, (label, prediction) in enumerate(zip(truth, scored(scores, names))):
        halves[index % 2].update({"label": names[label]}, prediction)
    halves[0].merge(halves[1])
    found, guess = halves[0].result(), scores.argmax(-1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="micro"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, guess))
    assert found["top2_accuracy"] == pytest.approx(metrics.top_k_accuracy_score(truth, scores, k=2, labels=range(4)))
    assert found["confusion"]["counts"] == metrics.confusion_matrix(truth, guess, labels=range(4)).tolist()
    assert found["per_label"][3]["support"] == 0


def test_multi_metric_equals_scikit_learn():
    random = numpy.random.default_rng(1)
    names = ["a", "b", "c"]
    truth, scores = random.integers(0, 2, (40, 3)), random.random((40, 3))
    metric = ClassificationMetric(names, "multi")
    for labels, prediction in zip(truth, scored(scores, names)):
        metric.update({"label": [names[n] for n in range(3) if labels[n]]}, prediction)
    found, guess = metric.result(), scores >= 0.5
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    assert found["mean_average_precision"] == pytest.approx(
        metrics.average_precision_score(truth, scores, average="macro")
    )


def test_regression_metric_in_closed_form():
    metric = ClassificationMetric(["LABEL_0"], "regression")
    for truth, guess in [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]:
        metric.update({"label": truth}, [{"label": "LABEL_0", "score": guess}])
    found = metric.result()
    assert found == pytest.approx({"r2": 1 - 3 / 2, "pearson": 1, "spearman": 1, "mse": 1})


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_empty_metric_is_nan(kind):
    metric = ClassificationMetric(["a", "b"], kind)
    found = metric.result()
    assert set(found) == set(metric.keys)
    assert all(math.isnan(value) for value in found.values())
    assert metric.primary in metric.keys


# ---------------------------------------------------------------- bad input

BAD = {
    "missing text": ({"label": "good"}, "text", "missing"),
    "text is a number": ({"text": 3, "label": "good"}, "text", "not text"),
    "text is None": ({"text": None, "label": "good"}, "text", "not text"),
    "pair is a number": ({"text": "a", "text_pair": 3, "label": "good"}, "text_pair", "not text"),
    "missing label": ({"text": "a"}, "label", "missing"),
    "unknown label": ({"text": "a", "label": "god"}, "label", "did you mean `good`"),
    "label is None": ({"text": "a", "label": None}, "label", "no label"),
    "label is a float": ({"text": "a", "label": 1.5}, "label", "no label"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_row_and_column(written, case):
    row, column, message = BAD[case]
    task, _ = build({"model": str(written)}, rows=None)
    with pytest.raises(DataError, match=message) as caught:
        task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)
    assert caught.value.hint


def test_empty_text_is_handled(written):
    task, model = build({"model": str(written)}, rows=None)
    (prediction,) = predict(task, model, [{"text": ""}])
    assert math.isfinite(prediction[0]["score"])
    items = task.encode([{"text": ""}], "predict", 0)
    assert len(task.units(items[0]).names) == len(items[0].inputs["input_ids"]) >= 1


def test_an_empty_sequence_gets_one_token(written):
    """A tokenizer that adds no special tokens gives nothing for an empty text; a model cannot take nothing."""
    task, model = build({"model": str(written)}, rows=None)
    task.text.tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    task.tokenizer.pad_token = task.tokenizer.pad_token or "[SEP]"
    task.tokenizer._tokenizer.post_processor = None
    (item,) = task.encode([{"text": ""}], "predict", 0)
    assert item.inputs["input_ids"] == [task.tokenizer.eos_token_id]
    assert math.isfinite(predict(task, model, [{"text": ""}])[0][0]["score"])


def test_what_cannot_be_learned_is_said():
    with pytest.raises(TopworkError, match="label names are not known"):
        build({"config": {"model_type": "bert", **SMALL}}, rows=None)
    with pytest.raises(DataError, match="only the label"):
        build({"config": {"model_type": "bert", **SMALL}}, rows=[{"text": "a", "label": "x"}])
    with pytest.raises(UsageError, match="512 positions"):
        build({"config": {"model_type": "bert", **SMALL}}, max_length=513)


def test_positions_of_roberta_begin_behind_the_padding_token():
    task, model = build({"config": {"model_type": "roberta", **SMALL, "max_position_embeddings": 20}})
    assert task.text.max_length == 20 - task.tokenizer.pad_token_id - 1
    predict(task, model, [{"text": "money " * 50}])


def test_pictures_show_the_worst_first(written):
    task, model = build({"model": str(written)}, rows=None)
    for row, prediction in zip(ROWS, predict(task, model, ROWS)):
        picture = task.draw(row, prediction)
        truth = prediction.scores[task.names.index(row["label"])]
        assert picture.badness == about(1 - truth)
        assert (row["label"], "truth") in picture.text
        assert ("", "") not in picture.text
    assert task.draw({"text": "x"}, prediction).badness == 0


def test_rated_words_share_no_stem_between_splits():
    from topwork_bases.samples.rated_words import rated_words

    train, test = rated_words("train"), rated_words("test")
    stems = [{word[:4].lower() for word in split["text"]} for split in (train, test)]
    assert not stems[0] & stems[1]
    assert 0.1 < len(test) / (len(train) + len(test)) < 0.3
    named = dict(zip(train["text"], train["label"])) | dict(zip(test["text"], test["label"]))
    assert train.features["label"].names[named["wonderful"]] == "positive"
    assert train.features["label"].names[named["horrible"]] == "negative"
    with pytest.raises(UsageError, match="train and test"):
        rated_words("validation")


def test_a_folder_inside_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    import sys

    package = tmp_path / "brings_a_model"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('was imported')")
    transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=60)).save_pretrained(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    name = "package:brings_a_model/model"
    assert load_base(name, BaseOptions(model=name)).backbone().width == 32
    assert "brings_a_model" not in sys.modules
    for wrong in ("package:brings_a_model/other", "package:brings_a_model/../.."):
        with pytest.raises(UsageError, match="no folder"):
            load_base(wrong, BaseOptions(model=wrong))


def test_the_same_texts_give_the_same_tokenizer_in_every_process():
    """The trainers order ties by hashes, which differ between processes and between trainers alike."""
    texts = [chr(97 + first) + chr(97 + second) * 3 for first in range(26) for second in range(26)] * 2
    for kind in ("wordpiece", "bpe"):
        options = TokenizerOptions(kind=kind, vocab_size=150)
        made = {learn_tokenizer(texts, options).backend_tokenizer.to_str() for _ in range(6)}
        assert len(made) == 1


def test_wordpiece_is_as_good_as_the_library_s_own():
    import tokenizers

    texts = [row["text"] for row in ROWS] * 3
    mine = learn_tokenizer(texts, TokenizerOptions(vocab_size=120))
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = tokenizers.normalizers.BertNormalizer()
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    theirs.train_from_iterator(texts, trainer)
    assert len(mine) == theirs.get_vocab_size()
    counts = [
        sum(len(mine(text, add_special_tokens=False)["input_ids"]) for text in texts),
        sum(len(theirs.encode(text).ids) for text in texts),
    ]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)
    assert (
        mine.unk_token_id not in mine("".join(letter + " " for letter in "".join(texts) if letter != " "))["input_ids"]
    )
    assert all(mine.unk_token_id not in mine(text)["input_ids"] for text in texts)
