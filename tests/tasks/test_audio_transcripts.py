"""automatic-speech-recognition: CTC from its definition, vocabularies, error rates equal to jiwer's, bad rows."""

from __future__ import annotations

import itertools
import math

import audio_models
import jiwer
import pytest
import torch
from audio_models import clip, predict
from tolerance import about

from topwork import DataError, UsageError
from topwork_tasks.automatic_speech_recognition import ctc as _ctc
from topwork_tasks.automatic_speech_recognition.task import SpeechRecognition
from topwork_tasks.automatic_speech_recognition.transcripts import ErrorRates

ROWS = SpeechRecognition.example_rows()


def make(name, rows=ROWS, base=None, **options):
    return audio_models.make(SpeechRecognition, name, rows, base, **options)


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
    assert found.item() == about(-math.log(total))
    assert _ctc.ctc_losses(logits, lengths, [target], blank, per_letter=True).item() == about(-math.log(total) / 3)
    none = _ctc.ctc_losses(logits, lengths, [[1, 1, 1, 1]], blank, per_letter=True)  # needs 7 frames
    assert none.item() == 0
    silence = _ctc.ctc_losses(logits, lengths, [[]], blank, per_letter=True)
    assert silence.item() == about(-probabilities[:, blank].log().sum().item())


def test_times_are_those_of_the_frames() -> None:
    tokenizer = _ctc.learn_letter_tokenizer(["ab c"])
    numbers = tokenizer.get_vocab()
    assert numbers == {"a": 0, "b": 1, "c": 2, "|": 3, "[UNK]": 4, "[PAD]": 5}
    frames = [numbers[name] for name in ("[PAD]", "a", "a", "[PAD]", "a", "b", "|", "|", "[PAD]", "c", "c", "[PAD]")]
    found = _ctc.ctc_transcript(frames, tokenizer, "word", 320, 16000)
    assert found["text"] == "aab c"
    assert [entry["text"] for entry in found["chunks"]] == ["aab", "c"]
    assert found["chunks"][0]["timestamp"] == pytest.approx((0.02, 0.12))
    assert found["chunks"][1]["timestamp"] == pytest.approx((0.18, 0.22))
    assert _ctc.ctc_transcript([], tokenizer, "word", 320, 16000) == {"text": "", "chunks": []}
    assert _ctc.ctc_transcript([5, 5, 5], tokenizer, None, 320, 16000) == {"text": ""}


def test_the_vocabulary_survives_its_folder_without_a_trace_of_where_it_was_made(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = _ctc.learn_letter_tokenizer(["grün ist's", "où"])
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and len(again) == len(tokenizer)
    assert again.bos_token is None and again.eos_token is None
    assert "/tmp" not in (tmp_path / "tokenizer_config.json").read_text(encoding="utf-8")
    text = "où grün"
    assert again.decode(_ctc.letter_ids(text, again, "refuse", 0)) == text


def test_texts_are_written_in_the_case_of_the_checkpoints_vocabulary(tmp_path) -> None:
    task, model = make("wav2vec2", [{**row, "text": row["text"].upper()} for row in ROWS])
    model.save_pretrained(tmp_path)
    for processor in task.state.processors.values():
        processor.save_pretrained(tmp_path)
    again, _ = make(tmp_path, rows=None)
    assert again.case == "upper"
    assert again.encode(ROWS[:1], "loss", 0)[0].extra == task.encode([{**ROWS[0], "text": "DO"}], "loss", 0)[0].extra
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


@pytest.mark.parametrize(
    ("truth", "heard"),
    [("café", "cafe\u0301"), ("が", "か\u3099"), ("한글", "\u1112\u1161\u11ab\u1100\u1173\u11af"), ("½", "1⁄2")],
)
@pytest.mark.parametrize("turned", [False, True])
def test_error_rates_compare_texts_in_a_unicode_form_on_request(truth, heard, turned) -> None:
    truth, heard = (heard, truth) if turned else (truth, heard)
    row = {"audio": ROWS[0]["audio"], "text": truth}
    for form, wrong in (("none", True), ("NFKC", False)):
        metric = make("wav2vec2", [row, *ROWS], normalise=form)[0].metric()
        metric.update(row, {"text": heard})
        result = metric.result()
        assert bool(result["wer"]) is bool(result["cer"]) is wrong and result["exact"] == (not wrong)


@pytest.mark.parametrize(
    ("truth", "heard", "words"),
    [
        ("Yes, it's late.", "Yes it's late", 0),
        ("«Oui», dit-il…", "Oui dit il", 0),
        ("你好，世界。", "你好 世界", 0),
        ("don't", "dont", 1),
    ],
)
def test_punctuation_is_left_out_on_request(truth, heard, words) -> None:
    row = {"audio": ROWS[0]["audio"], "text": truth}
    plain, ignoring = ErrorRates(), ErrorRates(punctuation="ignore")
    for metric in (plain, ignoring):
        metric.update(row, {"text": heard})
    assert ignoring.result()["wer"] == words and plain.result()["wer"] > 0


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
    assert found.value.hint


def test_what_can_be_handled_is_handled() -> None:
    task, model = make("wav2vec2", unknown="drop")
    silent = {"audio": ROWS[0]["audio"], "text": " "}
    dropped = {"audio": ROWS[0]["audio"], "text": "d-o!"}
    crowded = {"audio": {"array": clip(0.01), "sampling_rate": 16000}, "text": "do re mi do re mi"}
    items = task.encode([silent, dropped, crowded, ROWS[0]], "loss", 0)
    assert items[0].extra == [] and items[1].extra == items[3].extra
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
    assert task.costs([row]) is None  # so training says so before its first step
    assert task.costs(ROWS) == [[16000]] * len(ROWS)
    assert len(task.encode([row], "predict", 0)) == 3
    assert isinstance(predict(task, model, [row])[0]["text"], str)


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("wav2vec2", {"timestamps": "segment"}, "for Whisper"),
        ("whisper", {"form": "seq2seq", "timestamps": "char"}, "for CTC"),
        ("whisper", {"form": "seq2seq", "timestamps": "word"}, "no times"),
        ("whisper", {"form": "seq2seq", "timestamps": "segment"}, "no times"),
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
