"""Texts of the files that `topwork plugins new` writes: `FILES` of every package, `PLUGINS` by kind.

Their tests lie in `templates_of_tests`.

`@NAME@` stands for the name of the package, `@MODULE@` for that of its module, `@SHORT@` and `@CLASS@` for the name of
what it brings, in recipes and in Python, `@TASK@` for an installed task on which it is tried, `@CONTRACT@` for the
version of topwork's contract.
"""

from __future__ import annotations

FILES = {
    "pyproject.toml": """[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
description = "@ABOUT@"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["topwork"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points.topwork]
@SHORT@ = "@MODULE@"

[tool.hatch.build.targets.wheel]
packages = ["@MODULE@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
""",
    "README.md": """# @NAME@

@ABOUT@

    pip install -e .[test]
    pytest                       # the conformance tests of topwork
    topwork plugins check @NAME@

`topwork list` shows what the plugin brings as soon as it is installed.
""",
    "@MODULE@/py.typed": "",
}

ABOUTS = {
    "task": "A topwork task: the share of vowels in a text.",
    "stage": "A topwork stage: counts the parameters of the model.",
    "observer": "A topwork observer: writes what a run reports into progress.jsonl.",
    "base": "A topwork base: a small network of its own for texts.",
}

_HEADER = """from __future__ import annotations

"""
_CONTRACT = """
#: version of topwork's plugin contract that this package was written for
TOPWORK_CONTRACT = @CONTRACT@

"""

PLUGINS = {
    "task": '''"""A task for topwork: rows, preprocessing, loss, prediction and metric of one kind of problem."""

'''
    + _HEADER
    + """from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from topwork import Batch, Column, DataError, Item, MeanMetric, State, Task, TaskOptions, hookimpl
"""
    + _CONTRACT
    + '''
def row_error(row: Mapping[str, Any], prediction: float) -> dict[str, float]:
    """Return the error of one prediction, by the names of the metric."""
    return {"mae": abs(row["share"] - prediction)}


class @CLASS@(Task):
    """Estimate the share of vowels in a text, which is read as bytes."""

    name: ClassVar[str] = "@SHORT@"
    columns: ClassVar = {
        "text": Column("a text"),
        "share": Column("share of vowels among its letters, 0 to 1", target=True),
    }

    class Options(TaskOptions):
        """Options of the task, as in a recipe."""

        max_length: int = Field(60, ge=1, description="bytes of a text that are read")

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: Any) -> State:
        """Return what is learned once from the training rows, and saved with the model: nothing here."""
        return State()

    def build(self, weights: bool = True) -> Any:
        """Put the task head on the base; torch is imported here, when a model is made."""
        from topwork.task_heads import PooledHead

        return PooledHead(self.base.backbone(weights=weights, vocab_size=257, pad_token_id=256), 1, dropout=0.0)

    def encode(self, rows: Sequence[Mapping[str, Any]], mode: str, seed: int) -> list[Item]:
        """Turn rows into items, one or several a row; without targets in mode "predict"."""
        items = []
        for index, row in enumerate(rows):
            token_ids = list(row["text"].encode())[: self.options.max_length]
            if not token_ids:
                raise DataError("the text is empty", row=index, column="text", hint="leave the row out")
            target = {} if mode == "predict" else {"share": float(row["share"])}
            items.append(Item(index, {"ids": token_ids, **target}, cost=len(token_ids)))
        return items

    def collate(self, items: Sequence[Item], mode: str) -> Batch:
        """Make one batch of items: tensors, padded."""
        import torch

        texts = [torch.tensor(item.inputs["ids"]) for item in items]
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=256)
        inputs = {"input_ids": padded, "attention_mask": (padded != 256).long()}
        if mode != "predict":
            inputs["share"] = torch.tensor([item.inputs["share"] for item in items])
        return Batch(inputs, items)

    def loss(self, model: Any, batch: Batch) -> Any:
        """Return the mean loss of a batch."""
        return (self._shares(model, batch) - batch.inputs["share"]).abs().mean()

    def predict(self, model: Any, batch: Batch) -> list[float]:
        """Return one part of a prediction for each item."""
        return self._shares(model, batch).tolist()

    def merge(self, row: Mapping[str, Any], parts: Sequence[float]) -> float:
        """Make the prediction of a row from the parts of its items."""
        return round(parts[0], 6)

    def metric(self) -> MeanMetric:
        """Return a fresh metric."""
        return MeanMetric(row_error, ("mae",), higher_is_better=False)

    def _shares(self, model: Any, batch: Batch) -> Any:
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "share"}
        return model(**inputs).logits.squeeze(-1).sigmoid()

    @classmethod
    def example_rows(cls) -> list[dict[str, Any]]:
        """Return small rows on which topwork's conformance tests run."""
        texts = ("aeiou", "rhythm", "banana", "oak", "sky", "queue", "street", "eau", "lynx", "idea")
        return [{"text": text, "share": sum(letter in "aeiou" for letter in text) / len(text)} for text in texts]


@hookimpl
def register_tasks() -> list[type[Task]]:
    """Return the tasks of this plugin."""
    return [@CLASS@]
''',
    "stage": '''"""A stage for topwork: one step of a recipe."""

'''
    + _HEADER
    + """from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from topwork import Stage, hookimpl

if TYPE_CHECKING:
    from topwork import Run
"""
    + _CONTRACT
    + '''
class @CLASS@(Stage):
    """Count the parameters of the model, layer by layer."""

    name: ClassVar[str] = "@IDENTIFIER@"
    columns_shown: ClassVar[tuple[str, ...]] = ("parameters",)

    depth: int = Field(1, ge=1, description="parts of a module path by which parameters are grouped")

    def __call__(self, run: Run) -> dict[str, Any]:
        """Return the result: JSON, by the keys of `topwork.StageResult` where they apply.

        A stage that changes the structure of `run.model` sets `changes_model` and writes down what it did by
        `topwork.alterations`; the hook `model_rebuilt` puts it back when the model is loaded.
        """
        counts: dict[str, int] = {}
        for name, parameter in run.model.named_parameters():
            part = ".".join(name.split(".")[: self.depth])
            counts[part] = counts.get(part, 0) + parameter.numel()
        lines = [{"part": part, "parameters": count} for part, count in counts.items()]
        return {"parameters": sum(counts.values()), "tables": {"parameters": lines}}


@hookimpl
def register_stages() -> list[type[Stage]]:
    """Return the stages of this plugin."""
    return [@CLASS@]
''',
    "observer": '''"""An observer for topwork: hears what a run does and writes it into a file; it changes nothing."""

'''
    + _HEADER
    + """import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import hookimpl

if TYPE_CHECKING:
    from topwork import Run, Stage
"""
    + _CONTRACT
    + '''FILE = "progress.jsonl"


@hookimpl
def step_logged(run: Run, stage: Stage, step: int, numbers: Mapping[str, float]) -> None:
    """Write the numbers of a stage that is at work: the loss of a training, its metrics."""
    _write(run, {"stage": stage.name, "step": step, **numbers})


@hookimpl
def stage_done(run: Run, stage: Stage, index: int, result: Mapping[str, Any]) -> None:
    """Write the metrics of a stage that has ended."""
    _write(run, {"stage": stage.name, "done": True, **(result.get("metrics") or {})})


def _write(run: Run, line: Mapping[str, Any]) -> None:
    if run.process.main:  # of several processes one writes
        with (run.root / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\\n")
''',
    "base": '''"""A base for topwork: a network of its own, named `@SHORT@:<width>` in recipes."""

'''
    + _HEADER
    + """import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import hookimpl

if TYPE_CHECKING:
    from topwork import BaseOptions
"""
    + _CONTRACT
    + '''
class @CLASS@:
    """A base knows its config from the start and makes modules when it is asked; see `topwork.Base`."""

    def __init__(self, options: BaseOptions, config: Any) -> None:
        self.options, self.config = options, config
        self.scratch = True  # no pretrained weights: tasks learn their tokenizer from rows
        self.origin = {"kind": "@SHORT@", "config": config.to_dict()}

    def native(self, *auto: str, weights: bool = True, subclass: Any = None, **changes: Any) -> None:
        """Return no model with a task head of its own: the generic heads of topwork are put on."""

    def backbone(self, *, weights: bool = True, maps: Sequence[int] = (), **changes: Any) -> Any:
        """Return the network without a task head."""
        from @MODULE@.network import Network

        for name, value in changes.items():
            setattr(self.config, name, value)
        return Network(self.config)

    def trained_labels(self, *auto: str) -> None:
        """Return no label names: there is no trained task head."""

    def processor(self, kind: str, **changes: Any) -> Any | None:
        """Return the tokenizer that was saved with a model of this base, if `options.model` is its folder."""
        folder = Path(self.options.processor or self.options.model or "")
        if kind != "tokenizer" or not (folder / "tokenizer.json").is_file():
            return None
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, **changes)


@hookimpl
def load_base(name: str, options: BaseOptions) -> @CLASS@ | None:
    """Return the base of a name or of a folder that was saved with it; None: "not mine"."""
    kind, _, width = name.partition(":")
    file = Path(name) / "config.json"
    saved = file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("model_type") == "@SHORT@"
    if not saved and not (kind == "@SHORT@" and width.isdigit()):
        return None
    from @MODULE@.network import Config

    return @CLASS@(options, Config.from_pretrained(name) if saved else Config(width=int(width)))
''',
}

NETWORK = '''"""The network: embeddings and two attention layers. Importing it imports torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from topwork import Features


class Config(PreTrainedConfig):
    """Sizes of the network."""

    model_type = "@SHORT@"

    def __init__(self, width: int = 32, vocab_size: int = 100, **more: Any) -> None:
        self.width, self.vocab_size = width, vocab_size
        super().__init__(**more)


class Network(nn.Module):
    """A backbone: `forward` takes the usual inputs and answers `Features`."""

    main_input = "input_ids"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(nn.MultiheadAttention(config.width, 4, batch_first=True) for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Features:
        """Return the hidden states [items, positions, width]."""
        mask = (input_ids == input_ids).long() if attention_mask is None else attention_mask
        states = self.words(input_ids)
        for layer in self.layers:
            states = states + layer(states, states, states, key_padding_mask=mask == 0, need_weights=False)[0]
        return Features(tokens=states, mask=mask)
'''
