"""What text tasks share: finding or learning the tokenizer, how long a text may be, padding, names of tokens.

A base from weights brings its tokenizer; for a base from a config one is learned from the rows, with the special tokens
that the architecture needs, and the config follows it (`token_changes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Base, Batch, DataError, Item, Json, Mode, Row, TopworkError, Units, UsageError
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer

if TYPE_CHECKING:
    import torch

#: architectures whose positions begin behind the padding token's number, so that fewer are usable
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "longformer"}
    | {"esm", "ibert", "luke", "mpnet"}
)


# ---------------------------------------------------------------- the tokenizer


def find_tokenizer(
    base: Base, texts: Iterable[str] | None, options: TokenizerOptions, template: bool = True
) -> tuple[Any, dict[str, Json]]:
    """The base's tokenizer, or one learned from the texts; and the config changes that go with it.

    Returns:
        (tokenizer, changes): `changes` are for `Base.native` and `Base.backbone`. A tokenizer without a padding token
        (most decoders) uses its end token for padding.
    """
    tokenizer = base.processor("tokenizer")
    learned = tokenizer is None
    if tokenizer is None:
        if not base.scratch:
            raise TopworkError("the base has no tokenizer", place=_name(base), hint="name one: `base.processor`")
        if texts is None:
            raise TopworkError(
                "there are no texts to learn a tokenizer from", place=_name(base), hint="give training rows"
            )
        tokenizer = learn_tokenizer(texts, options, template)
        limit = position_limit(base.config, tokenizer.pad_token_id)
        if limit is not None:
            tokenizer.model_max_length = limit
        if getattr(base.config, "type_vocab_size", 0) < 2:
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
    give_padding(tokenizer, _name(base))
    return tokenizer, token_changes(base, tokenizer, learned)


def give_padding(tokenizer: Any, place: str) -> None:
    """Let a tokenizer without a padding token pad with its end token.

    Raises:
        TopworkError: it has no token that could.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    if tokenizer.pad_token_id is None:
        raise TopworkError("its tokenizer has no token that could pad", place=place, hint="give it a pad token")


def token_changes(base: Base, tokenizer: Any, learned: bool) -> dict[str, Json]:
    """Config entries that follow from a tokenizer: the padding token always; vocabulary and special tokens when the
    tokenizer was learned, or does not fit into a base without weights."""
    changes: dict[str, Json] = {"pad_token_id": tokenizer.pad_token_id}
    config = base.config.get_text_config() if hasattr(base.config, "get_text_config") else base.config
    size = getattr(config, "vocab_size", None)
    if learned or (base.scratch and size is not None and size < len(tokenizer)):
        changes["vocab_size"] = len(tokenizer)
        if hasattr(config, "decoder_vocab_size"):
            changes["decoder_vocab_size"] = len(tokenizer)
        numbers = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        }
        changes.update({key: value for key, value in numbers.items() if hasattr(config, key) and value is not None})
        if getattr(config, "is_encoder_decoder", False):
            changes["decoder_start_token_id"] = tokenizer.bos_token_id
    elif size is not None and size < len(tokenizer):
        raise TopworkError(
            f"the tokenizer has {len(tokenizer)} tokens, the model knows {size}",
            place=_name(base),
            hint="take the tokenizer that belongs to the model",
        )
    return changes


def column_texts(rows: Any, columns: Sequence[str]) -> Iterator[str] | None:
    """Every text of some columns, for learning a tokenizer; None without rows."""
    if rows is None:
        return None
    return (str(row[column]) for row in rows for column in columns if row.get(column) is not None)


def model_inputs(base: Base, tokenizer: Any, auto: str = "AutoModel") -> list[str]:
    """Names of the tokenizer's outputs that the architecture takes: a RoBERTa tokenizer on a model without token types
    must not hand them over."""
    import inspect

    import transformers

    mapping = getattr(transformers, auto)._model_mapping
    found = mapping.get(type(base.config), None)
    if found is None:
        return list(tokenizer.model_input_names)
    found = found[0] if isinstance(found, list | tuple) else found
    taken = inspect.signature(found.forward).parameters
    return [name for name in tokenizer.model_input_names if name in taken]


def _name(base: Base) -> str:
    return f"base {base.options.model or 'config:' + str(getattr(base.config, 'model_type', ''))}"


# ---------------------------------------------------------------- lengths


def position_limit(config: Any, pad: int) -> int | None:
    """How many positions a model has, given its padding token; None when they are not counted (relative ones)."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        limit -= pad + 1
    return limit


def length_limit(config: Any, tokenizer: Any, asked: int | None) -> int | None:
    """The longest text in tokens: what was asked for, within the model's positions; else what tokenizer and model
    allow. None when nothing limits it.

    Raises:
        UsageError: more was asked for than the model has positions.
    """
    limit = position_limit(config, tokenizer.pad_token_id)
    if asked is not None:
        if limit is not None and asked > limit:
            raise UsageError(
                f"`max_length` is {asked}, the model has {limit} positions", hint=f"set it to {limit} or less"
            )
        return asked
    told = tokenizer.model_max_length
    bounds = [bound for bound in (limit, told if told and told < 1_000_000 else None) if bound is not None]
    return min(bounds) if bounds else None


# ---------------------------------------------------------------- rows and batches


def text_of(row: Row, number: int, column: str) -> str:
    """A row's text; what is no string is refused."""
    if column not in row:
        raise DataError("is missing", row=number, column=column, hint="map it in `data.columns`")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"is {type(value).__name__}, not text", row=number, column=column, hint="make it a string")
    return value


def pad_tokens(tokenizer: Any, items: Sequence[Item], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """[items, longest] long tensors of the named inputs, padded on the tokenizer's side as `tokenizer.pad` does."""
    return {
        name: pad_lists([item.inputs[name] for item in items], _fill(tokenizer, name), tokenizer.padding_side)
        for name in names
    }


def _fill(tokenizer: Any, name: str) -> int:
    if name == "input_ids":
        return tokenizer.pad_token_id
    return tokenizer.pad_token_type_id if name == "token_type_ids" else 0


def pad_lists(lists: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Lists of integers -> [lists, longest], long."""
    import torch

    longest = max(len(entry) for entry in lists)
    result = torch.full((len(lists), longest), value, dtype=torch.long)
    for index, entry in enumerate(lists):
        start = longest - len(entry) if side == "left" else 0
        result[index, start : start + len(entry)] = torch.tensor(entry, dtype=torch.long)
    return result


def labelled_batch(tokenizer: Any, items: Sequence[Item], names: Sequence[str], mode: Mode) -> Batch:
    """Items whose tokens have a target each (`labels`, -100 for none), padded; without targets in mode predict."""
    inputs = pad_tokens(tokenizer, items, names)
    if mode != "predict":
        inputs["labels"] = pad_lists([item.inputs["labels"] for item in items], -100, tokenizer.padding_side)
    return Batch(inputs, items)


def mean_over_targets(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The loss of a batch from the sums [items] of its targets' losses and their numbers."""
    return sums.sum() / counts.sum().clamp(min=1)


def row_means_over_targets(batch: Batch, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """[rows]: the same for each row, over all of its windows."""
    return batch.mean_by_row(sums) / batch.mean_by_row(counts).clamp(min=1e-9)


def token_units(tokenizer: Any, ids: Sequence[int]) -> Units:
    """Names of tokens as a reader knows them, and which of them are special."""
    special = set(tokenizer.all_special_ids)
    names = [str(name).replace("Ġ", " ").replace("▁", " ") for name in tokenizer.convert_ids_to_tokens(list(ids))]
    return Units("token", names, [place for place, number in enumerate(ids) if number in special])


def is_causal(config: Any) -> bool:
    """Whether only the last token has seen the whole text (a decoder): then that one is pooled."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", None) is False:
        return False
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
        kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or bool(getattr(config, "is_decoder", False))
    )


def plain_inputs(batch_inputs: Mapping[str, Any], *targets: str) -> dict[str, Any]:
    """The inputs of a batch without its targets, so that the model does not compute a loss of its own."""
    return {name: value for name, value in batch_inputs.items() if name not in targets}
