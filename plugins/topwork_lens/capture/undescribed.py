"""Where attention runs in a model, whoever computes it: seen by watching, not by names.

Three signs: a call of transformers' attention interface, a call of one of torch's attention functions, and a softmax
whose result is multiplied with values. What runs where no attention layer is described is a stranger, and a reason to
refuse: numbers that leave it out without a word would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from topwork import AttentionLayer
from topwork_lens.layers.architectures import WITHOUT_HEADS
from topwork_lens.refusals import refuse

SOFTMAX = (torch.softmax, functional.softmax, torch.Tensor.softmax)
#: a softmax may be written as exp(scores - logsumexp(scores))
EXPONENTIALS = (torch.exp, torch.Tensor.exp)
KERNELS = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)
PRODUCTS = (
    torch.matmul,
    torch.bmm,
    torch.einsum,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.bmm,
    torch.baddbmm,
    torch.Tensor.baddbmm,
    torch.Tensor.__rmatmul__,
    torch.mm,
)


@contextmanager
def observed(model: nn.Module) -> Iterator[dict[str, set[str]]]:
    """Module path -> how attention ran there ("interface", "kernel", "softmax"), filled while the model runs.

    Modules are left out that are known to have no attention heads (`architectures.WITHOUT_HEADS`).
    """
    found: dict[str, set[str]] = {}
    paths = {id(module): path for path, module in model.named_modules()}
    stack: list[str] = []

    headless = {path for path, module in model.named_modules() if type(module).__name__ in WITHOUT_HEADS}

    def note(path: str, how: str) -> None:
        if path not in headless:
            found.setdefault(path, set()).add(how)

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(paths[id(module)])

    def leave(*_: Any) -> None:
        if stack:
            stack.pop()

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        hooks.enter_context(_interface(lambda module: note(paths[id(module)], "interface"), set(paths)))
        hooks.enter_context(Following(lambda how, *_: note(stack[-1], how) if stack and how != "points" else None))
        yield found


@contextmanager
def _interface(note: Any, known: set[int]) -> Iterator[None]:
    from transformers.modeling_utils import AttentionInterface

    own = AttentionInterface.get_interface

    def get_interface(interface: Any, implementation: str, default: Any) -> Any:
        chosen = own(interface, implementation, default)

        def attend(module: nn.Module, *args: Any, **options: Any) -> Any:
            if id(module) in known:
                note(module)
            return chosen(module, *args, **options)

        return attend

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
    try:
        yield
    finally:
        setattr(AttentionInterface, "get_interface", own)  # noqa: B010


class Following(TorchFunctionMode):
    """Follows the product of two computed tensors (scores) into a softmax, and its result into the next product.

    Tensors are marked by an attribute, so that nothing is kept alive longer than the model does.

    Args:
        seen: called as `seen(how, function, args, kwargs, answer, weights)`; how is "kernel", "softmax" or "points"
            (a softmax of something that is no product), weights are the softmax's result and what was multiplied.
    """

    def __init__(self, seen: Callable[..., Any]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        answer = function(*args, **kwargs)
        if function in KERNELS:
            changed = self.seen("kernel", function, args, kwargs, answer, None)
            return answer if changed is None else changed
        operands = [one for one in (*_flat(args), *kwargs.values()) if isinstance(one, torch.Tensor)]
        marked = [one for one in operands if hasattr(one, _MARK)]
        if function in PRODUCTS:
            weights = [one for one in marked if _origin(one) is not _SCORES]
            if weights and len(operands) > 1:
                self.seen("softmax", function, args, kwargs, answer, (_origin(weights[0]), weights[0]))
            elif len(operands) > 1 and not any(isinstance(one, nn.Parameter) for one in operands):
                _mark(answer, _SCORES)
        elif function in SOFTMAX:
            if marked:
                _mark(answer, answer)
            else:
                self.seen("points", function, args, kwargs, answer, (answer, answer))
        elif function in EXPONENTIALS and marked and _sums_to_one(answer):
            _mark(answer, answer)
        elif marked and _is_new(answer, marked):
            _mark(answer, next((kind for one in marked if (kind := _origin(one)) is not _SCORES), _SCORES))
        return answer


def _sums_to_one(answer: torch.Tensor) -> bool:
    """Of attention weights only: what a router gives each token has fewer dimensions."""
    if answer.dim() < 4:
        return False
    sums = answer.detach().float().sum(-1)
    return bool(((sums - 1).abs() < 1e-3).all())


def _is_new(answer: Any, operands: Sequence[torch.Tensor]) -> bool:
    floating = isinstance(answer, torch.Tensor) and answer.is_floating_point()
    return floating and not any(one is answer for one in operands)


_MARK = "_topwork_mark"
_SCORES = "scores"


def _mark(answer: Any, mark: Any) -> None:
    if isinstance(answer, torch.Tensor) and answer.dim() > 1:
        # A tensor that marks itself would keep itself alive.
        setattr(answer, _MARK, _Itself if mark is answer else mark)


def forget(tensor: torch.Tensor) -> None:
    """Take the mark off a tensor that is kept: it would keep the weights alive that it was made of."""
    vars(tensor).pop(_MARK, None)


def _origin(tensor: torch.Tensor) -> Any:
    """The softmax's result that a tensor was made of, or `_SCORES`."""
    mark = getattr(tensor, _MARK)
    return tensor if mark is _Itself else mark


class _Itself:
    """The mark of a softmax's own result."""


def _flat(args: tuple) -> Iterator[Any]:
    for one in args:
        if isinstance(one, tuple | list):
            yield from one
        else:
            yield one


@contextmanager
def no_strangers(model: nn.Module, layers: Sequence[AttentionLayer]) -> Iterator[None]:
    """Refuse when attention runs in a module of `model` that none of its layers describes."""
    known = {path for layer in layers for caller in layer.callers for path in _below(model, caller)}
    with observed(model) as found:
        yield
    strangers = sorted(path for path, how in found.items() if path not in known)
    if strangers:
        raise refuse(
            "unknown_layout",
            f"attention runs in {len(strangers)} modules that no row and no plugin describes",
            place=strangers[0],
            hint="teach it by the hook `attention_layer`",
        )


def _below(model: nn.Module, path: str) -> list[str]:
    prefix = f"{path}." if path else ""
    return [path, *(prefix + name for name, _ in model.get_submodule(path).named_modules() if name)]
