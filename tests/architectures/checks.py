"""What is checked for one model: everything that the lens claims, against what the model itself computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from architectures import eager
from topwork import Refused, TopworkError, accelerated, alterations
from topwork_lens.capture.undescribed import all_described, observed
from topwork_lens.gates import gated as put
from topwork_lens.layers.context import first_input, is_gateable, output_projection, split_heads
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.pruning.equivalence import compare, doubled, tensors
from topwork_lens.pruning.rebuild import rebuild

#: relative to max|output| in float32
TOLERANCE = 1e-5


def outputs(model: torch.nn.Module, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """All floating tensors that the model answers; the same random numbers every time."""
    with quiet(model):
        return tensors(model(**copy.deepcopy(dict(inputs))))


def gap(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The worst difference, relative to max|output|."""
    return compare(one, other, other).difference


def unlike(whole: Any, heads: Any, model: Any, inputs: Mapping[str, Any], tolerance: float = TOLERANCE) -> float:
    """The worst difference of the masked whole model and the pruned one; in float64 where float32 exceeds `tolerance`.

    Rounding that grows (a vocoder, masks and durations that are cut at a threshold) vanishes there, a fault stays.
    """
    with Look(whole).mask_heads(heads):
        return apart(whole, model, inputs, tolerance)


def apart(first: Any, second: Any, inputs: Mapping[str, Any], tolerance: float = TOLERANCE) -> float:
    """The worst difference of two models; in float64 where float32 exceeds `tolerance`."""
    difference = gap(outputs(first, inputs), outputs(second, inputs))
    if difference <= tolerance:
        return difference
    with doubled(first), doubled(second):
        return gap(outputs(first, inputs), outputs(second, inputs))


def verdict(difference: float, tolerance: float = TOLERANCE, where: str = "") -> Any:
    """True, or by how much two models differ."""
    return True if difference <= tolerance else f"WRONG by {difference:.2g}{where}"


def examine(make: Any) -> dict[str, Any]:
    """All checks of one model.

    Args:
        make: () -> (model, inputs), the same ones every time.

    Returns:
        "outcome" (hard, soft, refused, no attention), "reason", "why", "layers" (found), "ran" (observed), and for
        each check what came out: True, or one line of what went wrong.
    """
    model, inputs = make()
    look = Look(model)
    layers = look.layers
    result: dict[str, Any] = {"layers": len(layers), "heads": sum(layer.heads for layer in layers)}
    called: set[str] = set()
    with ExitStack() as stack:
        stack.enter_context(unfolded([model.get_submodule(layer.path) for layer in layers]))
        for layer in layers:
            hook = output_projection(model, layer).register_forward_hook(lambda *_, path=layer.path: called.add(path))
            stack.callback(hook.remove)
        with torch.no_grad(), observed(model) as seen, quiet(model):
            model(**copy.deepcopy(dict(inputs)))
    places = set(seen)
    callers = [caller for layer in layers for caller in layer.callers]
    strangers = [p for p in places if not any(p == c or p.startswith(f"{c}.") for c in callers)]
    result |= {"ran": len(called), "strangers": len(strangers)}
    if strangers:
        first = min(strangers)
        module = model.get_submodule(first)
        parts = ",".join(name for name, _ in module.named_children())
        parameters = ",".join(name for name, _ in module.named_parameters(recurse=False))
        result["stranger"] = f"{first} {type(module).__name__}({parts}|{parameters}) {sorted(seen[first])}"
    if not layers and not strangers:
        return result | {"outcome": "no attention"}
    if not layers:
        return result | {"outcome": "refused", "reason": "unknown_layout"}
    active = [layer for layer in layers if layer.path in called]
    if not active:
        return result | {"outcome": "refused", "reason": "not_run"}
    result["capture"] = attempt(lambda: captured(model, inputs, look, active, result))
    active = [layer for layer in active if is_gateable(layer)]
    result["gates"] = attempt(lambda: gated(model, inputs, look, active))
    if "model.train()" in str(result["gates"]):
        # Some models recompute their layers backwards, and that in training mode only.
        result["gates"] = attempt(lambda: gated(model.train(), inputs, look, active))
        model.eval()
    result |= pruned(make, active)
    return result


def attempt(check: Any) -> Any:
    """True, or what went wrong."""
    try:
        return check()
    except Refused as error:
        return f"refused {error.reason}: {error}"
    except TopworkError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"[:300]


def captured(model: Any, inputs: Any, look: Look, layers: Any, record: dict[str, Any]) -> Any:
    """Weights are seen in every layer that has some; they are the library's own where it gives them, and weights @
    values is the context that the output projection receives.

    The record says for how many layers each comparison ran: "eager" (the library's own weights), "context", "product"
    (weights @ values is what the module computed, but a gate, a norm or a convolution changes it before the output
    projection), "points" (deformable: no matrix), "unseen" (layers without weights, refused by name).
    """
    library = eager.library_weights(model, inputs)
    seen, unseen = watched(model, inputs, look, [layer.path for layer in layers])
    if seen is None:
        raise next(iter(unseen.values()))
    paths = [layer.path for layer in layers if layer.path not in unseen]
    agree, wrong = eager.compared(seen, paths, library)
    if wrong:
        # Rounding grows from layer to layer, and the library's implementations do not always compute the same: with
        # the model itself under "eager", best in float64, nothing but a real difference is left.
        agree, wrong = alike(model, inputs, paths) or (agree, wrong)
    how = {path: seen.explained.get(path) for path in paths}
    record["eager"] = len(agree)
    for name in ("context", "product", "points"):
        record[name] = sum(one == name for one in how.values())
    record["unseen"] = len(unseen)
    if wrong:
        return f"WRONG: {wrong[0]}"
    nothing = [path for path in paths if how[path] is None and path not in agree]
    return f"weights of {nothing[0]} are compared with nothing" if nothing else True


def watched(model: Any, inputs: Any, look: Look, paths: list[str]) -> tuple[Any, dict[str, Refused]]:
    """What a capture of all layers saw that have weights, None when there is none; and why the others are refused."""
    unseen: dict[str, Refused] = {}
    while len(unseen) < len(paths):
        chosen = [path for path in paths if path not in unseen]
        try:
            watch = look.capture("weights", "context", layers=chosen, memory=2**33)
            with quiet(model), all_described(model, look.layers), watch as seen:
                model(**copy.deepcopy(dict(inputs)))
            reasons = {path: reason for path, reason in seen.missing("weights").items() if path not in unseen}
            missing = {path: Refused(reason, place=path, reason="no_weights") for path, reason in reasons.items()}
            return seen, {**unseen, **missing}
        except Refused as error:
            if error.reason != "no_weights" or error.place not in chosen:
                raise
            unseen[error.place] = error
    return None, unseen


def alike(model: Any, inputs: Any, paths: list[str]) -> Any:
    """`eager.compared` with the model itself under "eager", in float64 where it runs so, else in float32; None when it
    does not run."""
    for dtype in (torch.float64, torch.float32):
        given = {
            name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
        try:
            same = eager.under_eager(model).to(dtype)
            with accelerated(torch.device("cpu")):  # as a capture of weights has them
                library = eager.library_weights(same, given)
            seen, _ = watched(same, given, Look(same), paths)
        except Exception:
            continue
        if library and seen is not None:
            return eager.compared(seen, paths, library)
    return None


def gated(model: Any, inputs: Any, look: Look, layers: Any) -> Any:
    """The gradient of a gate is sum(context * dL/dcontext)."""
    gates = {layer.path: (layer, torch.ones(len(layer.kept or ()), requires_grad=True)) for layer in layers}
    expected: dict[str, torch.Tensor] = {}

    def watch(layer: Any) -> Any:
        def before(module: Any, args: Any, kwargs: Any) -> None:
            context = first_input(args, kwargs)
            if not context.requires_grad:
                return

            def arrived(gradient: torch.Tensor) -> None:
                product = split_heads(layer, (context.detach().double() * gradient.double()))
                found = product.sum(-1).flatten(0, -2).sum(0)
                expected[layer.path] = expected.get(layer.path, 0) + found

            context.register_hook(arrived)

        return output_projection(model, layer).register_forward_pre_hook(before, with_kwargs=True)

    with torch.random.fork_rng(), unfolded([model.get_submodule(path) for path in gates]):
        torch.manual_seed(0)
        handles = [watch(layer) for layer in layers]
        try:
            with put(model, gates):
                found = [one for one in differentiable(model(**copy.deepcopy(dict(inputs)))) if one.requires_grad]
                if not found:
                    return "no output depends on a gate"
                # Inside the block: what is recomputed on the way back passes the gates again.
                loss = sum((one.float() * torch.linspace(-1, 1, one.numel()).view(one.shape)).mean() for one in found)
                loss.backward()
        finally:
            for handle in handles:
                handle.remove()
            model.zero_grad()
    if not expected:
        return "no gradient reached a gate"
    for path, right in expected.items():
        if not right.isfinite().all():
            continue
        gate = gates[path][1].grad
        if gate is None or not torch.allclose(gate.double(), right, atol=1e-4 * float(right.abs().max()) + 1e-9):
            return f"gate gradient of {path} differs"
    return True


def differentiable(value: Any) -> list[torch.Tensor]:
    """Floating tensors of an output, with their graph."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [one for entry in value.values() for one in differentiable(entry)]
    if isinstance(value, list | tuple):
        return [one for entry in value for one in differentiable(entry)]
    return []


def choice(layers: Any) -> dict[str, list[int]]:
    """Different attention heads in every layer."""
    return {layer.path: [index % layer.heads] for index, layer in enumerate(layers) if layer.heads > 1}


def pruned(make: Any, active: Any) -> dict[str, Any]:
    """Pruning in the form that each layer allows: masked = pruned, loaded again, twice, and whole layers."""
    heads = choice(active)
    if not heads:
        return {"outcome": "refused", "reason": "not_a_head", "why": "every layer has one attention head"}
    whole, inputs = make()
    try:
        with Look(whole).mask_heads(heads):
            outputs(whole, inputs)
    except Exception as error:
        return {"outcome": "refused", "reason": getattr(error, "reason", "CRASH"), "why": f"mask: {error}"[:300]}
    model, _ = make()
    look = Look(model)
    try:
        done = look.prune_heads(heads, check=inputs)
    except Refused as error:
        return {"outcome": "refused", "reason": error.reason, "why": str(error)[:300]}
    except Exception as error:
        return {"outcome": "CRASH", "why": f"{type(error).__name__}: {error}"[:300]}
    forms = {entry["form"] for entry in done.layers} - {"whole"}
    result: dict[str, Any] = {"outcome": "soft" if "soft" in forms else "hard", "forms": sorted(forms)}
    result |= softened(model, done.layers)
    result["masked"] = attempt(lambda: verdict(unlike(whole, heads, model, inputs)))
    result["proves"] = bool(done.check and done.check.proves)
    result["batches"] = attempt(lambda: batches(whole, model, inputs, heads))
    result["loaded"] = attempt(lambda: loaded(model, make, inputs))
    result["twice"] = attempt(lambda: twice(model, make, inputs, active, heads))
    result["empty"] = attempt(lambda: emptied(make, active))
    return result


ONE_SIZE = "the inputs have one size alone"
#: rows and positions that collide with numbers of attention heads before (2, 4, ...) and after (1, 3) pruning
SIZES = ((1, 4), (3, 4), (4, 3), (4, 4), (2, 2), (9, 7))


def batches(whole: Any, model: Any, inputs: Mapping[str, Any], heads: Any) -> Any:
    """Masked = pruned on batches of other sizes than those of the check, where the unpruned model takes them."""
    compared = 0
    for rows, length in SIZES:
        other = of_size(inputs, rows, length)
        if other is None:
            continue
        try:
            with Look(whole).mask_heads(heads):
                masked = outputs(whole, other)
        except Exception:
            continue
        if not all(bool(output.isfinite().all()) for output in masked):
            continue
        compared += 1
        difference = unlike(whole, heads, model, other)
        if difference > TOLERANCE:
            return verdict(difference, where=f" with {rows} rows of {length}")
    return True if compared else ONE_SIZE


def of_size(inputs: Mapping[str, Any], rows: int, length: int) -> dict[str, Any] | None:
    """The inputs with so many rows, and so many tokens where there are ids alone; None where rows cannot be told."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    if len({len(value) if value.dim() else 0 for value in tensors.values()}) != 1:
        return None
    other = {name: value.repeat(rows, *[1] * (value.dim() - 1))[:rows] for name, value in tensors.items()}
    if all(value.dim() == 2 and not value.is_floating_point() for value in tensors.values()):
        other = {name: value.repeat(1, length)[:, :length] for name, value in other.items()}
    return {**inputs, **other}


def softened(model: Any, lines: Any) -> dict[str, Any]:
    """Why layers could not be cut: "soft_why" has the path, the class and the reason of the first of each kind."""
    found: dict[str, str] = {}
    for line in lines:
        if line["form_reason"]:
            kind = type(model.get_submodule(line["path"])).__name__
            found.setdefault(kind, f"{line['path']} {kind}: {line['form_reason']}"[:300])
    return {"soft_why": list(found.values())} if found else {}


def loaded(model: Any, make: Any, inputs: Any) -> Any:
    """A fresh model with the manifest and the weights gives the same numbers exactly."""
    fresh, _ = make()
    rebuild(fresh, copy.deepcopy(alterations(model)["lens"]))
    fresh.load_state_dict(model.state_dict())
    return True if gap(outputs(model, inputs), outputs(fresh, inputs)) == 0 else "WRONG after loading"


def twice(model: Any, make: Any, inputs: Any, active: Any, heads: Any) -> Any:
    """One more attention head in every layer that has one to spare."""
    more = {layer.path: sorted({*heads[layer.path], layer.heads - 1, 0}) for layer in active if layer.heads > 3}
    if not more:
        return True
    whole, _ = make()
    Look(model).prune_heads(more, check=inputs)
    # Two prunings, two roundings.
    return verdict(unlike(whole, {**heads, **more}, model, inputs, 2 * TOLERANCE), 2 * TOLERANCE)


def emptied(make: Any, active: Any) -> Any:
    """All attention heads of the first and of the last layer."""
    whole, inputs = make()
    everything = {layer.path: list(range(layer.heads)) for layer in (active[0], active[-1])}
    model, _ = make()
    Look(model).prune_heads(everything, check=inputs)
    return verdict(unlike(whole, everything, model, inputs))
