"""Values between a task and the core: columns, rows, items, batches, parts, units, pictures and the view of rows.

Nothing here knows a task or a modality. torch is imported inside functions, so that listing tasks stays cheap.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from topwork.deprecation import warn_renamed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: str, int, float, bool, None, list and dict of these
Json = Any
#: one example, by the names of its columns
Row = Mapping[str, Any]
#: what a task predicts for one item
Part = Any
#: what a task predicts for one row, in the shape of the Hub's pipelines
Prediction = Any
#: what items are made for: "train" (augmented, with targets), "loss" (with targets, nothing random), "predict"
Mode = Literal["train", "loss", "predict"]


#: what a column holds; cells that are text (csv, tsv) are converted by it, see `topwork.data.cells`
ColumnKind = Literal[
    "any",  # numbers where all cells of the column are numbers, else text
    "text",  # text, character for character
    "label",  # the name of a label, or an integer where all cells are integers; lists of them with several labels
    "number",
    "words",  # a list of strings: JSON, or words with spaces between them
    "tags",  # the same
    "spans",  # the following: JSON
    "boxes",
    "segments",
    "messages",
    "texts",  # a dict of texts
    "answers",  # JSON, or the text of the answer
    "image",  # the following: a path, relative to the table
    "audio",
    "mask",
    "depth",
    "file",
]


@dataclass(frozen=True)
class Column:
    """A column that a task reads from its rows.

    Args:
        description: what it holds, for documentation and error messages.
        target: True when it is the truth: needed to train and evaluate, not to predict.
        required: False when rows may do without it.
        lazy: True for files (images, audio): a data set gives them undecoded, as {"bytes", "path"} of which one may
            be None, and the task opens them in `encode` and `draw`; rows in memory may hold whatever the task says.
        kind: what its cells are, which says how a cell of text becomes a value.
        single: True for the input that a text without a column's name is, of a task with several that it could be.

    Example:
        >>> Column("the label of the text", target=True, kind="label").required
        True
    """

    description: str
    target: bool = False
    required: bool = True
    lazy: bool = False
    kind: ColumnKind = "any"
    single: bool = False


@dataclass(slots=True)
class Item:
    """One input of the model, made by `Task.encode`.

    Args:
        row: index, in the list of rows that `encode` was given, of the row that this item belongs to.
        inputs: what `Task.collate` needs to build tensors: numbers, lists, arrays, tensors.
        cost: of the item in a batch (tokens, pixels, samples): items are sorted by it, and a batch is planned by
            count * largest cost.
        extra: values that must not become tensors: offsets, original sizes, ragged targets.
        beside: deprecated name of `extra`.

    Example:
        >>> Item(row=0, inputs={"input_ids": [101, 2204, 102]}, cost=3, extra="positive").at(5).row
        5
    """

    row: int
    inputs: dict[str, Any]
    cost: int = 1
    extra: Any = None
    beside: InitVar[Any] = None

    def __post_init__(self, beside: Any) -> None:
        if beside is not None:
            warn_renamed("Item(beside=...)", "Item(extra=...)", stacklevel=4)
            self.extra = beside

    def at(self, row: int) -> Item:
        """Return the same item with the index of its row in another list of rows."""
        return Item(row, self.inputs, self.cost, self.extra)


def _deprecated_beside(item: Item) -> Any:
    warn_renamed("Item.beside", "Item.extra")
    return item.extra


setattr(Item, "beside", property(_deprecated_beside, doc="Deprecated name of `extra`."))  # noqa: B010  # after dataclass() has read the default


@dataclass
class Batch:
    """Input of a model, made by `Task.collate`: `inputs` goes to the device, `items` stay.

    In mode "loss" all items of a row stand in one batch; `rows` numbers the rows of the batch from 0 in the order of
    their first item.

    Args:
        inputs: keyword arguments of the model: tensors, and nested lists and dicts of tensors.
        items: the items that were collated, in their order.
        device: where `inputs` lies; None before it was moved.
        mode: the mode of `Task.collate`, noted by topwork; None for a batch that was made by hand. What belongs to
            training alone (label smoothing, mixing ...) is in force where it is "train", and nowhere else.
        stream_state: of a training on streaming rows: what is needed to go on behind this batch.
    """

    inputs: dict[str, Any]
    items: Sequence[Item]
    device: Any = None
    mode: Mode | None = None
    rows: list[int] = field(init=False)
    stream_state: dict[str, Json] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        seen: dict[int, int] = {}
        self.rows = [seen.setdefault(item.row, len(seen)) for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def row_numbers(self) -> list[int]:
        """Indices, in the data set, of the rows of the batch, in the order of `Task.row_losses`."""
        return list(dict.fromkeys(item.row for item in self.items))

    @property
    def row_count(self) -> int:
        """Number of rows in the batch."""
        return max(self.rows, default=-1) + 1

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        """Return the batch with every tensor of `inputs`, however deep, on `device`.

        Args:
            device: a torch device.
            non_blocking: as of `torch.Tensor.to`.
        """
        moved = map_tensors(self.inputs, lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return Batch(moved, self.items, device, self.mode, stream_state=self.stream_state)

    def mean_by_row(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of the values of each row's items, [rows].

        Args:
            values: [items].
        """
        import torch

        index = torch.tensor(self.rows, device=values.device)
        total = torch.zeros(self.row_count, dtype=values.dtype, device=values.device).index_add(0, index, values)
        count = torch.zeros_like(total).index_add(0, index, torch.ones_like(values))
        return total / count


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply `function` to every tensor inside nested dicts, lists and tuples; other values pass unchanged."""
    import torch

    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(entry, function) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(entry, function) for entry in value)
    return value


def size_of(value: Any) -> int:
    """Return roughly how many bytes a value holds: tensors, arrays, images, texts, and lists and dicts of them."""
    if isinstance(value, int | float):
        return 8
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(size_of(entry) for entry in value.values())
    if hasattr(value, "nbytes"):  # tensors too
        return int(value.nbytes)
    if isinstance(value, list | tuple):
        alike = value and (len(value) >= 64 or isinstance(value[0], int | float))
        return len(value) * size_of(value[0]) if alike else sum(size_of(entry) for entry in value)
    if hasattr(value, "getbands"):  # a PIL picture
        return value.width * value.height * len(value.getbands())
    return 8


@dataclass
class Units:
    """Description of the positions of an item, for whoever shows or measures attention.

    Args:
        kind: "token", "patch", "frame", "query" ... one word.
        names: one name a position (tokens), or empty.
        special: positions that stand for nothing in the input (class and separator tokens, registers).
        grid: (rows, columns) of the positions that are not special, when they tile an image.
        seconds: seconds that a position covers, when they tile time.
        image: the image as the model gets it, when there is one.
        target_names: names of the tokens that a decoder reads, for an item of mode "loss".

    Example:
        >>> Units("token", names=["[CLS]", "good", "[SEP]"], special=[0, 2]).kind
        'token'
    """

    kind: str
    names: Sequence[str] = ()
    special: Sequence[int] = ()
    grid: tuple[int, int] | None = None
    seconds: float | None = None
    image: Image | None = None
    target_names: Sequence[str] = ()


@dataclass(frozen=True)
class QueryBox:
    """Box that a query of a model gave for an image, whether or not it is good enough to be a prediction.

    Args:
        label: its best label.
        score: of that label, 0 to 1.
        box: left, top, right and bottom, in shares of the image as the model got it.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


@runtime_checkable
class HasQueryBoxes(Protocol):
    """A task whose model answers by queries that each give a box: attention of a query is drawn with its box."""

    def query_boxes(self, model: Any, batch: Any) -> Sequence[Sequence[QueryBox]]:
        """Return the boxes of all queries, in their order, for each item of a batch of mode "predict"."""
        ...


@dataclass
class Picture:
    """Rendering of one prediction beside the truth.

    Args:
        caption: one line of plain text.
        badness: the larger, the worse the prediction: the worst are shown first.
        image: an image, when the row has one.
        text: marked-up text as pieces (text, mark); mark is "" for plain text, else a short class: "right", "wrong"
            and "truth" have colours of their own on the page.
        audio: a WAV file to play, when the row has a clip.
        facts: plain values for a table of predictions: "truth" and "prediction" (with the names of a confusion matrix,
            where there is one), "confidence" (of the prediction, 0 to 1), and others.
        measure: what `badness` is, such as "share of wrong pixels".
    """

    caption: str
    badness: float = 0.0
    image: Image | None = None
    text: Sequence[tuple[str, str]] = ()
    audio: bytes | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)
    measure: str = ""


class RowsView:
    """Measures, previews and doubts of a task's rows; each method has a default that suits any task.

    Example:
        >>> class Lengths(RowsView):
        ...     def measure(self, row, options):
        ...         return {"words": float(len(row["text"].split()))}
    """

    def measure(self, row: Row, options: Any) -> Mapping[str, float]:
        """Return numbers of one row that are worth a distribution: {"width": 640.0, "height": 480.0}.

        Read headers, decode nothing. Default: nothing.
        """
        return {}

    def preview(self, row: Row, options: Any) -> Picture:
        """Render one row as the task reads it. Default: its columns as text."""
        return Picture(", ".join(f"{name}: {brief(value)}" for name, value in row.items() if value is not None))

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Return what looks wrong in rows of one role without being an error, one sentence each. Default: nothing."""
        return []

    def check(self, row: Row, options: Any, *, whole: bool) -> None:
        """Refuse a row that training would refuse, as far as it can be told without a model. Default: nothing.

        Args:
            row: a row; of the role "predict" without its targets.
            options: of the task.
            whole: decode files; else their headers are enough.

        Raises:
            DataError: the row cannot be used.
        """

    def options_for(self, row: Row) -> Mapping[str, Json]:
        """Return options of the task that rows like this one, with canonical columns, need. Default: none."""
        return {}


class _Brief(reprlib.Repr):
    """Values in a caption: the first entries of long ones, numbers with four digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring, self.maxother, self.maxlevel = 160, 60, 4

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.4g}"


def brief(value: Any) -> str:
    """Return a value as it stands in a caption: long ones cut, numbers with four digits.

    >>> brief(3.14159265)
    '3.142'
    """
    return _Brief().repr(value)
