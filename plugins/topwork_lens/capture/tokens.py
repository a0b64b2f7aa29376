"""Tokens of the keys: which positions are special tokens or separators, read from what the model embeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from topwork_lens.activations.hooks import Hook
from topwork_lens.capture.attention_call import AttentionCall
from topwork_lens.model_state import text_config
from topwork_lens.scope import Scope


class TokenKinds:
    """Masks of kinds of tokens among the keys of an attention computation.

    Args:
        model: whose token embeddings are watched.
        ids: token ids by name of the kind.
        names: kinds that will be wanted; nothing is watched when none of them is a kind of token.
    """

    def __init__(self, model: nn.Module, ids: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
        self.model, self.ids = model, ids
        self.wanted = any(name in ids for name in names)
        #: [items, positions] that were embedded last, by whether a decoder embedded them
        self.embedded: dict[bool, torch.Tensor] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the embeddings of tokens for the time of the block."""
        if not self.wanted:
            yield
            return
        decoding: list[bool] = []
        with ExitStack() as stack:
            scope = stack.enter_context(Scope())

            def enter(*_: Any) -> None:
                decoding.append(True)

            def leave(*_: Any) -> None:
                if decoding:
                    decoding.pop()

            def embed(module: nn.Module, args: tuple, output: Any) -> None:
                if args and args[0].dim() == 2:
                    self.embedded[bool(decoding)] = args[0].detach()

            for path, module in self.model.named_modules():
                if path.rpartition(".")[2] == "decoder":
                    stack.callback(module.register_forward_pre_hook(Hook(scope, enter)).remove)
                    stack.callback(module.register_forward_hook(Hook(scope, leave), always_call=True).remove)
            for embedding in _token_embeddings(self.model):
                stack.callback(embedding.register_forward_hook(Hook(scope, embed)).remove)
            yield

    def __call__(self, call: AttentionCall, name: str) -> torch.Tensor | None:
        """Return [items, keys] booleans; None when the tokens of the keys are not known."""
        items, _, _, keys = call.shape
        decoder = call.layer.side == "decoder" and call.layer.kind == "self" and True in self.embedded
        tokens = self.embedded.get(decoder)
        if tokens is None or tokens.shape != (items, keys) or not self.ids.get(name):
            return None
        return torch.isin(tokens, torch.tensor(list(self.ids[name]), device=tokens.device))


def _token_embeddings(model: nn.Module) -> list[nn.Module]:
    """Return the embeddings of tokens, each once; not those of positions and the like."""
    embeddings: dict[int, nn.Module] = {}
    for module in model.modules():
        if callable(getter := getattr(module, "get_input_embeddings", None)):
            try:
                embedding = getter()
            except (NotImplementedError, AttributeError):
                continue
            if isinstance(embedding, nn.Embedding):
                embeddings[id(embedding)] = embedding
    return list(embeddings.values())


def token_ids(tokenizer: Any, config: Any) -> dict[str, list[int]]:
    """Return the ids of "special" and "separator" tokens that a tokenizer, or else a config, knows.

    Tokens that mask and pad are not among them.
    """
    names = ("bos", "cls", "sep", "eos")
    source = tokenizer if tokenizer is not None else config
    text = text_config(source)
    by_name: dict[str, list[int]] = {}
    for name in names:
        value = getattr(text, f"{name}_token_id", None)
        values = value if isinstance(value, list | tuple) else [value]
        by_name[name] = [index for index in values if isinstance(index, int)]
    special = sorted({index for indices in by_name.values() for index in indices})
    separator = by_name["sep"] or by_name["eos"]
    return {kind: ids for kind, ids in (("special", special), ("separator", separator)) if ids}
