"""Times of words that Whisper writes: equal to the pipeline's, for short clips and in windows of a long one; what makes
them wrong is refused."""

from __future__ import annotations

import audio_models
import pytest
import torch
from audio_models import CONFIGS, clip, predict

import topwork
from topwork import UsageError
from topwork_tasks.automatic_speech_recognition.task import SpeechRecognition

ROWS = SpeechRecognition.example_rows()
HEADS = [[0, 1], [1, 0]]
DEEP = {**CONFIGS["whisper"], "decoder_layers": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Whisper that writes times, as plain transformers saves it; its words come from random weights."""
    target = tmp_path_factory.mktemp("whisper")
    task, model = audio_models.make(SpeechRecognition, "whisper", ROWS, {"config": DEEP}, form="seq2seq")
    task.tokenizer.add_tokens([f"<|{0.02 * number:.2f}|>" for number in range(51)])
    model.resize_token_embeddings(len(task.tokenizer))
    torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=0.5)
    torch.nn.init.normal_(model.model.decoder.embed_positions.weight)  # another word at each place
    for layer in model.model.decoder.layers:  # attention to the sound that is not flat
        torch.nn.init.normal_(layer.encoder_attn.q_proj.weight)
        torch.nn.init.normal_(layer.encoder_attn.k_proj.weight)
    model.generation_config.alignment_heads = HEADS
    model.save_pretrained(target)
    for processor in task.state.processors.values():
        processor.save_pretrained(target)
    return target


def make(folder, **options):
    return audio_models.make(SpeechRecognition, folder, None, None, timestamps="word", **options)


def plain(folder):
    from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration, pipeline

    model = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return pipeline(
        "automatic-speech-recognition", model=model, feature_extractor=extractor, tokenizer=tokenizer, device="cpu"
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_times_of_words_equal_the_pipeline(folder, beams) -> None:
    settings = {"num_beams": beams, "max_new_tokens": 30}
    task, model = make(folder, generation=settings)
    assert model.config._attn_implementation == "sdpa"
    asked = plain(folder)
    rows = audio_models.array_rows("text", ("do re", "mi", "re"), 3, 0.8)
    told = 0
    for ours, row in zip(predict(task, model, rows), rows, strict=True):
        theirs = asked(row["audio"]["array"].copy(), return_timestamps="word", generate_kwargs=dict(settings))
        assert ours == theirs
        told += len({entry["timestamp"] for entry in ours["chunks"]})
    assert told > len(rows)
    assert model.config._attn_implementation == "sdpa"


def test_times_of_a_long_clip_equal_the_pipeline_s(folder) -> None:
    settings = {"num_beams": 1, "max_new_tokens": 16}
    task, model = make(folder, generation=settings)
    samples = clip(2.4)
    ours = predict(task, model, [{"audio": {"array": samples, "sampling_rate": 16000}}])[0]
    theirs = plain(folder)(samples.copy(), return_timestamps="word", chunk_length_s=1.0, generate_kwargs=dict(settings))
    assert ours == theirs
    assert max(end for entry in ours["chunks"] for end in entry["timestamp"]) > 1


def test_without_heads_that_follow_the_sound_times_are_refused(folder, tmp_path, plugins) -> None:
    from transformers import GenerationConfig

    settings = {"num_beams": 1, "max_new_tokens": 8}
    with pytest.raises(UsageError, match=r"names layer 2, attention head 0, the decoder has 2 x 2"):
        make(folder, generation={"alignment_heads": [[2, 0]]})
    work = topwork.build("automatic-speech-recognition", str(folder), plugins=plugins)
    silent = tmp_path / "silent"
    work.save(silent)
    told = GenerationConfig.from_pretrained(silent)
    del told.alignment_heads
    told.save_pretrained(silent)
    with pytest.raises(UsageError, match="no `alignment_heads`") as caught:
        make(silent, generation=settings)
    assert "timestamps: segment" in str(caught.value)
    ours = predict(*make(silent, generation={**settings, "alignment_heads": HEADS}), ROWS[:1])
    assert ours == predict(*make(folder, generation=settings), ROWS[:1])


def test_pruned_heads_that_follow_the_sound_are_not_mistaken_for_others(folder, tmp_path, plugins) -> None:
    options = {"timestamps": "word", "generation": {"num_beams": 1, "max_new_tokens": 8}}
    work = topwork.build("automatic-speech-recognition", str(folder), plugins=plugins, **options)
    before = work.predict(ROWS[:1])
    work.look().prune_heads({"model.encoder.layers.0.self_attn": [1]})
    work.save(tmp_path / "pruned")
    again = topwork.load(tmp_path / "pruned", plugins=plugins).predict(ROWS[:1])
    assert again == work.predict(ROWS[:1])
    assert "chunks" in before[0]
    work.look().prune_heads({"model.decoder.layers.0.encoder_attn": [0]})
    with pytest.raises(UsageError, match="attention heads of decoder layer 0 were pruned"):
        work.predict(ROWS[:1])
