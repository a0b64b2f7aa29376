"""What transformers 4 had: the procedure of its run_bertology, served to a benchmark by a process of its own.

`Reference` makes a folder with transformers 4 (once; torch is the one that is installed), starts this file with it, and
asks it to run one thing at a time, so that both sides can take turns. The procedure is stated here in own words: a head
mask that requires a gradient, eager attention with its weights kept, every row padded to one length, backward through
all parameters, entropies of all attention heads; a mask search scores anew after every tenth of the attention heads.
Two mistakes of the script are mended, for it does not run with them: the mask's gradient is cleared between batches,
and the mask is copied before it is changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: the last 4.x, and the youngest of its two dependencies that it accepts
PACKAGES = ("transformers==4.57.6", "huggingface-hub<1", "tokenizers<0.23")
HERE = Path(__file__).parent


# ---------------------------------------------------------------- the side that asks


def environment() -> Path:
    """The folder with transformers 4, made when there is none."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "topwork-benchmarks" / PACKAGES[0]
    if not (folder / "transformers").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *PACKAGES]
        subprocess.run(command, check=True)
    return folder


class Reference:
    """A process with transformers 4 and the model of a folder.

    Args:
        folder: of a BERT for sequence classification, with `rows.safetensors` beside it: "ids" [rows, longest], 0 where
            a row has ended, and "labels" [rows].
    """

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join([str(environment()), str(HERE)])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bertology_v4.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            text=True,
        )

    def ask(self, what: str, **options: Any) -> dict[str, Any]:
        """The answer of one of `WORK`, with the CPU "seconds" that it took (with peak=True its "peak" bytes)."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"what": what, **options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------- the side that answers


def padded(data: Any, size: int, longest: int) -> Iterator[dict[str, Any]]:
    """Batches in the order of the rows, every row padded to `longest`."""
    import torch

    ids = torch.nn.functional.pad(data["ids"], (0, longest - data["ids"].shape[1]))
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        yield {"input_ids": part, "attention_mask": (part > 0).long(), "labels": data["labels"][start : start + size]}


def scores(model: Any, batches: Any, mask: Any, entropies: bool) -> tuple[Any, Any, float]:
    """Importance and entropy [layers, heads], and the accuracy: all from one pass over the batches."""
    import torch

    leaf = mask.clone().requires_grad_()
    importance, entropy, right, rows, tokens = torch.zeros_like(mask), torch.zeros_like(mask), 0, 0, 0
    for batch in batches:
        output = model(**batch, head_mask=leaf, output_attentions=True)
        output.loss.backward()
        if entropies:
            for number, weights in enumerate(output.attentions):
                weights = weights.detach()
                terms = torch.where(weights > 0, weights * weights.log(), 0).sum(-1)
                entropy[number] -= (terms * batch["attention_mask"][:, None]).sum((0, 2))
        importance += leaf.grad.abs()
        leaf.grad = None
        right += int((output.logits.argmax(-1) == batch["labels"]).sum())
        rows += len(batch["labels"])
        tokens += int(batch["attention_mask"].sum())
    importance /= importance.square().sum(-1, keepdim=True).sqrt() + 1e-20
    return importance, entropy / tokens, right / rows


def importance(model: Any, data: Any, size: int = 1, longest: int = 128) -> dict[str, Any]:
    """One pass for importance and entropies."""
    import torch

    found, _, accuracy = scores(model, padded(data, size, longest), torch.ones(*heads_of(model)), True)
    return {"importance": found.tolist(), "accuracy": accuracy}


def search(model: Any, data: Any, size: int = 8, longest: int = 128, threshold: float = 0.9) -> dict[str, Any]:
    """The mask search: a tenth of the attention heads at a time until the accuracy falls."""
    import torch

    mask = torch.ones(*heads_of(model))
    at_once = max(1, mask.numel() // 10)
    found, _, first = scores(model, padded(data, size, longest), mask, False)
    best, passes = mask, 1
    while mask.sum() > 0:
        order = found.masked_fill(mask == 0, float("inf")).flatten().argsort()
        mask = mask.clone()
        mask.view(-1)[order[: min(at_once, int(mask.sum()))]] = 0
        found, _, accuracy = scores(model, padded(data, size, longest), mask, False)
        passes += 1
        if accuracy < threshold * first:
            break
        best = mask
    gone = {number: (row == 0).nonzero().flatten().tolist() for number, row in enumerate(best)}
    return {"gone": gone, "passes": passes, "accuracy": first}


def heads_of(model: Any) -> tuple[int, int]:
    return model.config.num_hidden_layers, model.config.num_attention_heads


WORK: dict[str, Callable[..., dict[str, Any]]] = {"importance": importance, "search": search}


def main() -> None:
    from allocated import peak_bytes
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, __version__

    assert __version__.startswith("4."), __version__
    folder = Path(sys.argv[1])
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    data = load_file(folder / "rows.safetensors")
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        options = json.loads(line)
        work, peak = WORK[options.pop("what")], options.pop("peak", False)
        count = options.pop("rows", None)
        chosen = {name: tensor[:count] for name, tensor in data.items()}
        answer: dict[str, Any] = {}
        start = time.process_time()
        if peak:
            answer["peak"] = peak_bytes(
                lambda work=work, chosen=chosen, options=options: work(model, chosen, **options)
            )
        else:
            answer |= work(model, chosen, **options)
        answer["seconds"] = time.process_time() - start
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
