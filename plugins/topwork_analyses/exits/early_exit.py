"""Early exit of a model: its later layers hand on the state of an earlier one to the final norm and the task head.

Entry point: `early_exit`. Nostalgebraist 2020, "Interpreting GPT: the logit lens", for language models; here for any
task head that reads states of one stack: classes, boxes, spans, transcripts and next tokens by layer. A head that reads
several layers (DPT's, UperNet's) gets those that come before the exit as they are, and the state of the exit for all
behind it. All layers run, so that caches of keys and values are filled while text is generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from topwork import Refused
from topwork_lens.look import Look


@contextmanager
def early_exit(look: Look, stack: str, layer: int, layers: int) -> Iterator[None]:
    """Let the task head read the state of a layer in place of all later ones, for the time of the block.

    Args:
        look: at the model.
        stack: path of the stack of layers that the task head reads.
        layer: index of the state, 0 for the embeddings.
        layers: how many layers the stack has.

    Raises:
        Refused: the state has another shape than a later one.
    """
    states: list[torch.Tensor] = []

    def remember(state: torch.Tensor) -> torch.Tensor:
        states[:] = [state]
        return state

    def hand_on(state: torch.Tensor) -> torch.Tensor:
        if not states or states[0].shape != state.shape:
            before = tuple(states[0].shape) if states else "none"
            cause = f"the state of layer {layer} has the shape {before}, a later one {tuple(state.shape)}"
            raise Refused(cause, place=stack, reason="unknown_layout", hint="the layers of this stack are not alike")
        return states[0]

    if layer == layers:
        yield
        return
    later = {(stack, index): hand_on for index in range(layer + 1, layers + 1)}
    with look.patch("hidden_states", {(stack, layer): remember, **later}):
        yield
