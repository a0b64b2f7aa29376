"""Training of small parts beside the weights of a model: `adapted` puts them on, and merges them afterwards.

`Adapter` is what a plugin gives (hook `adapt_model`); `trained_tensors` is what a checkpoint of such a training holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from topwork.errors import PluginError
from topwork.items import Batch, Json
from topwork.training.freezing import head_names

if TYPE_CHECKING:
    from torch import nn

    from topwork.runs.run import Run
    from topwork.training.options import TrainOptions

#: in the stage's folder, with `lora: {save: adapter}`
FOLDER = "adapter"
#: rows of the batch on which the plugin may run the model
_ROWS = 2


class Adapter(Protocol):
    """Trainable parts on a model. While they are on it, the parameters that are trained are those with a gradient."""

    def describe(self) -> dict[str, Json]:
        """Return what was put where, for the stage's result."""
        ...

    def save(self, folder: Path) -> None:
        """Write the parts and the task head into a folder."""
        ...

    def remove(self) -> None:
        """Take the parts off the model, which is as it was before."""
        ...

    def merge(self) -> dict[str, Json]:
        """Add the parts to the weights and take them off; return an `EqualityCheck` of before and after."""
        ...


class Adaptation:
    """Adapter of a training, and what the result says about it.

    Attributes:
        adapter: None for a training of all weights.
        result: entries for the stage's result, complete when the block of `adapted` has ended.
    """

    def __init__(self, adapter: Adapter | None) -> None:
        self.adapter = adapter
        self.result: dict[str, Json] = {}


@contextmanager
def adapted(stage: TrainOptions, run: Run) -> Iterator[Adaptation]:
    """Put the adapter that a stage wants on the model for the block, and merge it when the block ends well.

    Raises:
        PluginError: no plugin makes adapters.
        UsageError: the model has nothing to put them on.
        TopworkError: the merged model computes something else than the model with the adapter.
    """
    if stage.lora is None:
        yield Adaptation(None)
        return
    head = head_names(run.model)
    with torch.random.fork_rng():  # the parts that begin the training do not depend on the search for their places
        batch = _first_batch(run)
    adapter: Adapter | None = run.plugins.hook.adapt_model(run=run, options=stage.lora, head=head, batch=batch)
    if adapter is None:
        raise PluginError("no loaded plugin makes adapters", place="lora", hint="see `topwork plugins`")
    adaptation = Adaptation(adapter)
    try:
        yield adaptation
    except BaseException:
        adapter.remove()
        raise
    adaptation.result = {"lora": adapter.describe()}
    if stage.lora.save == "adapter":
        adaptation.result["adapter_folder"] = (run.folder / FOLDER).relative_to(run.root).as_posix()
        if run.process.main:
            adapter.save(run.folder / FOLDER)
    adaptation.result["check"] = adapter.merge()


def _first_batch(run: Run) -> Batch | None:
    """Return a batch of a few training rows in mode "loss", or None where this process has no rows."""
    return next(iter(run.loss_batches("train", limit=_ROWS * run.process.count)), None)


def trained_tensors(model: nn.Module) -> set[str]:
    """Return names in the state dict of what a training with an adapter changes: trained parameters, and buffers."""
    trained = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return (trained | buffers) & set(model.state_dict())
