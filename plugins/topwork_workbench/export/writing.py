"""Exported models: traced once, written in each format, opened again and compared. Entry point: `Exporter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import CheckpointError, Json, Refused, TopworkError, UsageError, save_program
from topwork_workbench.export.calls import Call, record
from topwork_workbench.export.formats import FORMATS, Writer, check_packages
from topwork_workbench.export.running import RunByProgram

if TYPE_CHECKING:
    import torch

    from topwork import Row, Run
    from topwork_workbench.export.parts import Part

#: largest difference of outputs, relative to the largest output of a call, by dtype
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass
class Exporter:
    """Export of one model.

    Args:
        run: whose task and model.
        rows: a few rows, with whose predictions the programs are compared.
        tolerance: largest relative difference; None: that of the dtype.
        opset: version of the operators of ONNX; None: that of torch's exporter.
        card: facts of the run for the model card, see `Run.card`; or metric -> value.
    """

    run: Run
    rows: Sequence[Row]
    tolerance: float | None = None
    opset: int | None = None
    card: Any = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("no rows to compare an exported model with", place="export", hint="give some rows")
        if isinstance(self.run.model, RunByProgram):
            raise UsageError("the model is exported already", place="export", hint="copy its folder")
        model: Any = self.run.model.eval()
        try:
            first = next(model.parameters())
        except StopIteration as error:
            raise UsageError("the model has no parameters", place="export") from error
        self._device = first.device
        self.run.model.to("cpu")  # a program takes along the device that it was traced on
        from topwork_workbench.export.parts import trace

        try:
            self.parts: list[Part] = [trace(part) for part in record(self.run.task, model, self.rows)]
        except TopworkError as error:
            error.place = error.place or f"task {self.run.task.name}"
            raise
        finally:
            self.run.model.to(self._device)

    def save(self, name: str, folder: Path) -> list[dict[str, Json]]:
        """Write the model in a format, open it, and compare its outputs with those of the model.

        Args:
            name: of the format.
            folder: where to.

        Returns:
            for each part its file, size, inputs, and the largest difference beside the one that is allowed.

        Raises:
            Refused: the format does not have what the model computes.
            CheckpointError: the outputs differ.
        """
        check_packages(name)
        writer = FORMATS[name]
        entries: list[dict[str, Json]] = []

        def write(target: Path) -> dict[str, Json]:
            described = []
            for part in self.parts:
                file = f"{part.recorded.name}{writer.suffix}"
                described.append(self._write(writer, part, target / file).described(file))
            return {"format": name, "parts": described, "versions": _versions(writer.packages)}

        def check(loaded: Any) -> None:
            for part in self.parts:
                module = loaded.model.get_submodule(part.recorded.path)
                difference, allowed = self.compare(part, module)
                entries.append(
                    {
                        "part": part.recorded.name,
                        "file": f"{part.recorded.name}{writer.suffix}",
                        "inputs": ", ".join(f"{key} {_axes(entry)}" for key, entry in part.inputs.items()),
                        "outputs": ", ".join(part.outputs),
                        "calls compared": len(part.recorded.calls),
                        "largest difference": difference,
                        "allowed": allowed,
                    }
                )

        save_program(self.run.work, folder, write, check, self.card)
        for entry in entries:
            sizes = [file.stat().st_size for file in folder.glob(f"{entry['file']}*")]
            entry["megabytes"] = round(sum(sizes) / 1e6, 3)
        return entries

    def _write(self, writer: Writer, part: Part, file: Path) -> Part:
        """Write a part, and return it; where it cannot be converted, with plain attention in the place of fused one.

        Raises:
            Refused: it cannot be converted in either way.
        """
        from topwork_workbench.export.parts import trace

        model: Any = self.run.model
        before = getattr(getattr(model, "config", None), "_attn_implementation", None)
        try:
            writer.write(part, file, self.opset)
        except Refused:
            if before != "sdpa" or not hasattr(model, "set_attn_implementation"):
                raise
        else:
            return part
        try:
            model.set_attn_implementation("eager")
            plain = trace(part.recorded)
        finally:
            model.set_attn_implementation(before)
        writer.write(plain, file, self.opset)
        self.run.say(
            f"the {part.recorded.name} is written with attention: eager, as fused attention cannot be converted"
        )
        return plain

    def compare(self, part: Part, module: RunByProgram) -> tuple[float, float]:
        """Return the largest relative difference over all recorded calls, and the one that is allowed.

        Raises:
            CheckpointError: it is larger, or the shapes differ.
        """
        largest, allowed = 0.0, self.tolerance or 0.0
        for call in part.recorded.calls:
            outputs = module.program.run(call.inputs, type(part.recorded.module).__name__)
            for name in part.outputs:
                expected, actual = call.outputs[name], outputs[name]
                if self.tolerance is None:
                    allowed = max(allowed, TOLERANCES.get(str(expected.dtype).removeprefix("torch."), 1e-4))
                difference = relative_difference(*_without_padding(call, expected, actual))
                largest = max(largest, difference)
                if not difference <= allowed:
                    raise CheckpointError(
                        f"the exported {part.recorded.name} does not compute what the model computes: `{name}` differs "
                        f"by {difference:.2g} of its largest value, {allowed:.2g} is allowed (inputs of "
                        f"{', '.join(str(list(tensor.shape)) for tensor in call.inputs.values())})",
                        place="export",
                        code="differs",
                        hint="try the other format, or `attention: eager` under `base`",
                    )
        return largest, allowed


def relative_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Return the largest difference of two tensors relative to the largest finite value; infinite for other shapes.

    NaN and infinities must stand at the same positions.
    """
    import torch

    if expected.shape != actual.shape:
        return float("inf")
    wanted, got = expected.double().cpu(), actual.double().cpu()
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(got)):
        return float("inf")
    if not torch.equal(wanted[~finite].nan_to_num(0.0), got[~finite].nan_to_num(0.0)):
        return float("inf")
    if not finite.any():
        return 0.0
    return float((wanted[finite] - got[finite]).abs().max() / wanted[finite].abs().max().clamp(min=1e-3))


def _without_padding(call: Call, expected: torch.Tensor, actual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the outputs at positions that are no padding, where outputs have positions.

    A padding position on the left of a causal model attends to nothing, and what comes out there is not defined.
    """
    name = "decoder_attention_mask" if "decoder_input_ids" in call.inputs else "attention_mask"
    mask = call.inputs.get(name)
    if mask is None or mask.ndim != 2 or expected.shape[:2] != mask.shape or actual.shape != expected.shape:
        return expected, actual
    return expected[mask.bool()], actual[mask.bool()]


def _axes(entry: Mapping[str, Json]) -> str:
    return f"[{', '.join(map(str, entry['shape']))}]"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {package: version(package) for package in ("torch", "transformers", *packages)}
