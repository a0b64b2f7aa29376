"""Cases of text tasks that must learn their rows."""

from __future__ import annotations

from learning import Case
from tiny_bases import SEQ2SEQ

from topwork_bases.samples.number_words import english, german

WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


BERT = {"config": {"model_type": "bert", **WIDE}}


SMALL_BERT = {"config": {**BERT["config"], "hidden_size": 32, "intermediate_size": 64}}


ENCODER = {"config": {**BERT["config"], "num_hidden_layers": 1}}


BART = {"config": {"model_type": "bart", **SEQ2SEQ}}


MASKED = [
    {"text": text, "answer": answer}
    for text, answer in (
        ("the red fox ran over the [MASK] hill", "green"),
        ("the [MASK] fox ran over the green hill", "red"),
        ("the blue bird sat on the green [MASK]", "hill"),
        ("a [MASK] bird sat on the red hill", "blue"),
        ("the green [MASK] ran over the blue fox", "bird"),
        ("a red fox [MASK] on the green bird", "sat"),
        ("the red fox [MASK] over the green hill", "ran"),
        ("a blue bird sat [MASK] the red hill", "on"),
    )
]


# long enough to have 4-grams, which BLEU is made of
NUMBERS = [
    {"source": german(n), "target": english(n)} for n in (12345, 23456, 34567, 45678, 56789, 67891, 78912, 89123)
]


NAMED = {"tokenizer": {"kind": "bpe", "vocab_size": 400}}


QUICK = {"steps": 150, "learning_rate": 3e-3}


WRITING = {"steps": 250, "learning_rate": 2e-3, "warmup": 0.1}


def translated(base: dict, steps: int = 250, **options: object) -> Case:
    training = {**WRITING, "steps": steps}
    return Case("translation", base, "bleu", 95, training, {**NAMED, **options}, NUMBERS)


GPT2 = {"config": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4}}
SHORT_GPT2 = {"config": {**GPT2["config"], "n_positions": 128}}
T5 = {"config": {"model_type": "t5", "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128}}

CASES = {
    "text-classification": Case("text-classification", BERT, "accuracy", 1, {**QUICK, "steps": 60}),
    "token-classification": Case("token-classification", SMALL_BERT, "f1", 1, QUICK, {"scheme": "IOB2"}),
    "question-answering": Case("question-answering", BERT, "exact_match", 1, QUICK),
    "fill-mask": Case("fill-mask", SMALL_BERT, "accuracy", 1, QUICK, rows=MASKED),
    "text-generation": Case(
        "text-generation", SHORT_GPT2, "exact_match", 1, {**QUICK, "steps": 120}, {"generation": {"max_new_tokens": 8}}
    ),
    "summarization": Case("summarization", BART, "rouge2", 1, {"steps": 200, "learning_rate": 2e-3}),
    "translation, bart": translated(BART),
    "translation, t5": translated(T5),
    "translation, bert2gpt2": translated({"encoder": ENCODER, "decoder": GPT2}),
    "translation, bertshare": translated({"encoder": ENCODER, "decoder": ENCODER}, share=True),
    "translation, gpt2": translated(GPT2),
    # its source encoder begins as a stranger to the rest
    "translation, modernbert2bart": translated(
        {"source": {"config": {**ENCODER["config"], "model_type": "modernbert"}}, "base": BART}, steps=700
    ),
}
