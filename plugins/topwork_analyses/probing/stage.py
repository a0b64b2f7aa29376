"""The stage `edge_probing`."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from topwork import Json, RowsOptions, Stage, UsageError

if TYPE_CHECKING:
    from topwork import Run
    from topwork_analyses.probing.preparation import Prepared
    from topwork_analyses.probing.training import ProbeScores


class EdgeProbing(Stage):
    """Probe which layer of the frozen model holds what: cumulative probes, control tasks, expected layers.

    After Tenney et al. 2019; the control tasks are those of Hewitt and Liang 2019.
    """

    name: ClassVar[str] = "edge_probing"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows",)

    labels: list[str] | None = Field(
        None,
        description="kinds of labels, each probed by itself: tags (of words), spans, relations (heads and relations of"
        " words), targets (as jiant writes them), label (of a whole row); by default all that the rows have",
    )
    train: RowsOptions | None = Field(None, description="labelled rows to train probes on; by default the run's")
    evaluate: RowsOptions | None = Field(None, description="labelled rows to score probes on; by default the run's")
    max_length: PositiveInt | None = Field(
        None, description="tokens of a text; default what the model takes, 512 at most"
    )
    limit: PositiveInt = Field(1000, description="most rows to train probes on")
    evaluate_limit: PositiveInt = Field(500, description="most rows to score probes on")
    stack: str | None = Field(None, description="path of the stack of layers; by default the first that can be mixed")
    seeds: PositiveInt = Field(5, description="repetitions with other initial values and orders")
    control: bool = Field(True, description="train a probe of a control task beside each")
    projection: PositiveInt = Field(256, description="width to which mixed states are projected")
    epochs: PositiveInt = Field(20, description="passes over the training rows")
    batch_size: PositiveInt = Field(32, description="spans in a step")
    learning_rate: PositiveFloat = Field(1e-3, description="of Adam, falling to 0 along a cosine")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals over rows")
    draws: PositiveInt = Field(1000, description="resamples of rows for the intervals")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return tuple(role for role in ("train", "evaluate") if getattr(self, role) is None)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        train = self._prepare(run, "train", self.limit, self.labels)
        evaluate = self._prepare(run, "evaluate", self.evaluate_limit, list(train.kinds))
        scores: dict[str, ProbeScores] = {}
        lines: list[dict[str, Json]] = []
        metrics: dict[str, Json] = {}
        remarks: list[str] = []
        for kind in train.kinds:
            scores[kind], line, undefined = self._probe(run, kind, train, evaluate)
            lines.append({"labels": kind, **line})
            metrics |= {f"{kind}_{name}": line[name] for name in _METRICS if name in line}
            remarks += [f"{kind}: {remark}" for remark in undefined]
        for remark in remarks:
            run.say(f"edge probing: {remark}")
        from topwork_analyses.probing.report import curves

        return {
            "rows": evaluate.row_count - len(evaluate.skipped),
            "metrics": metrics,
            "measures": "part",
            "states": dict(zip(("positions", "layers", "width"), train.shape)),
            "undefined": remarks,
            "tables": {"edge probing": lines},
            "curves": curves(scores),
            "skipped": len(train.skipped) + len(evaluate.skipped),
            "skipped_rows": [*train.skipped, *evaluate.skipped][:20],
        }

    def _prepare(self, run: Run, role: str, limit: int, kinds: list[str] | None) -> Prepared:
        from topwork_analyses.probing.preparation import prepare

        options = getattr(self, role)
        rows = run.rows(role) if options is None else run.read_rows(options, role)
        folder = run.folder / "checkpoints"
        total = min(len(rows), limit) if hasattr(rows, "__len__") else None
        rows = run.progress(islice(iter(rows), limit), total, label=f"states of {role} rows")
        return prepare(run, rows, kinds, folder / f"{role}.states", max_length=self.max_length, stack=self.stack)

    def _probe(
        self, run: Run, kind: str, train: Prepared, evaluate: Prepared
    ) -> tuple[ProbeScores, dict[str, Any], list[str]]:
        """Train and score the probes of one kind of labels; each process trains its share."""
        from topwork_analyses.probing.preparation import add_control, label_names
        from topwork_analyses.probing.report import commonest_f1, summarise
        from topwork_analyses.probing.training import ProbeOptions, ProbeScores, probe_layers

        sides = train.kinds[kind], evaluate.kinds[kind]
        names = label_names(*sides)
        if len(names) < 2:
            raise UsageError(f"`{kind}` has one label only, {names}", place="labels", hint="there is nothing to probe")
        rows = train.span_rows(kind, names), evaluate.span_rows(kind, names)
        commonest = commonest_f1(rows[0].labels[0].numpy(), rows[1].labels[0].numpy())
        if self.control:
            add_control(*rows, sides, run.seed)
        options = ProbeOptions(
            self.projection, self.epochs, self.batch_size, self.learning_rate, range(run.seed, run.seed + self.seeds)
        )
        progress = partial(run.progress, label=f"probes of {kind}")
        parts = run.process.gather(probe_layers(*rows, options, progress, (run.process.index, run.process.count)))
        scores = ProbeScores(sum(part.counts for part in parts), sum(part.weights for part in parts))
        figures, undefined = summarise(scores, self.confidence, self.draws, run.seed)
        sizes = {"names": len(names), "train_targets": len(rows[0]), "evaluate_targets": len(rows[1])}
        cut = {"cut_off": sides[0].missing + sides[1].missing, "commonest_f1": commonest}
        return scores, {**sizes, **cut, **figures}, undefined


_METRICS = (
    *("f1", "commonest_f1", "f1_of_layer_0", "control_f1", "selectivity", "expected_layer"),
    *("centre_of_gravity", "weights_divergence_bits", "gains_divergence_bits"),
)
