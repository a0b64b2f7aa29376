"""The stage `load_adapter`: an adapter that was kept in a folder is put on the model and merged."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from topwork import CheckpointError, Json, Run, Stage


class LoadAdapter(Stage):
    """Put an adapter that `train: {lora: {save: adapter}}` kept on the model that it was trained on, and merge it."""

    name: ClassVar[str] = "load_adapter"
    changes_model: ClassVar[bool] = True

    folder: str = Field(..., description="the adapter folder")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Check that the model is the one, then merge the products and put the task head's weights in."""
        from topwork_workbench.lora.folder import check_base, read_folder, stored_name
        from topwork_workbench.lora.layers import need_peft, put_on
        from topwork_workbench.lora.quantised import dequantise

        peft = need_peft()
        folder = Path(self.folder).expanduser()
        origin, tensors = read_folder(folder)
        check_base(origin, run.work, folder)
        dequantise(run.model, set(origin["head"]))
        config = peft.LoraConfig.from_pretrained(str(folder))
        config.modules_to_save = None  # the task head is put in as it is, not as a copy beside the model's own
        paths = origin["modules"]
        layers = put_on(run.model, config, paths, trained=set())
        names = {stored_name(name): name for name in [*layers.tensors(), *origin["head"]]}
        if set(names) != set(tensors):
            layers.remove(merge=False)
            name = sorted(set(names) ^ set(tensors))[0]
            raise CheckpointError(f"the tensors do not fit the model, first `{name}`", place=str(folder))
        layers.load({names[name]: tensor for name, tensor in tensors.items()})
        layers.remove(merge=True)
        return {"change": "an adapter", "adapter": str(folder), "modules": len(paths)}
