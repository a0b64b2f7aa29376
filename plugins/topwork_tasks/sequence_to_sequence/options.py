"""Options of sequence-to-sequence tasks."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from topwork import TaskOptions
from topwork_tasks._classification.options import LabelSmoothing
from topwork_tasks._text.generation import GenerationOptions
from topwork_tasks._text.metrics import BleuTokenizer, UnicodeForm
from topwork_tasks._text.tokenizers import WritingTokenizerOptions

#: default of `max_target_length`, which gives way to fewer positions of the decoder
TARGET_LENGTH = 128


class Seq2SeqGeneration(GenerationOptions):
    """Options of generating texts; what is not given is taken from the model's own generation config."""

    max_new_tokens: PositiveInt | None = Field(  # type: ignore[assignment]
        None, description="tokens, at most; by default the checkpoint's own, else `max_target_length`"
    )
    early_stopping: bool | None = Field(None, description="end a beam search when as many texts as beams are complete")


class Seq2SeqOptions(TaskOptions):
    """Options that every sequence-to-sequence task has."""

    prefix: str = Field("", description="written before each source (`summarize: ` for T5)")
    prompt: str = Field("{source}\nTL;DR: ", description="for decoders: what the target continues")
    max_source_length: PositiveInt | None = Field(None, description="tokens; by default what the model can take")
    max_target_length: PositiveInt = Field(
        TARGET_LENGTH,
        description="tokens of a target, its end included; the rest is cut. The default is bounded by the model's "
        "positions",
    )
    label_smoothing: LabelSmoothing = 0.0
    share: bool = Field(
        False, description="with `base: {encoder: ..., decoder: ...}`: one copy of the weights that both have"
    )
    bert_generation: bool = Field(
        False, description="with `base: {encoder: ..., decoder: ...}`: BERT as BertGeneration"
    )
    source_language: str | None = Field(None, description="code of the source, as the tokenizer or the data write it")
    target_language: str | None = Field(None, description="code of the target; forced where the model wants it")
    generation: Seq2SeqGeneration = Field(
        default_factory=lambda: Seq2SeqGeneration(), description="how texts are generated"
    )
    bleu_tokenizer: BleuTokenizer = Field("auto", description="of sacreBLEU; auto chooses by the script of the truths")
    normalise: UnicodeForm = Field("none", description="Unicode form of texts before the metrics compare them")
    tokenizer: WritingTokenizerOptions = Field(
        default_factory=lambda: WritingTokenizerOptions(),
        description="to learn one, when a base is a config",
    )

    @model_validator(mode="after")
    def _prompted(self) -> Seq2SeqOptions:
        if "{source}" not in self.prompt:
            raise ValueError("`prompt` must say where the `{source}` stands")
        return self
