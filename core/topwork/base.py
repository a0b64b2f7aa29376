"""The contract of a base: what a recipe names, lazily: its config, its network with or without a task head, and its
processors. Where bases come from is the business of plugins (`load_base`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from topwork.items import Json

if TYPE_CHECKING:
    import torch
    from torch import nn


class BaseOptions(BaseModel):
    """What a recipe says about a base."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="a Hub id, a local folder, or `timm/<name>`")
    config: dict[str, Any] | None = Field(
        None, description="a model config with `model_type`: the model starts from random weights"
    )
    weights: bool = Field(True, description="false: take the architecture of `model`, but random weights")
    head: Literal["keep", "new"] = Field(
        "keep", description="new: replace the task head that the checkpoint was trained with"
    )
    changes: dict[str, Any] = Field(default_factory=dict, description="entries of the model's config to change")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    attention: str | None = Field(None, description="attention implementation: sdpa, eager, flash_attention_2 ...")
    processor: str | None = Field(None, description="take tokenizer and processors from this id or folder instead")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> BaseOptions:
        if (self.model is None) == (self.config is None):
            raise ValueError("give either `model` (an id or a folder) or `config` (from scratch)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs `model_type`, such as bert or vit")
        return self


@dataclass
class Features:
    """What a backbone answers.

    Args:
        tokens: [items, positions, width], the last hidden states; None for a backbone that has maps only.
        mask: [items, positions], 1 where a position is real; None when all are.
        pooled: [items, width], the architecture's own pooled vector, if it has one.
        maps: feature maps [items, channels, height, width], finest first, as asked for in `Base.backbone(maps=...)`.
    """

    tokens: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    maps: Sequence[torch.Tensor] = ()


@runtime_checkable
class Base(Protocol):
    """A base knows its config from the start and makes modules only when asked.

    Attributes:
        options: what the recipe said.
        config: the architecture's config object (a transformers `PreTrainedConfig` for the built-in bases). Its
            `save_pretrained(folder)` is written into model folders; to load one, the base is asked for by that folder's
            path (hook `load_base`) and must know its own config there.
        origin: where the base came from (JSON), for the model card and for people.
        scratch: True when there are no pretrained weights: the task then learns its tokenizer or statistics from rows.

    A base may have one attribute more, `unfinished`: a list while a task builds, else None; see `DeferredModule`.
    """

    options: BaseOptions
    config: Any
    origin: dict[str, Json]
    scratch: bool

    def native(
        self, *auto: str, weights: bool = True, subclass: type[nn.Module] | None = None, **changes: Any
    ) -> nn.Module | None:
        """The architecture's own class with a task head, by the first of the `AutoModelFor...` names that has it.

        Args:
            auto: names of transformers' auto classes, tried in order.
            weights: False makes the module with random weights (they are loaded afterwards).
            subclass: a subclass of that class to make in its place; what it shares stands in the checkpoint once.
            changes: config entries to set, such as `id2label`.

        Returns:
            the module, or None when the architecture has no such class.

        Raises:
            CheckpointError: the checkpoint's own task head does not fit and the recipe does not say `head: new`.
        """
        ...

    def backbone(self, *, weights: bool = True, maps: Sequence[int] = (), **changes: Any) -> nn.Module:
        """The network without a task head. Its forward takes the architecture's usual inputs and answers `Features`.

        The module has `width` (of tokens and pooled), `main_input` (the name of its first input), and with `maps`
        also `map_widths` and `map_strides`. `maps` chooses stages of a feature pyramid: (0, 1, 2, 3) all four,
        (-1,) the coarsest.
        """
        ...

    def trained_labels(self, *auto: str) -> list[str] | None:
        """Label names of the checkpoint's own task head, in the order of its outputs, when it was trained for one of
        these auto classes and the recipe keeps it; else None."""
        ...

    def processor(self, kind: str, **changes: Any) -> Any | None:
        """The saved tokenizer, image processor, feature extractor or processor of the base, or None when it has none
        (the task then makes one from the rows). `kind` is "tokenizer", "image_processor", "feature_extractor",
        "video_processor" or "processor"."""
        ...
