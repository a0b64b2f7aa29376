"""Options of token-classification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import TaskOptions
from topwork_tasks._classification.labels import LABEL_NAMES_HELP, LabelNames
from topwork_tasks._classification.options import HeadDropout, LabelSmoothing
from topwork_tasks._text.tokenizers import TokenizerOptions

#: how the scores of tokens become tags of words
Aggregation = Literal["first", "average", "max", "simple", "none"]


class TokenClassificationOptions(TaskOptions):
    """Options of token-classification."""

    scheme: Literal["auto", "IOB1", "IOB2", "IOBES", "plain"] = Field(
        "auto", description="how tags mark entities; auto looks at the training rows"
    )
    strict: bool = Field(False, description="metrics: entities that break the rules of their scheme are none")
    label_names: LabelNames = Field(None, description=LABEL_NAMES_HELP)
    sub_words: Literal["first", "all"] = Field("first", description="tokens of a word that learn its tag")
    aggregation: Aggregation = Field(
        "first",
        description="predictions and metrics: a word's tag is that of its first token, of the average of its tokens' "
        "scores or of the token with the largest score (max); predictions alone: entities of neighbouring tokens "
        "(simple), or single tokens (none)",
    )
    span_words: Literal["words", "signs"] = Field(
        "words", description="rows with spans: tag words, or every sign, so that spans may end inside words"
    )
    label_smoothing: LabelSmoothing = 0.0
    max_length: PositiveInt | None = Field(None, description="tokens of a window; by default what the model can take")
    stride: NonNegativeInt | None = Field(None, description="tokens that windows share; by default a quarter")
    dropout: HeadDropout = 0.1
    tokenizer: TokenizerOptions = Field(
        default_factory=lambda: TokenizerOptions(), description="to learn one, when the base is a config"
    )
