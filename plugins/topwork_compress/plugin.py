"""Hooks of compression. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from topwork import Declaration, hookimpl

if TYPE_CHECKING:
    from torch import nn


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare the stage `compress`."""
    return [
        Declaration(
            "compress",
            "topwork_compress.stages.compress:Compress",
            "Remove attention heads and neurons below a budget, and fit what reads them; nothing is trained.",
        )
    ]


@hookimpl
def register_commands() -> list[Declaration]:
    """Declare the command `compress`."""
    return [Declaration("compress", "topwork_compress.command:compress_command")]


@hookimpl(trylast=True)
def model_rebuilt(model: nn.Module, alterations: Mapping[str, Any], plugins: Any) -> None:
    """Give a freshly built model its layers of 8 bits, when the lens has given it its widths."""
    if "int8" in alterations:
        from topwork_compress.eight_bits import rebuild

        rebuild(model, alterations["int8"])


@hookimpl
def compress(model: nn.Module, batches: Iterable[Any], options: Mapping[str, Any], plugins: Any) -> Any:
    """Return the result behind `topwork.compress`."""
    from topwork_compress.procedure import compress_model

    return compress_model(model, batches, plugins=plugins, **options)
