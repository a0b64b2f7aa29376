"""Early exit of a model: its last layer hands on the state of an earlier one to the final norm and the task head.

Entry point: `early_exit`. Nostalgebraist 2020, "Interpreting GPT: the logit lens", for language models; here for any
task head that reads the last state of a stack: classes, boxes, spans, transcripts and next tokens by layer. All layers
run, so that caches of keys and values are filled while text is generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from topwork import Refused
from topwork_lens.look import Look


@contextmanager
def early_exit(look: Look, stack: str, layer: int, layers: int) -> Iterator[None]:
    """Let the task head read the state of a layer, for the time of the block.

    Args:
        look: at the model.
        stack: path of the stack of layers that the task head reads.
        layer: index of the state, 0 for the embeddings.
        layers: how many layers the stack has.

    Raises:
        Refused: the state has another shape than the last one.
    """
    states: list[torch.Tensor] = []

    def remember(state: torch.Tensor) -> torch.Tensor:
        states[:] = [state]
        return state

    def hand_on(state: torch.Tensor) -> torch.Tensor:
        if not states or states[0].shape != state.shape:
            before = tuple(states[0].shape) if states else "none"
            cause = f"the state of layer {layer} has the shape {before}, the task head reads {tuple(state.shape)}"
            raise Refused(cause, place=stack, reason="unknown_layout", hint="the layers of this stack are not alike")
        return states[0]

    if layer == layers:
        yield
        return
    with look.patch("hidden_states", {(stack, layer): remember, (stack, layers): hand_on}):
        yield
