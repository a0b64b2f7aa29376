"""Checks of a metric, a stage, its result and a base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from topwork.files import plain
from topwork.metric import Metric
from topwork.stage import Stage, StageResult
from topwork.task import Task
from topwork.testing.promises import kind_of, promised


def check_metric(task: Task, rows: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Check a task's metric: keys known before, NaN without rows, and merged halves equal to the whole.

    Args:
        task: whose metric it is.
        rows: rows with targets.
        predictions: of those rows.

    Raises:
        AssertionError: a promise that the metric breaks, and what was found instead.
    """
    import pickle

    def of(chosen: range) -> Metric:
        with promised(task.name, "metric() gives a Metric that takes rows with their predictions"):
            metric = task.metric()
            assert isinstance(metric, Metric), f"{task.name}: metric() must give a topwork.Metric, it gives {metric!r}"
            for index in chosen:
                metric.update(rows[index], predictions[index])
        return metric

    def result(metric: Metric) -> dict[str, Any]:
        with promised(task.name, "the metric gives its result"):
            values = metric.result()
        assert isinstance(values, dict), f"{task.name}: the metric's result must be a dict, it is {kind_of(values)}"
        return values

    whole, half = of(range(len(rows))), len(rows) // 2
    values = result(whole)
    assert set(whole.keys) <= set(values), f"{task.name}: the metric promised {whole.keys} and gave {sorted(values)}"
    assert whole.primary in whole.keys, f"{task.name}: primary {whole.primary} is none of the keys"
    numbers = all(isinstance(values[key], int | float) for key in whole.keys)
    assert numbers, f"{task.name}: the metric's keys must be numbers, they are {values}"
    short = whole.primary_value()
    same = _close(values[whole.primary], short)
    assert same, f"{task.name}: {whole.primary} is {values[whole.primary]} in result() and {short} in primary_value()"
    left, right = of(range(half)), of(range(half, len(rows)))
    with promised(task.name, "metrics can be sent to another process, and merge"):
        left.merge(pickle.loads(pickle.dumps(right)))
    merged = result(left)
    for key in whole.keys:
        assert _close(values[key], merged[key]), f"{task.name}: {key} is {values[key]} whole and {merged[key]} merged"
    empty = result(of(range(0)))
    assert all(empty[key] != empty[key] for key in whole.keys), f"{task.name}: without rows every key must be NaN"
    with promised(task.name, "the metric's result is JSON"):
        json.dumps(plain(values), allow_nan=False)


def _close(first: float, second: float) -> bool:
    return (first != first and second != second) or abs(first - second) <= 1e-6 * max(1.0, abs(first))


def check_stage(stage: type[Stage]) -> None:
    """Check a stage's declarations: a name, described options that can be turned into a schema, known roles.

    Args:
        stage: the stage class.

    Raises:
        AssertionError: a promise that the stage breaks, and what was found instead.
    """
    name = getattr(stage, "name", None)
    assert isinstance(name, str) and name.isidentifier(), f"{stage.__name__}: the name {name!r} is no identifier"
    assert (stage.__doc__ or "").strip(), f"stage {name} has no docstring"
    assert not getattr(stage, "__abstractmethods__", ()), f"stage {name} does not write __call__"
    with promised(f"stage {name}", "options can be described by a JSON schema"):
        json.dumps(stage.model_json_schema())
    bare = [option for option, field in stage.model_fields.items() if not field.description]
    assert not bare, f"stage {name}: the option `{bare[0] if bare else ''}` has no description"
    assert stage.model_config.get("extra") == "forbid", f"stage {name} must refuse unknown options"
    if not any(field.is_required() for field in stage.model_fields.values()):
        try:
            roles = stage().reads()
        except ValueError:  # options that depend on each other
            return
        assert set(roles) <= {"train", "calibrate", "evaluate", "predict"}, f"stage {name}: unknown roles {roles}"


def check_stage_result(result: Mapping[str, Any]) -> None:
    """Check the result of a stage: JSON, and what it has of the keys of `topwork.StageResult` has their types.

    Args:
        result: what the stage returned.

    Raises:
        AssertionError: the key that does not keep the contract, and what it holds.

    Example:
        result = work.apply("my_stage", {"evaluate": rows})
        check_stage_result(result)
    """
    from pydantic import TypeAdapter, ValidationError

    assert isinstance(result, Mapping), f"a stage must return a dict, it returns {kind_of(result)}"
    with promised("the result of the stage", "is JSON"):
        json.dumps(plain(result), allow_nan=False)
    try:
        TypeAdapter(StageResult).validate_python(plain(result), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise AssertionError(f"the result's `{key}`: {fault['msg']}, it is {fault['input']!r}") from error
    metrics, primary = result.get("metrics", {}), result.get("primary")
    assert not metrics or primary is None or primary in metrics, f"`primary` is {primary!r}, which is none of `metrics`"
    removal = result.get("removal")
    if removal is not None:
        missing = [key for key in ("before", "after") if key not in removal]
        assert not missing, f"`removal` has no {missing[0] if missing else ''!r}"
        assert 0 <= removal["after"] <= removal["before"], "`removal` says that there are more parts than before"
    lists = {key for layer in result.get("layers", ()) for key in layer}
    missing = [described.get("key") for described in result.get("head_maps", ()) if described.get("key") not in lists]
    assert not missing, f"`head_maps` names {missing[0] if missing else ''!r}, which no entry of `layers` has"


def check_base(base: Any, inputs: Mapping[str, Any]) -> None:
    """Check a base: JSON origin, and a backbone that returns Features of the promised widths.

    Args:
        base: a Base.
        inputs: tensors for the backbone's forward.

    Raises:
        AssertionError: a promise that the base breaks, and what was found instead.
    """
    import torch

    from topwork.base import Base, Features

    assert isinstance(base, Base), f"{type(base).__name__} lacks something of topwork.Base"
    json.dumps(plain(base.origin))
    module = base.backbone(weights=False).eval()
    with torch.no_grad():
        features = module(**inputs)
    assert isinstance(features, Features), "a backbone answers Features"
    assert module.main_input in inputs, f"main_input {module.main_input!r} is none of the inputs"
    if features.tokens is not None:
        assert features.tokens.ndim == 3 and features.tokens.shape[-1] == module.width, (
            "tokens are [items, positions, width]"
        )
        assert features.mask is None or features.mask.shape == features.tokens.shape[:2], (
            "the mask is [items, positions]"
        )
    assert features.pooled is None or features.pooled.shape[-1] == module.width, "pooled is [items, width]"
