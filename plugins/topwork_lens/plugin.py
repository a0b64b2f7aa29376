"""Hooks of the lens. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork import Declaration, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from topwork import AttentionLayer, Json


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare attention, head_importance, head_ablation, prune_heads, prune_schedule and mask_heads."""
    return [
        Declaration(
            "attention",
            "topwork_lens.stages.attention:Attention",
            "Entropy (nats), mean distance (positions or patches) and mass on special positions of every attention"
            " head.",
        ),
        Declaration(
            "head_importance",
            "topwork_lens.stages.head_importance:HeadImportance",
            "Score every attention head by how much the task's loss depends on it.",
        ),
        Declaration(
            "head_ablation",
            "topwork_lens.stages.head_ablation:HeadAblation",
            "Measure what happens without each attention head, and with each alone in its layer; the model stays as it"
            " is.",
        ),
        Declaration(
            "prune_heads",
            "topwork_lens.stages.prune_heads:PruneHeads",
            "Remove attention heads: the weights become smaller, and the pruned model is proved equal to the masked"
            " one.",
        ),
        Declaration(
            "prune_schedule",
            "topwork_lens.stages.prune_schedule:PruneSchedule",
            "Score, take some attention heads away, measure on calibration rows, and so on until a limit; then cut"
            " once.",
        ),
        Declaration(
            "mask_heads",
            "topwork_lens.stages.mask_heads:MaskHeads",
            "Switch attention heads off without removing them: gates of 0 that stay on the model and are saved with"
            " it.",
        ),
    ]


@hookimpl
def register_commands() -> list[Declaration]:
    """Declare the commands `architectures` and `importance`."""
    return [
        Declaration("architectures", "topwork_lens.coverage:architectures"),
        Declaration("importance", "topwork_lens.command:importance_command"),
    ]


@hookimpl(trylast=True)
def attention_layer(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    """Describe attention layers by the patterns of the lens, after every other plugin."""
    from topwork_lens.layers.description import describe

    return describe(path, module, model)


@hookimpl(trylast=True)
def look(model: nn.Module, plugins: Any) -> Any:
    """Return the `Look` behind `topwork.look`."""
    from topwork_lens.look import Look

    return Look(model, plugins)


@hookimpl
def model_saving(model: nn.Module) -> None:
    """Make the notes of all attention layers the model's alterations.

    Attention heads may have been pruned or gated through a part of the model.
    """
    from topwork_lens.layers.state import gather

    gather(model)


@hookimpl
def model_rebuilt(model: nn.Module, alterations: Mapping[str, Json], plugins: Any) -> None:
    """Give a freshly built model the shape and the gates that its manifest describes.

    For a checkpoint of transformers 4: the shape that its config describes.
    """
    if "lens" in alterations:
        from topwork_lens.blocks.whole.leaving_out import rebuild_whole
        from topwork_lens.pruning.rebuild import rebuild

        rebuild_whole(model, alterations["lens"])
        rebuild(model, alterations["lens"], plugins)
        from topwork_lens.blocks.rebuild import rebuild_blocks

        rebuild_blocks(model, alterations["lens"], plugins)
    if "pruned_heads" in alterations:
        from topwork_lens.pruning.transformers4 import shape

        for path, heads in alterations["pruned_heads"].items():
            shape(model, heads, plugins, under=path)
