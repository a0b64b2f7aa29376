"""Formats of exported programs: how each is written, and how it runs again.

`FORMATS` names them; `Runner` is what a loaded program is to the model that runs it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork import CheckpointError, Json, Refused, UsageError

if TYPE_CHECKING:
    import torch

    from topwork_workbench.export.parts import Part

Format = Literal["onnx", "torch_export"]


class OnnxRunner:
    """A program run by onnxruntime.

    Args:
        file: of the program.
        part: what the manifest says of it.
    """

    def __init__(self, file: Path, part: Mapping[str, Json]) -> None:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.names = list(part["inputs"])
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes have no common base but Exception
            raise CheckpointError(
                f"onnxruntime cannot open the program: {_first_line(error)}", place=str(file)
            ) from error
        #: inputs that the program does not use are dropped when it is written
        self.used = {entry.name for entry in self.session.get_inputs()}
        self.outputs = [entry.name for entry in self.session.get_outputs()]

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run the program.

        Raises:
            CheckpointError: it fails.
        """
        import torch

        feed = {
            name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items() if name in self.used
        }
        try:
            results = self.session.run(self.outputs, feed)
        except Exception as error:
            raise CheckpointError(f"onnxruntime failed: {_first_line(error)}") from error
        return [torch.from_numpy(result) for result in results]


class TorchRunner:
    """A program run by torch.export.

    Args:
        file: of the program.
        part: what the manifest says of it.
    """

    def __init__(self, file: Path, part: Mapping[str, Json]) -> None:
        import torch

        self.names = list(part["inputs"])
        try:
            self.module: Any = torch.export.load(file).module()
        except Exception as error:
            raise CheckpointError(
                f"torch.export cannot open the program: {_first_line(error)}", place=str(file)
            ) from error

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run the program.

        Raises:
            CheckpointError: it fails.
        """
        import torch

        try:
            with torch.no_grad():
                return list(self.module(*(tensors[name] for name in self.names)))
        except Exception as error:
            raise CheckpointError(f"the program failed: {_first_line(error)}") from error


@dataclass(frozen=True)
class Writer:
    """Writer of programs of one format.

    Args:
        suffix: of the files.
        packages: that are needed to write, beside torch.
        write: writes one part; takes the part, the file and the version of the operators or None.
        runner: runs a written part.
        code: opening such a file may run code in it.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Part, Path, int | None], None]
    runner: type[OnnxRunner] | type[TorchRunner]
    code: bool

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


def write_onnx(part: Part, file: Path, opset: int | None) -> None:
    """Write a part as ONNX; weights of more than 2 GB go into a file beside it."""
    import logging
    import warnings

    import torch

    from topwork_workbench.export.parts import not_exported

    narrow = [name for name, entry in part.inputs.items() if entry["dtype"] == "bfloat16"]
    if narrow or any(parameter.dtype == torch.bfloat16 for parameter in part.recorded.module.parameters()):
        raise Refused(
            f"{type(part.recorded.module).__name__} is in bfloat16, which onnxruntime does not run",
            reason="dtype",
            hint="dtype: float32 under `base`, or the format torch_export",
        )
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                part.program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=list(part.inputs),
                output_names=part.outputs,
            )
    except Exception as error:
        raise not_exported(part.recorded, error) from error
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
    program.save(file)


def write_torch(part: Part, file: Path, opset: int | None) -> None:
    """Write a part as a program of torch.export."""
    import torch

    torch.export.save(part.program, file)


FORMATS: dict[str, Writer] = {
    "onnx": Writer(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, OnnxRunner, code=False),
    "torch_export": Writer(".pt2", (), write_torch, TorchRunner, code=True),
}


def check_packages(name: str) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        UsageError: names them.
    """
    if missing := FORMATS[name].missing():
        raise UsageError(
            f"the format `{name}` needs {', '.join(missing)}", place="export", hint="pip install 'topwork[export]'"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
