"""Engines of several processes: which one a launcher asks for, and whether it is the one that runs.

Entry points: `requested_sharding` for FSDP2, which topwork drives itself, and `check_engine` for all others. accelerate
runs DDP where FSDP is asked for on CPUs, without a message, and leaves a model divided after a training, though the
next stage needs it whole. So its variable is taken out of the environment, and `topwork.training.sharding` divides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass

from topwork.errors import UsageError

FSDP = "ACCELERATE_USE_FSDP"
#: variable by which a launcher asks for an engine -> its name
ENGINES = {FSDP: "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
#: accelerate's names of engines that divide neither model nor optimizer
_WITHOUT = {"NO": "one process", "MULTI_CPU": "DDP on CPUs"}
#: accelerate's names of what FSDP2 can run on
_DIVISIBLE = ("MULTI_CPU", "MULTI_GPU")
_YES = ("1", "true", "yes")
#: the variable that stands for `FSDP` once that was taken out; processes that are started inherit it
_TAKEN = "TOPWORK_FSDP"
#: variable of accelerate -> (values that change nothing, what to do instead)
_REFUSED = {
    "FSDP_VERSION": (("2",), "say `--fsdp_version 2`, or `fsdp_version: 2` in the config"),
    "FSDP_OFFLOAD_PARAMS": (("", "false"), "leave it out: parameters stay on the device that computes"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        ("", "false"),
        "leave it out, and say `gradient_checkpointing: true` in the stage",
    ),
    "FSDP_IGNORED_MODULES": (("", "none"), "leave it out: every parameter is divided"),
}


@dataclass(frozen=True)
class ShardingOptions:
    """How FSDP2 divides a model.

    Attributes:
        reshard_after_forward: whether the parameters of a block are given up between its forward and backward pass.
        blocks: names of the classes whose modules are gathered one by one; none for the layers of transformers' models.
    """

    reshard_after_forward: bool = True
    blocks: tuple[str, ...] = ()


def requested_sharding(environment: MutableMapping[str, str], running: str) -> ShardingOptions | None:
    """Return how FSDP2 was asked for, None if it was not; accelerate does not see the request any more.

    Args:
        environment: of the process; accelerate's variable is replaced.
        running: the value of accelerate's `DistributedType` that this process has.

    Raises:
        UsageError: only one process runs, or a setting is asked for that would be ignored.
    """
    if _TAKEN in environment and running in _DIVISIBLE:
        known = json.loads(environment[_TAKEN])
        return ShardingOptions(bool(known["reshard_after_forward"]), tuple(known["blocks"]))
    if not _wants(environment, FSDP) or running not in _DIVISIBLE:
        return None
    for variable, (harmless, hint) in _REFUSED.items():
        value = environment.get(variable, "")
        if value.lower() not in harmless and (value or variable == "FSDP_VERSION"):
            raise UsageError(f"FSDP was asked for with `{value}`, which would not be done", place=variable, hint=hint)
    blocks = tuple(name.strip() for name in environment.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",") if name)
    keeps = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in ("false", "no_reshard", "shard_grad_op")
    options = ShardingOptions(not keeps, blocks)
    environment[_TAKEN] = json.dumps(asdict(options))
    del environment[FSDP]
    return options


def check_engine(environment: Mapping[str, str], running: str) -> None:
    """Refuse an engine that was asked for, where accelerate would run another one without a word.

    Args:
        environment: of the process, in which a launcher says what it wants.
        running: the value of accelerate's `DistributedType` that this process has.

    Raises:
        UsageError: names both engines.
    """
    for variable, name in ENGINES.items():
        if not _wants(environment, variable):
            continue
        instead = _WITHOUT.get(running)
        if name == "DeepSpeed" and instead is None and running != "DEEPSPEED":
            instead = running
        if instead is not None:
            needs = "several processes" if name == "FSDP" else "several processes on GPUs"
            raise UsageError(
                f"{name} was asked for, but {instead} would run",
                place=variable,
                hint=f"{name} needs {needs}; for DDP leave it out of the flags and of the config",
            )


def _wants(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").lower() in _YES
