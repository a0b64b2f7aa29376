"""The core's own stages: train, evaluate, predict, save. Registered like anybody else's."""

from __future__ import annotations

from topwork.hookspecs import hookimpl
from topwork.stage import Stage


@hookimpl
def register_stages() -> list[type[Stage]]:
    from topwork.stages.evaluate import Evaluate
    from topwork.stages.predict import Predict
    from topwork.stages.save import Save
    from topwork.stages.train import Train

    return [Train, Evaluate, Predict, Save]
