"""Base classes of tasks that read texts: what follows from their tokens alone.

Entry points: `TextTask`, and `TokenTargetTask` where every token has a target of its own. A subclass makes
`self.text`, a `TextInputs`, and writes the rest of the contract of `topwork.Task`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from topwork import Batch, Item, Mode, Task, Units
from topwork_tasks._text.inputs import TextInputs, mean_over_targets, row_means_over_targets

if TYPE_CHECKING:
    import torch
    from torch import nn


class TextTask(Task):
    """Task whose items are tokens of texts, made and padded by `text`.

    Attributes:
        text: tokenizer, lengths and padding.
    """

    cost_unit = "tokens"
    text: TextInputs

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        return self.text.tokenizer

    @override
    def cost_budget(self, device: str) -> int | None:
        return self.text.cost_budget(device)

    @override
    def units(self, item: Item) -> Units:
        return self.text.units(item)


class TokenTargetTask(TextTask):
    """Task whose tokens each have a target: `labels`, -100 where there is none.

    Losses are means over targets. Windows of a row count by their number of targets, so a row's loss does not depend
    on where its text was cut.
    """

    def token_losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the cross-entropy over the targets of each item, and their number; both [items]."""
        raise NotImplementedError

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        return self.text.collate_labelled(items, mode)

    @override
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return mean_over_targets(*self.token_losses(model, batch))

    @override
    def target_counts(self, batch: Batch) -> tuple[torch.Tensor]:
        return ((batch.inputs["labels"] != -100).sum(),)

    @override
    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return row_means_over_targets(batch, *self.token_losses(model, batch))
