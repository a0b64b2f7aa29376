"""The worker of `run.py`: examines model types named on standard input, one a line; answers one JSON line for each.

Its arguments are the part that is examined: "heads", "smaller" (neurons and whole layers) or "forms" (of heads, in
other configurations); and the seconds of CPU that one model type may take.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any


class OutOfTime(BaseException):
    """A model type took too long; no code of a model may catch it on the way."""


def stop(*_: Any) -> None:
    raise OutOfTime("it took too long")


def one(model_type: str, part: str, limit: str) -> dict[str, Any]:
    """The record of one model type."""
    from architectures import build, checks, forms, smaller

    start = time.process_time()
    record: dict[str, Any] = {"type": model_type, "part": part}
    signal.setitimer(signal.ITIMER_PROF, int(limit))
    try:
        if part == "forms":
            return record | forms.examine(model_type)
        examine = {"heads": checks.examine, "smaller": smaller.examine}[part]
        try:
            model, inputs = build.tiny(model_type)
        except (Exception, OutOfTime) as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(at.filename)}:{at.lineno}"
            return record | {"outcome": "not built", "why": f"{type(error).__name__}: {error} ({place})"[:300]}
        record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        record |= examine(lambda: (copy.deepcopy(model), copy.deepcopy(inputs)))
    except (Exception, OutOfTime) as error:
        at = list(traceback.extract_tb(error.__traceback__))[-3:]
        place = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in reversed(at))
        record |= {"outcome": "CRASH", "why": f"{type(error).__name__}: {error} ({place})"[:400]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    record["seconds"] = round(time.process_time() - start, 2)
    return record


def main() -> None:
    """One line in, one line out."""
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    signal.signal(signal.SIGPROF, stop)
    # What libraries print must not stand between the records.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(one(line.strip(), *sys.argv[1:])), file=answers, flush=True)


if __name__ == "__main__":
    main()
