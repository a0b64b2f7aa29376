"""The lens as a plugin: its hooks and nothing else. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from topwork import AttentionLayer, Json, Stage


@hookimpl
def register_stages() -> list[type[Stage]]:
    """attention, head_importance, head_ablation, prune_heads, prune_schedule and mask_heads."""
    from topwork_lens.stages.attention import Attention
    from topwork_lens.stages.heads import HeadAblation, HeadImportance, MaskHeads, PruneHeads
    from topwork_lens.stages.prune_schedule import PruneSchedule

    return [Attention, HeadImportance, HeadAblation, PruneHeads, PruneSchedule, MaskHeads]


@hookimpl
def register_commands() -> list[Any]:
    """architectures."""
    from topwork_lens.coverage import architectures

    return [architectures]


@hookimpl(trylast=True)
def attention_layer(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    """The rows of `architectures.py`, asked after every other plugin."""
    from topwork_lens.layers.description import describe

    return describe(path, module, model)


@hookimpl(trylast=True)
def look(model: nn.Module, plugins: Any) -> Any:
    """The `Look` that stands behind `topwork.look`."""
    from topwork_lens.look import Look

    return Look(model, plugins)


@hookimpl
def model_saving(model: nn.Module) -> None:
    """Attention heads may have been pruned or gated through a part of the model: their notes become its alterations."""
    from topwork_lens.layers.state import gather

    gather(model)


@hookimpl
def model_rebuilt(model: nn.Module, alterations: Mapping[str, Json], plugins: Any) -> None:
    """Give a freshly built model the shape and the gates that its manifest describes; or the shape that the config of
    a checkpoint of transformers 4 describes."""
    if "lens" in alterations:
        from topwork_lens.pruning.rebuild import rebuild

        rebuild(model, alterations["lens"], plugins)
    if "pruned_heads" in alterations:
        from topwork_lens.pruning.transformers4 import shape

        for path, heads in alterations["pruned_heads"].items():
            shape(model, heads, plugins, under=path)
