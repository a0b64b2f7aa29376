"""Write the snapshots of the fences again, on purpose: `python tests/fences/make.py [state_dicts folders ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fences import golden as made_golden
from fences import public as made_public
from fences import saved, snapshots
from fences.models import CASES
from fences.state_dicts import described, folded


def state_dicts() -> None:
    """The tensors of every case."""
    found = {}
    for name, case in CASES.items():
        work = case.build()
        tensors = folded(described(work.model))
        found[name] = {"class": type(work.model).__name__, "form": work.form, "tensors": tensors}
    snapshots.store("state_dicts", found)


def folders() -> None:
    """The saved model folders."""
    saved.make_all()


def golden() -> None:
    """Manifests, results of stages."""
    parts = (made_golden.manifests, made_golden.runs, made_golden.evaluations)
    snapshots.store("golden", {part.__name__: part() for part in parts})


def public() -> None:
    """Names, arguments, options, commands."""
    snapshots.store("public", made_public.everything())


MADE = {function.__name__: function for function in (state_dicts, folders, golden, public)}

if __name__ == "__main__":
    for name in sys.argv[1:] or MADE:
        MADE[name]()
