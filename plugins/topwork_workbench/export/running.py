"""A model that runs exported programs in the place of its weights. Entry point: `open_program`.

It is the model as its configs build it, for its config and its methods (`generate`, lengths of frames), with empty
parameters and another `forward`. It predicts, and does nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import CheckpointError, Json, Refused, UsageError, unknown
from topwork_workbench.export.calls import tensors_of
from topwork_workbench.export.formats import FORMATS, OnnxRunner, TorchRunner, check_packages
from topwork_workbench.export.parts import completed

if TYPE_CHECKING:
    import torch
    from torch import nn

_NOT_TRAINED = "load the model folder that it was exported from"


class Output(dict[str, Any]):
    """Tensors that came out of a program, by name and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"the exported program has no output `{name}`, only {', '.join(self)}") from error

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Program:
    """One part of an exported model.

    Args:
        part: what the manifest says of it.
        runner: what runs it.
    """

    def __init__(self, part: Mapping[str, Json], runner: OnnxRunner | TorchRunner) -> None:
        self.inputs, self.outputs, self.runner = part["inputs"], part["outputs"], runner

    def run(self, tensors: Mapping[str, torch.Tensor], owner: str) -> Output:
        """Return what the program makes of these tensors.

        Args:
            tensors: by the names of its inputs.
            owner: class of the model, for messages.

        Raises:
            UsageError: an input that the program does not have, or a size that it does not take.
        """
        if extra := [name for name in tensors if name not in self.inputs]:
            raise UsageError(
                f"the exported {owner} has no input `{extra[0]}`",
                place="exported program",
                hint=f"it has {', '.join(self.inputs)}; for anything else {_NOT_TRAINED}",
            )
        whole = completed(tensors, list(self.inputs), owner)
        feed = {name: self._fitting(name, tensor) for name, tensor in whole.items()}
        return Output(zip(self.outputs, self.runner(feed)))

    def _fitting(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        import torch

        described = self.inputs[name]
        wanted = described["shape"]
        fits = len(wanted) == tensor.ndim and all(
            isinstance(axis, str) or axis == size for axis, size in zip(wanted, tensor.shape)
        )
        if not fits:
            raise UsageError(
                f"the exported program takes `{name}` of [{', '.join(map(str, wanted))}], not {list(tensor.shape)}",
                place="exported program",
                hint="export the model again with rows of such sizes",
            )
        return tensor.to(getattr(torch, described["dtype"]))


def open_program(folder: Path, program: Mapping[str, Json], model: Any, *, trusted: bool) -> nn.Module:
    """Return a model that runs the programs of a folder.

    Args:
        folder: of the exported model.
        program: the section of its manifest.
        model: as its configs build it.
        trusted: whoever loads the folder lets its code run.

    Raises:
        CheckpointError: the section is damaged, or the format is code that is not trusted.
        UsageError: what runs the format is not installed.
    """
    name = program["format"]
    if FORMATS[name].code and not trusted:
        raise CheckpointError(
            f"a program of the format `{name}` is code, which runs when it is opened",
            place=str(folder),
            hint="if you trust it: `--trust-remote-code`, or topwork.load(folder, trust_remote_code=True)",
        )
    check_packages(name)
    parts = _parts(program, folder)
    modules = {path: _module(model, path, folder) for path in parts}
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
    for path, part in parts.items():
        file = folder / part["file"]
        _run_by_program(modules[path], Program(part, FORMATS[name].runner(file, part)))
    if (settings := getattr(model, "generation_config", None)) is not None:
        settings.use_cache = False  # a program takes the whole sequence
    return model.eval()


def _parts(program: Mapping[str, Json], folder: Path) -> dict[str, Mapping[str, Json]]:
    """Return the parts of a program by the path of their module; the section may come from anybody.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        parts = {str(part["module"]): part for part in program["parts"]}
        for part in parts.values():
            file, inputs = part["file"], part["inputs"]
            is_valid = Path(file).name == file and (folder / file).is_file()
            is_valid = is_valid and all(entry["dtype"] in _DTYPES for entry in inputs.values())
            is_valid = is_valid and all(
                isinstance(axis, str | int) for entry in inputs.values() for axis in entry["shape"]
            )
            if not is_valid or not all(isinstance(output, str) for output in part["outputs"]):
                raise ValueError("it describes no programs of this folder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the section `program` is damaged ({error})", place=str(folder), hint="export the model again"
        ) from error
    return parts


_DTYPES = frozenset(("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"))


def _module(model: nn.Module, path: str, folder: Path) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise CheckpointError(
            f"the model has no module `{path}`, which the section `program` names", place=str(folder)
        ) from error


class RunByProgram:
    """Methods of a module whose forward is an exported program: it predicts, and refuses all else."""

    program: Program
    #: class of the module whose program it is
    owner: type[Any]

    def forward(self, *arguments: Any, **named: Any) -> Output:
        """Run the program."""
        try:
            tensors, _ = tensors_of(self, arguments, named)
        except Refused as error:
            raise UsageError(error.cause, place="exported program", hint=error.hint) from error
        return self.program.run(tensors, self.owner.__name__)

    def train(self, mode: bool = True) -> Any:
        """Refuse to train."""
        if mode:
            raise UsageError(f"the exported {self.owner.__name__} cannot be trained", hint=_NOT_TRAINED)
        return self.owner.train(self, mode)

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        """Refuse to give weights, which lie in the program."""
        raise UsageError(
            f"the exported {self.owner.__name__} has no weights to save", hint=f"copy its folder, or {_NOT_TRAINED}"
        )


def _run_by_program(module: nn.Module, program: Program) -> None:
    """Give a module a class of its own whose forward runs a program."""
    kind: Any = type(module)
    # `generate` of transformers reads the names of the arguments of forward
    forward = functools.wraps(kind.forward)(RunByProgram.forward)
    attributes = {"forward": forward, "program": program, "owner": kind, "__module__": kind.__module__}
    module.__class__ = type(f"Exported{kind.__name__}", (RunByProgram, kind), attributes)


def opens(program: Mapping[str, Json]) -> bool:
    """Return whether a program is of a format that this package writes."""
    return program.get("format") in FORMATS


def format_named(name: str) -> str:
    """Return the name of a format, where `-` may stand for `_`.

    Raises:
        UsageError: there is no such format.
    """
    plain = name.replace("-", "_")
    if plain not in FORMATS:
        raise unknown("format", name, FORMATS)
    return plain
