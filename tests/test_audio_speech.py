"""automatic-speech-recognition: equal to plain transformers and its pipeline, CTC from its definition, chunks, times,
Whisper's decoder, error rates equal to jiwer's, bad rows."""

from __future__ import annotations

import itertools
import math

import jiwer
import numpy
import pytest
import torch
from audio_models import CONFIGS, clip

import topwork
from topwork import BaseOptions, DataError, UsageError
from topwork.testing import check_task
from topwork_bases.transformers_bases import load_base
from topwork_tasks import _ctc
from topwork_tasks._transcripts import ErrorRates
from topwork_tasks.automatic_speech_recognition import SpeechRecognition

ROWS = SpeechRecognition.example_rows()
NATIVE = ["wav2vec2", "wav2vec2-group", "hubert", "wavlm", "wav2vec2-bert"]
WRITES = {"form": "seq2seq", "generation": {"num_beams": 1, "max_new_tokens": 8}}


def make(name, rows=ROWS, base=None, **options):
    torch.manual_seed(0)
    named = {"config": CONFIGS[name]} if name in CONFIGS else {"model": str(name)}
    found = load_base(str(name), BaseOptions(**{**named, **(base or {})}))
    chosen = SpeechRecognition.Options(**options)
    state = SpeechRecognition.learn(rows, {"base": found}, chosen)
    task = SpeechRecognition({"base": found}, chosen, state)
    return task, task.build().eval()


def predict(task, model, rows, together=True):
    told = []
    for group in [rows] if together else [[row] for row in rows]:
        items = task.encode(group, "predict", 0)
        with torch.inference_mode():
            parts = task.predict(model, task.collate(items, "predict"))
        for number, row in enumerate(group):
            told.append(task.merge(row, [part for item, part in zip(items, parts) if item.row == number]))
    return told


def lively(model):
    """A random model whose best letter changes from frame to frame."""
    torch.manual_seed(3)
    head = getattr(model, "lm_head", None) or model.head
    torch.nn.init.normal_(head.weight, std=3.0)
    return model


def array_rows(count=5, seconds=0.2):
    texts = ("do re", "mi", "re", "do", "mi do")
    return [
        {"audio": {"array": clip(seconds + 0.06 * n, seed=n), "sampling_rate": 16000}, "text": texts[n % 5]}
        for n in range(count)
    ]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_architecture_keeps_the_contract(name, tmp_path, plugins) -> None:
    work = check_task(SpeechRecognition, {"config": CONFIGS[name]}, tmp_path, plugins=plugins)
    assert work.form == ("native" if name in NATIVE else "generic")


def test_whisper_with_its_decoder_keeps_the_contract(tmp_path, plugins) -> None:
    work = check_task(SpeechRecognition, {"config": CONFIGS["whisper"]}, tmp_path, plugins=plugins, options=WRITES)
    assert work.form == "native"


# ---------------------------------------------------------------- plain transformers


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", NATIVE)
def test_a_folder_of_plain_transformers_gives_plain_transformers_numbers(name, reduction, tmp_path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, pipeline

    task, model = make(name)
    lively(model).config.ctc_loss_reduction = reduction
    model.save_pretrained(tmp_path)
    for processor in task.state.processors.values():
        processor.save_pretrained(tmp_path)
    rows = array_rows()
    task, model = make(tmp_path, rows=None, timestamps="word")
    plain = AutoModelForCTC.from_pretrained(tmp_path).eval()
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == plain.config.vocab_size == 9  # d e i m o r, the delimiter, the unknown, the blank
    asked = pipeline(
        "automatic-speech-recognition", model=plain, feature_extractor=extractor, tokenizer=tokenizer, device="cpu"
    )
    told = predict(task, model, rows)
    assert len({entry["text"] for entry in told}) > 2
    losses = []
    for ours, row in zip(told, rows, strict=True):
        theirs = asked(row["audio"]["array"].copy(), return_timestamps="word")
        assert ours["text"] == theirs["text"]
        if name != "wav2vec2-bert":  # its frames last 20 ms; the pipeline takes another number from its config
            assert ours == theirs
        inputs = extractor(row["audio"]["array"], sampling_rate=16000, return_tensors="pt")
        labels = torch.tensor([tokenizer(row["text"]).input_ids])
        with torch.no_grad():
            losses.append(plain(**inputs, labels=labels).loss)
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        assert torch.allclose(task.row_losses(model, batch), torch.stack(losses), rtol=1e-4)
        whole = torch.stack(losses).mean() if reduction == "mean" else torch.stack(losses).sum()
        assert torch.allclose(task.loss(model, batch), whole, rtol=1e-4)


def test_chunks_of_a_long_clip_equal_the_pipeline() -> None:
    from transformers import pipeline

    task, model = make("wav2vec2", chunk_seconds=0.5, stride_seconds=0.1, timestamps="char")
    lively(model)
    samples = clip(2.3)
    asked = pipeline(
        "automatic-speech-recognition",
        model=model,
        feature_extractor=task.frontend.extractor,
        tokenizer=task.tokenizer,
        device="cpu",
    )
    theirs = asked(samples.copy(), chunk_length_s=0.5, stride_length_s=0.1, return_timestamps="char")
    ours = predict(task, model, [{"audio": {"array": samples, "sampling_rate": 16000}}])[0]
    assert len(task.encode([{"audio": {"array": samples, "sampling_rate": 16000}}], "predict", 0)) == 7
    assert len(ours["text"]) > 20
    assert ours == theirs


@pytest.mark.parametrize("timestamps", [None, "segment"])
def test_whisper_writes_what_plain_transformers_writes(tmp_path, timestamps) -> None:
    from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration, pipeline

    task, model = make("whisper", **WRITES)
    torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=0.5)
    model.save_pretrained(tmp_path)
    for processor in task.state.processors.values():
        processor.save_pretrained(tmp_path)
    rows = array_rows(4)
    options = {"generation": {"num_beams": 2, "max_new_tokens": 9}, "timestamps": timestamps}
    task, model = make(tmp_path, rows=None, **options)
    assert task.form == "seq2seq"
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    asked = pipeline(
        "automatic-speech-recognition", model=plain, feature_extractor=extractor, tokenizer=tokenizer, device="cpu"
    )
    settings = {"return_timestamps": True} if timestamps else {}
    for ours, row in zip(predict(task, model, rows), rows, strict=True):
        theirs = asked(row["audio"]["array"].copy(), generate_kwargs=dict(options["generation"]), **settings)
        assert ours == theirs
        assert ours["text"]
    losses = []
    for row in rows:
        inputs = extractor(row["audio"]["array"], sampling_rate=16000, return_tensors="pt")
        labels = torch.tensor([tokenizer(row["text"]).input_ids])
        with torch.no_grad():
            losses.append(plain(**inputs, labels=labels[:, 1:]).loss)
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        assert torch.allclose(task.row_losses(model, batch), torch.stack(losses), rtol=1e-5)
        tokens = torch.tensor([len(tokenizer(row["text"]).input_ids) - 1 for row in rows])
        assert torch.allclose(task.loss(model, batch), (torch.stack(losses) * tokens).sum() / tokens.sum(), rtol=1e-5)


def test_whisper_joins_the_windows_of_a_long_clip() -> None:
    task, model = make("whisper", **WRITES)
    row = {"audio": {"array": clip(2.4), "sampling_rate": 16000}}
    assert len(task.encode([row], "predict", 0)) == 4
    assert isinstance(predict(task, model, [row])[0]["text"], str)


def test_a_learned_tokenizer_of_whisper_writes_any_text() -> None:
    from topwork_tasks._speech_seq2seq import learn_tokenizer

    tokenizer = learn_tokenizer(["do re mi", "mi do"])
    ids = tokenizer("Où est-ce, 東京?").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Où est-ce, 東京?"
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    assert ids[-1] == tokenizer.eos_token_id


# ---------------------------------------------------------------- alone and together


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_clip_is_understood_the_same_alone_and_in_company(name) -> None:
    task, model = make(name, timestamps="char")
    lively(model)
    rows = array_rows(5)
    assert predict(task, model, rows) == predict(task, model, rows, together=False)


@pytest.mark.parametrize("name", ["wav2vec2", "whisper", "ast", "speech_to_text"])
def test_frames_past_a_clip_say_nothing(name) -> None:
    task, model = make(name)
    lively(model)
    row = array_rows(1)[0]
    items = task.encode([row, {"audio": {"array": clip(0.6, seed=2), "sampling_rate": 16000}}], "predict", 0)
    batch = task.collate(items, "predict")
    output = model(**{key: value for key, value in batch.inputs.items()})
    lengths = _ctc.output_lengths(model, output, items, task.frontend.main, batch.inputs.get("attention_mask"))
    seconds = [len(row["audio"]["array"]) / 16000, 0.6]
    per_frame = _ctc.samples_per_frame(task.frontend, items[1], output.logits.shape[1], 1) / 16000
    for told, wanted in zip(lengths.tolist(), seconds):
        assert abs(told * per_frame - wanted) < 0.07
    assert lengths[0] < output.logits.shape[1]


def test_upsampling_gives_more_frames_of_the_same_clip() -> None:
    times = []
    for upsample in (1, 3):
        task, model = make("speech_to_text", upsample=upsample, timestamps="char")
        lively(model)
        found = predict(task, model, array_rows(1, 0.8))[0]
        times.append(found["chunks"][-1]["timestamp"][1])
        assert found["chunks"][0]["timestamp"][0] >= 0
    assert all(0.4 < last < 0.9 for last in times)


# ---------------------------------------------------------------- CTC by its definition


def test_the_loss_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    logits, target, blank = torch.randn(1, 5, 4), [1, 1, 2], 0
    probabilities = logits[0].double().softmax(-1)
    total = 0.0
    for path in itertools.product(range(4), repeat=5):
        collapsed = [entry for entry, _ in itertools.groupby(path) if entry != blank]
        if collapsed == target:
            total += math.prod(probabilities[frame, entry].item() for frame, entry in enumerate(path))
    lengths = torch.tensor([5])
    found = _ctc.ctc_losses(logits, lengths, [target], blank, per_letter=False)
    assert found.item() == pytest.approx(-math.log(total), rel=1e-5)
    assert _ctc.ctc_losses(logits, lengths, [target], blank, per_letter=True).item() == pytest.approx(
        -math.log(total) / 3, rel=1e-5
    )
    none = _ctc.ctc_losses(logits, lengths, [[1, 1, 1, 1]], blank, per_letter=True)  # needs 7 frames
    assert none.item() == 0
    silence = _ctc.ctc_losses(logits, lengths, [[]], blank, per_letter=True)
    assert silence.item() == pytest.approx(-probabilities[:, blank].log().sum().item(), rel=1e-5)


def test_times_are_those_of_the_frames() -> None:
    tokenizer = _ctc.learn_tokenizer(["ab c"])
    numbers = tokenizer.get_vocab()
    assert numbers == {"a": 0, "b": 1, "c": 2, "|": 3, "[UNK]": 4, "[PAD]": 5}
    frames = [numbers[name] for name in ("[PAD]", "a", "a", "[PAD]", "a", "b", "|", "|", "[PAD]", "c", "c", "[PAD]")]
    found = _ctc.transcript(frames, tokenizer, "word", 320, 16000)
    assert found["text"] == "aab c"
    assert [entry["text"] for entry in found["chunks"]] == ["aab", "c"]
    assert [entry["timestamp"] for entry in found["chunks"]] == pytest.approx([(0.02, 0.12), (0.18, 0.22)])
    assert _ctc.transcript([], tokenizer, "word", 320, 16000) == {"text": "", "chunks": []}
    assert _ctc.transcript([5, 5, 5], tokenizer, None, 320, 16000) == {"text": ""}


def test_the_vocabulary_survives_its_folder_without_a_trace_of_where_it_was_made(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = _ctc.learn_tokenizer(["grün ist's", "où"])
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and len(again) == len(tokenizer)
    assert again.bos_token is None and again.eos_token is None
    assert "/tmp" not in (tmp_path / "tokenizer_config.json").read_text(encoding="utf-8")
    text = "où grün"
    assert again.decode(_ctc.target_ids(text, again, "refuse", 0)) == text


def test_texts_are_written_in_the_case_of_the_checkpoints_vocabulary(tmp_path) -> None:
    task, model = make("wav2vec2", [{**row, "text": row["text"].upper()} for row in ROWS])
    model.save_pretrained(tmp_path)
    for processor in task.state.processors.values():
        processor.save_pretrained(tmp_path)
    again, _ = make(tmp_path, rows=None)
    assert again.case == "upper"
    assert again.encode(ROWS[:1], "loss", 0)[0].beside == task.encode([{**ROWS[0], "text": "DO"}], "loss", 0)[0].beside
    metric = again.metric()
    metric.update(ROWS[0], {"text": "DO"})
    assert metric.result()["wer"] == 0
    new, model = make(tmp_path, base={"head": "new"}, case="lower")
    assert len(new.tokenizer) == model.config.vocab_size == 9
    assert "d" in new.tokenizer.get_vocab() and "D" not in new.tokenizer.get_vocab()


# ---------------------------------------------------------------- error rates


def test_error_rates_are_those_of_jiwer_over_all_rows() -> None:
    truths = ["one two three", "four", "five  six", "seven eight nine zero"]
    said = ["one too three", "four for", "", "seven nine zero zero"]
    metric, half = ErrorRates(), ErrorRates()
    for number, (truth, text) in enumerate(zip(truths, said)):
        (metric if number < 2 else half).update({"text": truth}, {"text": text})
    metric.merge(half)
    found = metric.result()
    clean = [" ".join(truth.split()) for truth in truths]
    assert found["wer"] == pytest.approx(jiwer.wer(clean, said))
    assert found["cer"] == pytest.approx(jiwer.cer(clean, said))
    assert found["exact"] == 0
    silent = ErrorRates()
    silent.update({"text": ""}, {"text": ""})
    assert silent.result()["wer"] == 0
    silent.update({"text": ""}, {"text": "noise"})
    assert silent.result()["wer"] == 1
    assert not ErrorRates.higher_is_better


def test_a_picture_marks_what_was_misunderstood() -> None:
    task, _ = make("wav2vec2")
    row = {**ROWS[3], "text": "do re mi"}
    picture = task.draw(row, {"text": "do mi mi do"})
    assert [mark for _, mark in picture.text].count("right") >= 1
    assert {"wrong", "right"} <= {mark for _, mark in picture.text}
    assert picture.badness == pytest.approx(2 / 3)
    assert picture.image is not None
    assert task.draw({"audio": row["audio"]}, {"text": "do"}).badness == 0


# ---------------------------------------------------------------- bad rows and options


@pytest.mark.parametrize(
    ("row", "column", "cause"),
    [
        ({"text": "do"}, "audio", "missing"),
        ({"audio": None, "text": "do"}, "audio", "None"),
        ({"audio": {"bytes": b"no audio", "path": None}, "text": "do"}, "audio", "cannot be read"),
        ({"audio": {"array": clip(0.2), "sampling_rate": 0}, "text": "do"}, "audio", "sampling rate of 0"),
        ({"audio": {"array": [], "sampling_rate": 16000}, "text": "do"}, "audio", "empty"),
        ({"audio": {"array": clip(0.2)[:30], "sampling_rate": 16000}, "text": "do"}, "audio", "the model needs 45"),
        ({"audio": {"array": clip(3), "sampling_rate": 16000}, "text": "do"}, "audio", "max_seconds"),
        ({"audio": ROWS[0]["audio"]}, "text", "missing"),
        ({"audio": ROWS[0]["audio"], "text": None}, "text", "no text"),
        ({"audio": ROWS[0]["audio"], "text": "do!"}, "text", "no '!'"),
    ],
)
def test_bad_rows_are_refused_by_row_and_column(row, column, cause) -> None:
    task, _ = make("wav2vec2", max_seconds=2)
    with pytest.raises(DataError, match=cause) as found:
        task.encode([ROWS[0], row], "loss", 0)
    assert (found.value.row, found.value.column) == (1, column)
    assert found.value.mend


def test_what_can_be_handled_is_handled() -> None:
    task, model = make("wav2vec2", unknown="drop")
    silent = {"audio": ROWS[0]["audio"], "text": " "}
    dropped = {"audio": ROWS[0]["audio"], "text": "d-o!"}
    crowded = {"audio": {"array": clip(0.01), "sampling_rate": 16000}, "text": "do re mi do re mi"}
    items = task.encode([silent, dropped, crowded, ROWS[0]], "loss", 0)
    assert items[0].beside == [] and items[1].beside == items[3].beside
    with torch.no_grad():
        losses = task.row_losses(model, task.collate(items, "loss"))
    assert losses.isfinite().all() and losses[2] == 0 and losses[0] > 0
    training = task.collate(task.encode([silent, crowded, ROWS[0]], "train", 0), "train")
    task.loss(model.train(), training).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_clip_that_a_model_of_one_size_cannot_hear_whole_is_no_training_row() -> None:
    task, model = make("whisper")
    row = {"audio": {"array": clip(1.7), "sampling_rate": 16000}, "text": "do"}
    with pytest.raises(DataError, match="at most 1"):
        task.encode([row], "train", 0)
    assert len(task.encode([row], "predict", 0)) == 3
    assert isinstance(predict(task, model, [row])[0]["text"], str)


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("wav2vec2", {"timestamps": "segment"}, "for Whisper"),
        ("whisper", {"form": "seq2seq", "timestamps": "word"}, "for CTC"),
        ("wav2vec2", {"vocabulary": "checkpoint"}, "no tokenizer"),
        ("wav2vec2", {"form": "seq2seq"}, "no decoder"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, cause) -> None:
    with pytest.raises(UsageError, match=cause):
        make(name, **options)


def test_without_rows_a_config_has_no_vocabulary() -> None:
    with pytest.raises(UsageError, match="no vocabulary"):
        make("wav2vec2", rows=None)


@pytest.mark.learn
@pytest.mark.parametrize("form", ["ctc", "ctc-wave", "seq2seq"])
def test_it_learns_rows_by_heart(form, tmp_path, plugins) -> None:
    config = {**CONFIGS["whisper"], "d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    options = {"form": form.split("-")[0], "dropout": 0.0}
    if form == "ctc-wave":
        quiet = dict.fromkeys(("hidden_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop"), 0.0)
        config = {
            **CONFIGS["wav2vec2"],
            **quiet,
            "hidden_size": 64,
            "conv_dim": [32, 64],
            "conv_kernel": [40, 16],
            "conv_stride": [20, 16],
            "mask_time_prob": 0.0,
        }
    if form == "seq2seq":
        options["generation"] = {"num_beams": 1, "max_new_tokens": 20}
    work = topwork.build("automatic-speech-recognition", {"config": config}, rows=ROWS, plugins=plugins, **options)
    work.train(ROWS, steps=400, batch_size=8, learning_rate=2e-3, warmup=0.1)
    work.save(tmp_path / "model")
    import subprocess
    import sys

    code = (
        "import sys, topwork; from topwork_tasks.automatic_speech_recognition import SpeechRecognition as S; "
        "print(topwork.load(sys.argv[1]).evaluate(S.example_rows())['wer'])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    assert float(told.stdout.splitlines()[-1]) <= 0.05
    shuffled = [{**row, "text": ROWS[(number * 3 + 1) % 8]["text"]} for number, row in enumerate(ROWS)]
    assert work.evaluate(shuffled)["wer"] > 0.5
