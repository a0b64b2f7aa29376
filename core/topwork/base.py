"""The contract of a base: `Base`, its options `BaseOptions`, and `Features`, the output of a backbone.

A base is made lazily: it knows its config, and makes its network (with or without a task head) and its processors when
they are asked for. Where bases come from is decided by plugins (hook `load_base`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from topwork.items import Json

if TYPE_CHECKING:
    import torch
    from torch import nn


class QuantizeOptions(BaseModel):
    """Options of a base with quantised weights, which is trained by LoRA alone and is a plain base afterwards."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["torchao", "bitsandbytes", "quanto"] = Field(
        "torchao", description="the package: torchao on any device, bitsandbytes on a GPU"
    )
    bits: Literal[4, 8] = Field(
        8, description="of a weight: 8, each output with a scale; 4 (bitsandbytes alone), in blocks with a scale each"
    )


class BaseOptions(BaseModel):
    """Options of a base in a recipe."""

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
    quantize: QuantizeOptions | None = Field(
        None, description="load the weights quantised, `{method: torchao, bits: 8}`; for training by `lora`"
    )
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

    @property
    def name(self) -> str:
        """Name by which hooks know the base: its id or folder, or `config:<model_type>`."""
        return self.model if self.model is not None else f"config:{(self.config or {})['model_type']}"


@dataclass
class Features:
    """Output of a backbone.

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
        """Return the architecture's own class with a task head, or None when it has no such class.

        Args:
            auto: names of transformers' auto classes (`AutoModelFor...`), tried in order.
            weights: False makes the module with random weights (they are loaded afterwards).
            subclass: a subclass of that class to make in its place; what it shares stands in the checkpoint once.
            changes: config entries to set, such as `id2label`.

        Raises:
            CheckpointError: the checkpoint's own task head does not fit and the recipe does not say `head: new`.
        """
        ...

    def backbone(self, *, weights: bool = True, maps: Sequence[int] = (), **changes: Any) -> nn.Module:
        """Return the network without a task head; its forward takes the usual inputs and returns `Features`.

        The module has `width` (of tokens and pooled), `main_input` (the name of its first input), and with `maps` also
        `map_widths` and `map_strides`, one for each map.

        Args:
            weights: False makes the module with random weights.
            maps: stages of a feature pyramid: (0, 1, 2, 3) for all four, (-1,) for the coarsest.
            changes: config entries to set.
        """
        ...

    def trained_labels(self, *auto: str) -> list[str] | None:
        """Return the label names of the checkpoint's own task head, in the order of its outputs.

        Args:
            auto: names of transformers' auto classes.

        Returns:
            None when the checkpoint was trained for none of these classes, or the recipe replaces its task head.
        """
        ...

    def processor(self, kind: str, **changes: Any) -> Any | None:
        """Return the saved processor of a kind, or None when the base has none.

        The task then makes one from the rows.

        Args:
            kind: "tokenizer", "image_processor", "feature_extractor", "video_processor" or "processor".
            changes: settings that replace the saved ones.
        """
        ...
