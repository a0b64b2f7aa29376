"""Training with a teacher: its term on every task, by its formulas, and which model the teacher is."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_recipes import recipe
from tiny_bases import BASES
from tolerance import close

import topwork
from topwork import Batch, CheckpointError, Item, UsageError, load_plugins
from topwork.data.loop import Settings, loss_batches
from topwork.process import Process
from topwork.training.distillation import Distillation
from topwork.training.model_outputs import compare
from topwork.training.options import TrainOptions

PLUGINS = load_plugins()


class Learning:
    """What `Distillation` uses of a run: a task with its model, and a folder."""

    def __init__(self, work: topwork.TaskModel, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.work, self.task, self.model, self.plugins = work, work.task, work.model, PLUGINS
        self.folder, self.process, self.device, self.earlier_model = folder, Process(), torch.device("cpu"), None


def teaching(task: str, folder: Path, **options: Any) -> tuple[topwork.TaskModel, Distillation, list[Batch]]:
    """Return a model whose teacher has the very same weights, and batches of its example rows."""
    rows = PLUGINS.task(task).example_rows()
    work = topwork.build(task, copy.deepcopy(BASES[task]), rows=rows, plugins=PLUGINS, seed=3)
    work.save(folder / "teacher")
    work.model.eval()
    stage = TrainOptions(teacher=str(folder / "teacher"), **options)
    distillation = Distillation(stage, Learning(work, folder / "stage"))  # type: ignore[arg-type]
    return work, distillation, list(loss_batches(work.task, work.model, rows[:4], Settings(items=4), Process()))


@pytest.mark.parametrize("task", list(BASES))
def test_a_students_distance_to_itself_is_zero_and_falls_when_it_learns(task: str, tmp_path: Path) -> None:
    work, distillation, batches = teaching(task, tmp_path)
    with torch.no_grad():
        assert float(distillation.distance(batches[0])) == pytest.approx(0, abs=1e-9)
        torch.manual_seed(1)
        for parameter in work.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        before = float(distillation.distance(batches[0]))
    assert before > 1e-5
    parameters = [parameter for parameter in work.model.parameters() if parameter.requires_grad]
    for _ in range(6):
        distance = distillation.distance(batches[0])
        gradients = torch.autograd.grad(distance, parameters, allow_unused=True)
        pairs = [(each, slope) for each, slope in zip(parameters, gradients) if slope is not None]
        length = float(distance) / sum(float(slope.square().sum()) for _, slope in pairs)
        with torch.no_grad():  # the steps of Polyak (1987): half of the way to 0, were the distance linear
            for parameter, slope in pairs:
                parameter.sub_(0.5 * length * slope)
    assert all(parameter.grad is None for parameter in distillation.teacher.parameters())
    with torch.no_grad():
        assert float(distillation.distance(batches[0])) < 0.8 * before


def by_hand(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """T^2 KL(teacher || student) of two lists of logits, by plain sums."""
    p = [math.exp(value / temperature) for value in teacher.tolist()]
    q = [math.exp(value / temperature) for value in student.tolist()]
    p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_formulas_are_those_of_the_books() -> None:
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randn(2, 3, 5, generator=generator) for _ in range(2))
    batch = Batch({"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}, [Item(0, {}), Item(1, {})])
    nothing = Batch({}, batch.items)
    wanted = [
        sum(by_hand(mine[item, position], theirs[item, position], 2.0) for position in range(count)) / count
        for item, count in ((0, 2), (1, 3))
    ]
    close(compare(mine, theirs, {"logits": "classes"}, batch, 2.0), torch.tensor(wanted))
    maps = compare({"logits": mine.movedim(-1, 1)}, {"logits": theirs.movedim(-1, 1)}, {"logits": "maps"}, nothing, 2.0)
    classes = compare(mine, theirs, {"logits": "classes"}, nothing, 2.0)
    close(maps, classes)
    close(compare(mine, theirs, {"x": "values"}, nothing), (mine - theirs).square().mean((1, 2)))
    pairs = [by_hand(torch.stack([a, 0 * a]), torch.stack([b, 0 * b]), 1.0) for a, b in zip(mine[0, 0], theirs[0, 0])]
    one = compare(mine[:1, 0], theirs[:1, 0], {"x": "labels"}, nothing)
    close(one, torch.tensor([sum(pairs) / len(pairs)]))
    # what the teacher rules out, and what is padding, counts nothing
    out = theirs.clone()
    out[..., 4] = -torch.inf
    close(
        compare(mine, out, {"x": "classes"}, nothing)[1],
        compare(_without(mine, 4), out[..., :4], {"x": "classes"}, nothing)[1] + _lost(mine),
    )
    places = compare(mine[:, :, 0], theirs[:, :, 0], {"x": "positions"}, batch)
    close(places[0], compare(mine[:, :2, 0], theirs[:, :2, 0], {"x": "classes"}, nothing)[0])
    with pytest.raises(UsageError, match="of the teacher"):
        compare(mine, theirs[..., :4], {"x": "classes"}, nothing)
    with pytest.raises(UsageError, match="has none of"):
        compare({"a": mine}, {"a": theirs}, {"x": "classes"}, nothing)


def _without(logits: torch.Tensor, index: int) -> torch.Tensor:
    return logits[..., [position for position in range(logits.shape[-1]) if position != index]]


def _lost(mine: torch.Tensor) -> torch.Tensor:
    """The part of a distribution that lies where its teacher has none costs its logarithm."""
    return -(1 - mine[1].softmax(-1)[:, 4]).log().mean()


def test_hidden_states_are_those_of_the_layers_that_both_have(tmp_path: Path) -> None:
    work, distillation, batches = teaching("text-classification", tmp_path, teacher_hidden=1.0)
    outputs = Distillation(TrainOptions(teacher=str(tmp_path / "teacher")), Learning(work, tmp_path / "other"))  # type: ignore[arg-type]
    left_out = topwork.prune(work.model, layers=[0], check=lambda: work.task.row_losses(work.model, batches[0]))
    assert len(left_out.left_out) == 1
    with torch.no_grad():
        more = float(distillation.distance(batches[0])) - float(outputs.distance(batches[0]))
        inputs = {name: value for name, value in batches[0].inputs.items() if name != "labels"}
        mine = work.model(**inputs, output_hidden_states=True).hidden_states[-1]
        theirs = distillation.teacher(**inputs, output_hidden_states=True).hidden_states[-1]
    mask = inputs["attention_mask"].unsqueeze(-1)
    error = ((mine - theirs).square() * mask).mean(2).sum(1) / mask.sum((1, 2))
    size = (theirs.square() * mask).mean(2).sum(1) / mask.sum((1, 2))
    assert more == pytest.approx(float(error.mean() / size.mean()), rel=1e-4)


# ---------------------------------------------------------------- in a run

TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}
STAGES: list[Any] = [
    {"train": TRAIN},
    {"compress": {"macs": 0.7, "compare_random": 0, "time": False}},
    {"train": {**TRAIN, "epochs": 2, "teacher": "before", "teacher_hidden": 0.5, "checkpoint_every": 1}},
    "evaluate",
]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("taught")
    return topwork.run(recipe(folder, STAGES), folder=folder / "run", quiet=True)


def test_the_teacher_is_the_model_before_anything_was_taken_away(taught: Any) -> None:
    kept = taught.root / "stages" / "02-compress" / "before"
    teacher = topwork.load(kept)
    heads = [layer.kept for layer in topwork.look(teacher.model).layers]
    assert sum(map(len, heads)) == taught.results[1]["result"]["heads_before"]
    result = taught.results[2]["result"]
    files = json.loads((kept / "topwork.json").read_text())["files"]
    assert result["teacher"]["sha256"] == {name: known["sha256"] for name, known in files.items()}
    assert result["teacher"]["model"] == "before"
    assert all(entry["teacher_loss"] >= 0 for entry in result["history"] if "loss" in entry)


def test_p7_an_interrupted_training_goes_on_to_the_same_weights(taught: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """With the teacher that was kept, from a checkpoint in the middle of the training."""
    own, calls = Distillation.loss, []

    def interrupted(self: Distillation, *args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise UsageError("the power went off")
        return own(self, *args)

    (tmp_path / "rows").mkdir()
    chosen = recipe(tmp_path / "rows", STAGES)
    monkeypatch.setattr(Distillation, "loss", interrupted)
    with pytest.raises(UsageError, match="power"):
        topwork.run(chosen, folder=tmp_path / "run", quiet=True)
    assert (tmp_path / "run/stages/03-train/checkpoints").is_dir()
    monkeypatch.setattr(Distillation, "loss", own)
    again = topwork.resume(tmp_path / "run", quiet=True)
    states = [run.model.state_dict() for run in (taught, again)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert again.results[2]["result"]["teacher"] == taught.results[2]["result"]["teacher"]


def test_a_teacher_that_was_exchanged_is_an_error(tmp_path: Path) -> None:
    _, distillation, _ = teaching("text-classification", tmp_path)
    work, _, _ = teaching("text-classification", tmp_path)  # the same weights once more
    with torch.no_grad():
        next(work.model.parameters()).add_(1)
    work.save(tmp_path / "teacher")
    with pytest.raises(CheckpointError, match="began with another teacher"):
        Distillation(distillation.stage, Learning(work, tmp_path / "stage"))  # type: ignore[arg-type]


def test_wrong_teachers_are_refused(tmp_path: Path) -> None:
    work, _, _ = teaching("text-classification", tmp_path)
    rows = PLUGINS.task("text-classification").example_rows()
    others = [{**row, "label": f"other {row['label']}"} for row in rows]
    other = topwork.build("text-classification", copy.deepcopy(BASES["text-classification"]), rows=others)
    with pytest.raises(UsageError, match="are others"):
        other.train(others, teacher=str(tmp_path / "teacher"), **TRAIN)
    tags = topwork.build(
        "token-classification",
        copy.deepcopy(BASES["token-classification"]),
        rows=PLUGINS.task("token-classification").example_rows(),
    )
    with pytest.raises(UsageError, match="a model of text-classification"):
        tags.train(PLUGINS.task("token-classification").example_rows(), teacher=str(tmp_path / "teacher"), **TRAIN)
    with pytest.raises(UsageError, match="needs a stage before it"):
        work.train(rows[:4], teacher="before", **TRAIN)
    for stages in (
        [{"train": {"teacher": "before"}}],
        [{"train": {"temperature": 3.0}}],
        ["evaluate", {"train": {"teacher": "before"}}],
    ):
        with pytest.raises(topwork.RecipeError):
            topwork.run(recipe(tmp_path, stages), folder=tmp_path / "refused", quiet=True)
    with pytest.raises(UsageError, match="no model folder"):
        topwork.run(
            recipe(tmp_path, [{"train": {"teacher": str(tmp_path / "none")}}]), folder=tmp_path / "no", quiet=True
        )


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    rows = PLUGINS.task("text-classification").example_rows()[:6]
    states = []
    for options in ({"batch_size": 6}, {"batch_size": 4, "accumulate": 2}):
        work, _, _ = teaching("text-classification", tmp_path)
        with torch.no_grad():
            for parameter in work.model.parameters():
                parameter.mul_(1.01)
        for module in work.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        chosen: dict[str, Any] = {
            "steps": 1,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "clip": 0.0,
            "group": False,
            **options,
        }
        work.train(rows, teacher=str(tmp_path / "teacher"), teacher_weight=0.9, **chosen)
        states.append(torch.cat([parameter.detach().flatten() for parameter in work.model.parameters()]))
    close(states[0], states[1])
