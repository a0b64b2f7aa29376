"""Options of question-answering."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import TaskOptions
from topwork_tasks._text.metrics import UnicodeForm
from topwork_tasks._text.tokenizers import TokenizerOptions


class QuestionAnsweringOptions(TaskOptions):
    """Options of question-answering."""

    max_length: PositiveInt | None = Field(
        None, description="tokens of a window; by default 384, or what the model takes"
    )
    stride: NonNegativeInt = Field(128, description="tokens of context that neighbouring windows share")
    max_answer_length: PositiveInt = Field(30, description="tokens of an answer, at most")
    n_best: PositiveInt = Field(20, description="spans per window that compete")
    # a number always, as in the Hub's pipeline; the answers that compete are the option `n_best`
    top_k: PositiveInt = Field(1, description="answers in a prediction")
    no_answer: bool | None = Field(
        None, description="may there be no answer? By default, whether training rows have that"
    )
    null_threshold: float = Field(0.0, description="no answer when its logits exceed the best span's by more than this")
    punctuation: Literal["ascii", "unicode"] = Field(
        "ascii", description="left out before answers are compared: as SQuAD does, or of every script"
    )
    normalise: UnicodeForm = Field("none", description="Unicode form of answers before they are compared")
    tokenizer: TokenizerOptions = Field(
        default_factory=lambda: TokenizerOptions(), description="to learn one, when the base is a config"
    )
