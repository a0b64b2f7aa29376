"""Options of text-generation."""

from __future__ import annotations

import re

from pydantic import Field, PositiveInt, field_validator

from topwork import TaskOptions
from topwork_tasks._text.generation import GenerationOptions
from topwork_tasks._text.metrics import BleuTokenizer, UnicodeForm
from topwork_tasks._text.tokenizers import WritingTokenizerOptions

#: a tag that transformers adds to Jinja
_GENERATION_TAG = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")


class TextGenerationOptions(TaskOptions):
    """Options of text-generation."""

    max_length: PositiveInt | None = Field(None, description="tokens of a block; by default at most 1024")
    packing: bool = Field(
        False,
        description="join texts, with an end token between, into full blocks, in training and in evaluation; a text "
        "sees those before it",
    )
    continue_text: bool = Field(False, description="predicting: take `text` for a prompt")
    return_full_text: bool = Field(True, description="the prompt is part of `generated_text`")
    chat_template: str | None = Field(
        None, description="Jinja template that writes `messages`; by default the tokenizer's own"
    )
    generation: GenerationOptions = Field(
        default_factory=lambda: GenerationOptions(), description="how texts are generated"
    )
    bleu_tokenizer: BleuTokenizer = Field(
        "auto", description="of sacreBLEU; auto chooses by the script of the completions"
    )
    normalise: UnicodeForm = Field("none", description="Unicode form of texts before the metrics compare them")
    tokenizer: WritingTokenizerOptions = Field(
        default_factory=lambda: WritingTokenizerOptions(),
        description="to learn one, when the base is a config",
    )

    @field_validator("chat_template")
    @classmethod
    def _template(cls, template: str | None) -> str | None:
        if template is not None:
            from jinja2 import Environment, TemplateSyntaxError

            try:
                Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION_TAG.sub("", template))
            except TemplateSyntaxError as error:
                raise ValueError(
                    f"`chat_template` is no Jinja template: line {error.lineno}: {error.message}"
                ) from None
        return template
