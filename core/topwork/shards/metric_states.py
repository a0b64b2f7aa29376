"""States of metrics as JSON, so that shards can be merged without executing what lies in a shared folder.

Entry points: `metric_state` and `restore_metric`; `encode_value` and `decode_value` for what else goes with them.
Numbers, texts, arrays and collections of them are written exactly; what a metric was made with (functions, readers of
targets) comes from a new metric of the same task.
"""

from __future__ import annotations

import base64
import math
import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork.errors import CheckpointError, UsageError
from topwork.items import Json
from topwork.metric import Metric

#: key of an object that stands for a value which JSON does not have
_KIND = "~"
_COLLECTIONS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict, "Counter": Counter}
#: kinds of numpy's dtypes that are numbers
_NUMBERS = "biuf"


class _Unwritable(Exception):
    """A value that has no form in JSON."""


def metric_state(metric: Metric, fresh: Metric) -> dict[str, Json]:
    """Return the state of a metric as JSON.

    Args:
        metric: that was given rows.
        fresh: one of the same task that was given none.

    Raises:
        UsageError: an attribute that rows have changed cannot be written.
    """
    written: dict[str, Json] = {}
    attributes, untouched = _attributes(metric), _attributes(fresh)
    for name, value in attributes.items():
        try:
            written[name] = encode_value(value)
        except _Unwritable as error:
            if name not in untouched or not _is_same(value, untouched[name]):
                raise UsageError(
                    f"the state `{name}` of {type(metric).__name__} cannot be written ({error}), so shards cannot be"
                    " merged",
                    hint="evaluate without `--shards`, or keep numbers, texts and lists of them in the metric",
                ) from None
    return written


def restore_metric(fresh: Metric, state: Mapping[str, Json], location: str | Path) -> Metric:
    """Give a new metric a state that `metric_state` has written, and return it.

    Args:
        fresh: a metric of the same task.
        state: as written.
        location: of the state, for errors.

    Raises:
        CheckpointError: the state is not one of such a metric.
    """
    known = vars(fresh)
    for name, value in state.items():
        if name not in known:
            raise CheckpointError(f"{type(fresh).__name__} has no state `{name}`", place=str(location))
        try:
            setattr(fresh, name, decode_value(value))
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"the state `{name}` is damaged ({error})", place=str(location)) from error
    return fresh


def _attributes(metric: Metric) -> dict[str, Any]:
    """Return what a metric hands to another process."""
    state = metric.__getstate__()
    if not isinstance(state, dict):
        raise UsageError(f"{type(metric).__name__} does not keep its state in attributes", hint="leave out `--shards`")
    return state


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two values are the same function, or equal when they are sent to another process."""
    if value is other:
        return True
    names = [getattr(each, "__qualname__", None) for each in (value, other)]
    if callable(value) and names[0] is not None:
        return names[0] == names[1]
    try:
        return pickle.dumps(value) == pickle.dumps(other)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False


def encode_value(value: Any) -> Json:
    """Return a value as JSON from which `decode_value` makes the same value."""
    import numpy

    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_KIND: "float", "value": repr(value)}
    if type(value) is list:
        return [encode_value(element) for element in value]
    if type(value) in _COLLECTIONS.values():
        return {_KIND: type(value).__name__, "value": _encode_elements(value)}
    if isinstance(value, bytes):
        return {_KIND: "bytes", "value": base64.b64encode(value).decode("ascii")}
    if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in _NUMBERS:
        content = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode("ascii")
        kind = "array" if isinstance(value, numpy.ndarray) else "number"
        return {_KIND: kind, "dtype": value.dtype.str, "shape": list(value.shape), "value": content}
    raise _Unwritable(f"it is {type(value).__name__}")


def _encode_elements(values: Any) -> list[Json]:
    """Return the elements of a collection; pairs of a mapping, and those of a set in a fixed order."""
    if isinstance(values, dict):
        return [[encode_value(key), encode_value(value)] for key, value in values.items()]
    return [encode_value(value) for value in (values if isinstance(values, tuple) else sorted(values, key=repr))]


def decode_value(value: Json) -> Any:
    """Return the value that `encode_value` wrote."""
    import numpy

    if isinstance(value, list):
        return [decode_value(element) for element in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[_KIND], value["value"]
    if kind == "float":
        return float(content)
    if kind == "bytes":
        return base64.b64decode(content)
    if kind in ("array", "number"):
        dtype = numpy.dtype(value["dtype"])
        if dtype.kind not in _NUMBERS:
            raise ValueError(f"dtype {value['dtype']}")
        array = numpy.frombuffer(base64.b64decode(content), dtype).reshape(value["shape"]).copy()
        return array if kind == "array" else array[()]
    if kind in ("dict", "Counter"):
        return _COLLECTIONS[kind]({decode_value(key): decode_value(element) for key, element in content})
    return _COLLECTIONS[kind](map(decode_value, content))
