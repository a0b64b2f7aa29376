"""Parameters of a request: options of the task that hold for its rows alone. Entry point: `with_parameters`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from topwork import Json, TopworkError, listed, nearest
from topwork_workbench.serving.limits import RequestError

if TYPE_CHECKING:
    from topwork import Task

#: options that change how predictions are read, and nothing else
_READING = frozenset(("top_k", "threshold", "aggregation", "n_best", "max_answer_length", "null_threshold"))
#: options of `generation` that cost no more than the model's own
_GENERATION = frozenset(
    ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "stop")
)
#: names of the Hub's API -> options
_RENAMED = {"aggregation_strategy": "aggregation", "max_answer_len": "max_answer_length", "stop_sequences": "stop"}


def known_parameters(task: Task) -> dict[str, str]:
    """Return the parameters that a task takes -> the option that each changes."""
    fields = type(task.options).model_fields
    known = {name: name for name in _READING if name in fields}
    # an encoder-decoder's generation config is settled when the model is built
    encoder_decoder = any(getattr(base.config, "is_encoder_decoder", False) for base in task.bases.values())
    section = getattr(task.options, "generation", None)
    if isinstance(section, BaseModel) and len(task.bases) == 1 and not encoder_decoder:
        options = type(section).model_fields
        known |= {name: f"generation.{name}" for name in _GENERATION if name in options and name not in known}
    return known


def with_parameters(task: Task, parameters: Json) -> Task:
    """Return the task with other options for one request; the task itself when there are none.

    Args:
        task: as it was loaded.
        parameters: of the request, by the Hub's names or by those of the options.

    Raises:
        RequestError: an unknown parameter, or a value that it cannot have.
    """
    if parameters is None or parameters == {}:
        return task
    if not isinstance(parameters, Mapping):
        raise RequestError(422, f"`parameters` is {type(parameters).__name__}, not an object")
    known = known_parameters(task)
    options: dict[str, Any] = task.options.model_dump(by_alias=True)
    for name, value in parameters.items():
        plain = _RENAMED.get(str(name), str(name))
        if plain not in known:
            raise RequestError(
                422,
                f"there is no parameter `{name[:60]}`{nearest(plain, known)}",
                f"known: {listed(sorted(known), 24)}",
            )
        _set(options, known[plain], value)
    try:
        changed = type(task.options).model_validate(options)
        return type(task)(task.bases, changed, task.state)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except TopworkError as error:
        raise RequestError(422, error.cause, error.hint) from error


def _set(options: dict[str, Any], path: str, value: Json) -> None:
    section, _, name = path.rpartition(".")
    target = options[section] if section else options
    most = target.get(name) if name == "max_new_tokens" else None
    if most is not None and isinstance(value, int) and value > most:
        raise RequestError(422, f"`max_new_tokens` is {value}, the model was saved with {most}", "ask for fewer")
    target[name] = value
