"""Text front end of tasks: the tokenizer (the base's own, or learned), lengths, padding, units, costs.

Entry points: `learn_text_state` once, before a run; `TextInputs` afterwards. A base from weights brings its tokenizer;
for a base from a config one is learned from the rows, with the special tokens that the architecture needs, and the
config follows it (`token_changes`). Learning lies in `tokenizers`, windows over long texts in `windows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from topwork import Base, Batch, DataError, Item, Json, Mode, Row, State, TopworkError, Units, UsageError
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks._text.windows import ContextWindow, TextWindow, context_windows, text_windows

if TYPE_CHECKING:
    import torch

#: architectures whose positions begin behind the padding token's id, so that fewer are usable
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "longformer"}
    | {"esm", "ibert", "luke", "mpnet"}
)
#: config entries that bound the positions of a decoder, most specific first; an encoder's are the last alone
_DECODER_POSITIONS = ("max_decoder_position_embeddings", "max_target_positions", "max_position_embeddings")


def _with_tokens(names: list[str]) -> list[str]:
    if "input_ids" not in names:
        raise ValueError("has no `input_ids`, which all models of texts read")
    return names


#: type of the state's entry `inputs`: the tensors that the tokenizer makes and the model reads
InputNames = Annotated[list[str], AfterValidator(_with_tokens)]


class TextInputs:
    """Text front end of one task: texts to padded tensors, and what their positions are.

    Args:
        tokenizer: a tokenizer of transformers, with a padding token.
        names: outputs of the tokenizer that the model takes.
        config: the base's config, which bounds the length.
        max_length: tokens, at most; None for what tokenizer and model allow.
        budget: the largest count * cost of a batch of predictions on a CPU: a small batch stays in the cache,
            and a large one of varied lengths loses more by padding than it gains.

    Raises:
        UsageError: `max_length` is more than the model has positions.
    """

    def __init__(
        self, tokenizer: Any, names: Sequence[str], config: Any, max_length: int | None = None, budget: int = 512
    ) -> None:
        self.tokenizer, self.names, self.budget = tokenizer, list(names), budget
        self.max_length = length_limit(config, tokenizer, max_length)

    @classmethod
    def from_state(cls, state: State, base: Base, max_length: int | None = None) -> TextInputs:
        """Make the front end from what `learn_text_state` learned."""
        return cls(state.processors["tokenizer"], state.values["inputs"], base.config, max_length)

    def open(self, row: Row, index: int, column: str = "text") -> str:
        """Return a row's text.

        Raises:
            DataError: missing, or no string.
        """
        return text_of(row, index, column)

    def precheck(self, row: Row, *columns: str) -> None:
        """Raise the DataError of the first of the columns that holds no text."""
        for column in columns:
            text_of(row, 0, column)

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, list[int]]]:
        """Tokenize texts, or pairs of texts, cut at `max_length` (of a pair the longer text first)."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), pairs, truncation=self.max_length is not None, max_length=self.max_length)
        return [{name: encoded[name][index] for name in self.names} for index in range(len(texts))]

    def windows(self, texts: Sequence[str], stride: int) -> list[list[TextWindow]]:
        """Divide each text into windows of `max_length` tokens; see `windows.text_windows`."""
        return text_windows(self.tokenizer, texts, self.names, self.max_length, stride)

    def context_windows(
        self, questions: Sequence[str], contexts: Sequence[str], length: int, stride: int
    ) -> list[list[ContextWindow]]:
        """Pair each question with windows of its context; see `windows.context_windows`."""
        return context_windows(self.tokenizer, questions, contexts, self.names, length, stride)

    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Pad and stack the items' inputs: long tensors [items, longest]."""
        return pad_tokens(self.tokenizer, items, self.names)

    def collate_labelled(self, items: Sequence[Item], mode: Mode) -> Batch:
        """Pad items whose tokens have a target each (`labels`, -100 for none); without targets in mode "predict"."""
        inputs = self.collate(items)
        if mode != "predict":
            inputs["labels"] = pad_lists([item.inputs["labels"] for item in items], -100, self.tokenizer.padding_side)
        return Batch(inputs, items)

    def padding_before(self, item: Item, length: int) -> int:
        """Return how many padding tokens stand before an item's first token in a batch of `length` positions."""
        return length - len(item.inputs["input_ids"]) if self.tokenizer.padding_side == "left" else 0

    def units(self, item: Item) -> Units:
        """Return the names of an item's tokens."""
        return token_units(self.tokenizer, item.inputs["input_ids"])

    def cost_budget(self, device: str) -> int:
        """Return the largest count * cost of a batch of predictions."""
        return self.budget if device == "cpu" else 16384


# ---------------------------------------------------------------- the tokenizer


def learn_text_state(
    base: Base, texts: Iterable[str] | None, options: TokenizerOptions, values: Mapping[str, Json] | None = None
) -> State:
    """Find or learn the tokenizer of a task with one base, as the state that `TextInputs.from_state` reads.

    Args:
        base: the base.
        texts: what a tokenizer is learned from, when the base has none.
        options: of learning a tokenizer.
        values: what else the task learned.
    """
    tokenizer, changes = find_tokenizer(base, texts, options)
    learned = {"token_changes": changes, "inputs": model_inputs(base, tokenizer)}
    return State({**(values or {}), **learned}, {"tokenizer": tokenizer})


def find_tokenizer(
    base: Base, texts: Iterable[str] | None, options: TokenizerOptions, template: bool = True
) -> tuple[Any, dict[str, Json]]:
    """Return the base's tokenizer, or one learned from the texts; and the config changes that go with it.

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


def give_padding(tokenizer: Any, location: str) -> None:
    """Let a tokenizer without a padding token pad with its end token.

    Raises:
        TopworkError: it has no token that could.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    if tokenizer.pad_token_id is None:
        raise TopworkError("its tokenizer has no token that could pad", place=location, hint="give it a pad token")


def token_changes(base: Base, tokenizer: Any, learned: bool) -> dict[str, Json]:
    """Return the config entries that follow from a tokenizer.

    The padding token always; vocabulary and special tokens when the tokenizer was learned, or does not fit into a base
    without weights.
    """
    changes: dict[str, Json] = {"pad_token_id": tokenizer.pad_token_id}
    config = base.config.get_text_config() if hasattr(base.config, "get_text_config") else base.config
    size = getattr(config, "vocab_size", None)
    if learned or (base.scratch and size is not None and size < len(tokenizer)):
        changes["vocab_size"] = len(tokenizer)
        if hasattr(config, "decoder_vocab_size"):
            changes["decoder_vocab_size"] = len(tokenizer)
        token_ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        }
        changes.update({key: value for key, value in token_ids.items() if hasattr(config, key) and value is not None})
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
    """Return every text of some columns, for learning a tokenizer; None without rows."""
    if rows is None:
        return None
    return (str(row[column]) for row in rows for column in columns if row.get(column) is not None)


def model_inputs(base: Base, tokenizer: Any, auto: str = "AutoModel") -> list[str]:
    """Return the names of the tokenizer's outputs that the architecture takes.

    A RoBERTa tokenizer on a model without token types must not hand them over.

    Raises:
        TopworkError: the architecture reads no tokens.
    """
    import inspect

    import transformers

    model_class = getattr(transformers, auto)._model_mapping.get(type(base.config), None)
    if model_class is None:
        return list(tokenizer.model_input_names)
    model_class = model_class[0] if isinstance(model_class, list | tuple) else model_class
    parameters = inspect.signature(model_class.forward).parameters
    if "input_ids" not in parameters:
        raise TopworkError(f"`{base.config.model_type}` is no network for texts", hint="choose another base")
    return [name for name in tokenizer.model_input_names if name in parameters]


def is_causal(config: Any) -> bool:
    """Return whether only the last token has seen the whole text (a decoder): then that one is pooled."""
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


def _name(base: Base) -> str:
    return f"base {base.options.model or 'config:' + str(getattr(base.config, 'model_type', ''))}"


# ---------------------------------------------------------------- lengths


def position_limit(config: Any, pad: int, *, decoder: bool = False) -> int | None:
    """Return how many positions a model has; None when they are not counted (relative ones).

    Args:
        config: the model's config; of a model of several parts, its text part counts.
        pad: id of the padding token, behind which some models begin to count.
        decoder: look for the bound of the decoder of an encoder-decoder.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = _DECODER_POSITIONS if decoder else _DECODER_POSITIONS[-1:]
    limit = next((getattr(config, name) for name in names if isinstance(getattr(config, name, None), int)), None)
    if limit is None or limit <= 0:
        return None
    return limit - (pad + 1) if config.model_type in _OFFSET_POSITIONS else limit


def length_limit(config: Any, tokenizer: Any, requested: int | None) -> int | None:
    """Return the longest text in tokens; None when nothing limits it.

    It is what was requested, within the model's positions; else what tokenizer and model allow.

    Raises:
        UsageError: more was requested than the model has positions.
    """
    limit = position_limit(config, tokenizer.pad_token_id)
    if requested is not None:
        if limit is not None and requested > limit:
            raise UsageError(
                f"`max_length` is {requested}, the model has {limit} positions", hint=f"set it to {limit} or less"
            )
        return requested
    longest = tokenizer.model_max_length
    bounds = [bound for bound in (limit, longest if longest and longest < 1_000_000 else None) if bound is not None]
    return min(bounds) if bounds else None


# ---------------------------------------------------------------- rows and batches


def text_of(row: Row, index: int | None, column: str) -> str:
    """Return a row's text.

    Raises:
        DataError: missing, or no string.
    """
    if column not in row:
        raise DataError("is missing", row=index, column=column, hint="map it in `data.columns`")
    value = row[column]
    if value is None:
        raise DataError("is empty, not text", row=index, column=column, hint="fill it in or leave the row out")
    if not isinstance(value, str):
        raise DataError(f"is {type(value).__name__}, not text", row=index, column=column, hint="make it a string")
    return value


def pad_tokens(tokenizer: Any, items: Sequence[Item], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the named inputs as long tensors [items, longest], padded on the tokenizer's side."""
    return {
        name: pad_lists([item.inputs[name] for item in items], _fill(tokenizer, name), tokenizer.padding_side)
        for name in names
    }


def _fill(tokenizer: Any, name: str) -> int:
    if name == "input_ids":
        return tokenizer.pad_token_id
    return tokenizer.pad_token_type_id if name == "token_type_ids" else 0


def pad_lists(lists: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Return lists of integers as a long tensor [lists, longest]."""
    import torch

    longest = max(len(values) for values in lists)
    result = torch.full((len(lists), longest), value, dtype=torch.long)
    for index, values in enumerate(lists):
        start = longest - len(values) if side == "left" else 0
        result[index, start : start + len(values)] = torch.tensor(values, dtype=torch.long)
    return result


def sums_over_targets(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the cross-entropy over the targets of each item, and their number; both [items].

    Args:
        logits: [items, positions, outputs].
        labels: [items, positions], -100 where there is no target.
        smoothing: share of the target spread over all outputs (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(
        logits.float().transpose(1, 2), labels, reduction="none", ignore_index=-100, label_smoothing=smoothing
    )
    return losses.sum(1), (labels != -100).sum(1).to(losses.dtype)


def mean_over_targets(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the loss of a batch from the sums of its targets' losses and their counts, both [items]."""
    return sums.sum() / counts.sum().clamp(min=1)


def row_means_over_targets(batch: Batch, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the same for each row, over all of its windows: [rows]."""
    return batch.mean_by_row(sums) / batch.mean_by_row(counts).clamp(min=1e-9)


def token_units(tokenizer: Any, ids: Sequence[int]) -> Units:
    """Return the names of tokens as a reader knows them, and which of them are special: an unknown word is not."""
    roles = ("bos", "eos", "sep", "cls", "pad", "mask")
    unknown = {tokenizer.unk_token_id} - {getattr(tokenizer, f"{role}_token_id", None) for role in roles}
    special = set(tokenizer.all_special_ids) - unknown
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(ids))]
    if "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)):
        names = [name if token in special else _of_bytes(name) for name, token in zip(names, ids)]
    names = [name.replace("Ġ", " ").replace("▁", " ") for name in names]
    return Units("token", names, [position for position, token in enumerate(ids) if token in special])


def _of_bytes(name: str) -> str:
    """Return the text of a token of byte-level BPE, which writes each byte of UTF-8 as a character of its own.

    Bytes that print in Latin-1 stand for themselves, the others for the characters from 256 on (Radford et al. 2019,
    "Language Models are Unsupervised Multitask Learners", `bytes_to_unicode` of their code).
    """
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    bytes_ = {chr(byte): byte for byte in printing} | {chr(256 + at): byte for at, byte in enumerate(others)}
    if any(character not in bytes_ for character in name):
        return name
    return bytes(bytes_[character] for character in name).decode("utf-8", errors="replace")


def plain_inputs(batch_inputs: Mapping[str, Any], *targets: str) -> dict[str, Any]:
    """Return the inputs of a batch without its targets, so that the model does not compute a loss of its own."""
    return {name: value for name, value in batch_inputs.items() if name not in targets}
