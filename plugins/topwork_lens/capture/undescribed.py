"""Attention that no layer describes: seen by watching a model run, not by names.

Entry points: `all_described`, which refuses it, and `observed`. Three signs: a call of transformers' attention
interface, a call of one of torch's attention functions, and a softmax whose result is multiplied with values or weighs
sampled points. Numbers that leave such attention out without a word would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from topwork import AttentionLayer
from topwork_lens.activations.hooks import Hook
from topwork_lens.capture.interface import InterfaceCall, observing_interface
from topwork_lens.capture.tracing import SoftmaxTracer
from topwork_lens.layers.architectures import WITHOUT_HEADS, WITHOUT_HEADS_ENDINGS
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope


@contextmanager
def observed(model: nn.Module) -> Iterator[dict[str, set[str]]]:
    """Record where attention runs, for the time of the block.

    Yields:
        Module path -> how attention ran there ("interface", "kernel", "softmax", "points"), filled while the model
        runs. Modules that are known to have no attention heads are left out (`architectures.WITHOUT_HEADS`).
    """
    ways: dict[str, set[str]] = {}
    weighed: set[str] = set()
    paths = {id(module): path for path, module in model.named_modules()}
    headless = {path for path, module in model.named_modules() if _has_no_heads(type(module).__name__)}
    stack: list[str] = []

    def note(path: str, how: str) -> None:
        if path not in headless:
            ways.setdefault(path, set()).add(how)

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(paths.get(id(module), ""))

    def leave(*_: Any) -> None:
        if stack:
            stack.pop()

    def called(call: InterfaceCall, run: Callable[[InterfaceCall], Any]) -> Any:
        if id(call.module) in paths:
            note(paths[id(call.module)], "interface")
        return run(call)

    def report(how: str, *_: Any) -> None:
        if not stack or not scope.active:
            return
        if how == "points":
            weighed.add(stack[-1])
        elif how == "samples":
            # Deformable attention: weights of points in a module, values taken there or in a module below.
            for path in weighed & {path for path in stack if f"{stack[-1]}.".startswith(f"{path}." if path else "")}:
                note(path, "points")
        else:
            note(stack[-1], how)

    with ExitStack() as hooks:
        scope = hooks.enter_context(Scope())
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(Hook(scope, enter), prepend=True).remove)
            hooks.callback(module.register_forward_hook(Hook(scope, leave), always_call=True).remove)
        hooks.enter_context(observing_interface(called))
        hooks.enter_context(SoftmaxTracer(report))
        yield ways


def _has_no_heads(name: str) -> bool:
    return name in WITHOUT_HEADS or name.endswith(WITHOUT_HEADS_ENDINGS)


@contextmanager
def all_described(model: nn.Module, layers: Sequence[AttentionLayer]) -> Iterator[None]:
    """Refuse when attention runs in a module of `model` that none of its layers describes.

    Raises:
        Refused: at the end of the block.
    """
    known = {path for layer in layers for caller in layer.callers for path in _below(model, caller)}
    with observed(model) as ways:
        yield
    undescribed = sorted(path for path in ways if path not in known)
    if undescribed:
        raise refuse(
            "unknown_layout",
            f"attention runs in {len(undescribed)} modules that no row and no plugin describes",
            place=undescribed[0],
            hint="teach it by the hook `attention_layer`",
        )


def _below(model: nn.Module, path: str) -> list[str]:
    prefix = f"{path}." if path else ""
    return [path, *(prefix + name for name, _ in model.get_submodule(path).named_modules() if name)]
