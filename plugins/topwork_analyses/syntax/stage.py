"""The stage `cat_probing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json, Refused, Row, RowsOptions, Stage, UsageError

if TYPE_CHECKING:
    from topwork import Run
    from topwork_analyses.syntax.study import AlignedRow
    from topwork_analyses.syntax.trees import SyntaxTree


class CatProbing(Stage):
    """Compare attention with distances in syntax trees (CAT-score), by layer, beside random orders of the tokens.

    After Chen et al. 2022.
    """

    name: ClassVar[str] = "cat_probing"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows",)

    rows: RowsOptions | None = Field(None, description="rows with a text; by default the run's of `role`")
    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows, without `rows`")
    language: str = Field(
        "python",
        description="of the code: python, or a grammar of tree-sitter that is installed (java, javascript ...);"
        " dependencies for sentences with `heads`",
    )
    limit: PositiveInt = Field(200, description="most rows")
    max_length: PositiveInt | None = Field(None, description="tokens of a text; by default what the model takes")
    types: PositiveInt | None = Field(
        8, description="keep this many types of tokens, those with the most attention; null for all tokens"
    )
    type_rows: PositiveInt = Field(50, description="rows that choose the types; the others are scored")
    upgraded: bool = Field(
        True, description="edges between tokens that follow each other and between uses of a name; not in dependencies"
    )
    attention_quantile: float = Field(0.75, gt=0, lt=1, description="above it attention is large")
    distance_quantile: float = Field(0.25, gt=0, lt=1, description="below it a distance is small")
    permutations: PositiveInt = Field(100, description="random orders of the tokens of each row")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals over rows")
    draws: PositiveInt = Field(1000, description="resamples of rows for the intervals")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return () if self.rows is not None else (self.role,)

    def precheck(self, before: Any) -> str | None:
        """Return that no row would be left to score, where that is so."""
        if self.types is not None and self.limit <= self.type_rows:
            return f"all of {self.limit} rows choose types (`type_rows`), and none is left to score"
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.syntax.study import score_rows
        from topwork_analyses.syntax.token_types import TypeRates

        skipped: list[dict[str, Json]] = []
        aligned = self._aligned(run, skipped)
        rates = TypeRates(self.attention_quantile)
        if self.types is not None:
            for row in islice(aligned, self.type_rows):
                rates.add(row.attention[-1], row.types)
        types = None if self.types is None else rates.best(self.types)
        quantiles = self.attention_quantile, self.distance_quantile
        scores = score_rows(aligned, types, self.permutations, run.seed, *quantiles)
        if not len(scores.scores):
            raise self._nothing_scored(rates.rows, scores.left_out)
        if scores.only_themselves:
            run.say(
                f"cat_probing: in {scores.only_themselves} of {len(scores.scores)} rows no token is near another one:"
                " their score is that of any order; raise `distance_quantile` for short texts"
            )
        lines = scores.summary(self.confidence, self.draws, run.seed)
        last, best = lines[-1], max(lines, key=lambda line: line["above_null"])
        metrics = {"cat": last["cat"], "null": last["null"], "above_null": last["above_null"]}
        metrics |= {"best_above_null": best["above_null"], "best_layer": best["layer"]}
        series = {name: [[line["layer"], line[name]] for line in lines] for name in ("cat", "null")}
        return {
            "rows": len(scores.scores),
            "metrics": metrics,
            "measures": "part",
            "types": types,
            "tables": {"CAT-score": lines, "types of tokens": rates.ranked()},
            "curves": [{"title": "CAT-score", "x": "layer", "series": series}],
            "rows_left_out": scores.left_out,
            "rows_without_near_tokens": scores.only_themselves,
            "skipped": len(skipped),
            "skipped_rows": skipped[:20],
        }

    def _nothing_scored(self, chose: int, left_out: int) -> UsageError:
        """Return why no row has a score."""
        if chose and not left_out:
            cause = f"all {chose} rows choose types (`type_rows`), and none is left to score"
            return UsageError(cause, hint="give more rows, a lower `type_rows`, or `types: null`")
        return UsageError("no row has two tokens of the chosen types", hint="give more rows, or `types: null`")

    def _aligned(self, run: Run, skipped: list[dict[str, Json]]) -> Iterator[AlignedRow]:
        from topwork_analyses.positions.readers import TextReader
        from topwork_analyses.syntax.study import aligned_rows, attention_layers
        from topwork_lens.look import Look

        rows = run.rows(self.role) if self.rows is None else run.read_rows(self.rows, "rows")
        total = min(len(rows), self.limit) if hasattr(rows, "__len__") else None
        rows = run.progress(islice(iter(rows), self.limit), total, label="attention and syntax")
        reader = TextReader(run.task, run.model, self.max_length)
        look = Look(reader.module, run.plugins)
        if not attention_layers(look.layers):
            raise Refused("no layer in which each token attends to each other", reason="no_weights")
        is_lenient = run.settings().on_error == "skip"
        return aligned_rows(
            reader,
            look,
            rows,
            self._tree(),
            upgraded=self.upgraded and self.language != "dependencies",
            skipped=skipped if is_lenient else None,
        )

    def _tree(self) -> Callable[[Row, int], SyntaxTree]:
        from topwork_analyses.syntax.dependencies import dependency_tree
        from topwork_analyses.syntax.grammars import tree_of_row

        return dependency_tree if self.language == "dependencies" else partial(tree_of_row, language=self.language)
