"""Options of fill-mask."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from topwork import TaskOptions
from topwork_tasks._text.tokenizers import TokenizerOptions


class FillMaskOptions(TaskOptions):
    """Options of fill-mask."""

    mask: str = Field("[MASK]", description="what stands for a mask in the data, beside the tokenizer's own mask token")
    share: float = Field(0.15, gt=0, le=1, description="of the tokens of a text that are masked")
    kept: float = Field(0.1, ge=0, le=1, description="share of the chosen tokens that stay as they are")
    random: float = Field(0.1, ge=0, le=1, description="share of the chosen tokens that become another token")
    whole_words: bool = Field(False, description="mask all tokens of a word together")
    # a number always, as in the Hub's pipeline: the likeliest of a vocabulary, never "all"
    top_k: PositiveInt = Field(5, description="tokens in a prediction, for each mask")
    targets: list[str] | None = Field(None, description="predict these tokens only")
    max_length: PositiveInt | None = Field(None, description="tokens of a window; by default what the model can take")
    tokenizer: TokenizerOptions = Field(
        default_factory=lambda: TokenizerOptions(), description="to learn one, when the base is a config"
    )

    @model_validator(mode="after")
    def _shares(self) -> FillMaskOptions:
        if self.kept + self.random > 1:
            raise ValueError("`kept` and `random` are shares of the same tokens: together they are 1 at most")
        return self
