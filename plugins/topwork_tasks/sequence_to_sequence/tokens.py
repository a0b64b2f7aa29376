"""Tokens of sequence-to-sequence tasks: one tokenizer or two, languages, prompts, where targets start and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from topwork import Base, Json, State, UsageError
from topwork_tasks._text import inputs as text
from topwork_tasks._text.generation import bounded_length, length_behind_prompt
from topwork_tasks.sequence_to_sequence.options import TARGET_LENGTH, Seq2SeqOptions

Form = Literal["seq2seq", "pair", "source", "prompt"]


def form_of_bases(bases: Mapping[str, Base]) -> Form:
    """Return what the bases make; see the table in `task`.

    Raises:
        UsageError: the only base is neither an encoder-decoder nor a decoder.
    """
    if set(bases) == {"encoder", "decoder"}:
        return "pair"
    base = bases["base"]
    whole = bool(getattr(base.config, "is_encoder_decoder", False))
    if "source" in bases:
        if not whole:
            raise UsageError(f"`{base.config.model_type}` is no sequence-to-sequence model", place="base.base")
        return "source"
    if whole:
        return "seq2seq"
    if text.is_causal(base.config):
        return "prompt"
    raise UsageError(
        f"`{base.config.model_type}` is an encoder: it generates nothing",
        place="base",
        hint="give a sequence-to-sequence model, a decoder, or two bases: `base: {encoder: ..., decoder: ...}`",
    )


def is_shared(config: Any) -> bool:
    """Return whether a config says that encoder and decoder have one copy of weights.

    transformers 4 wrote the entry and obeyed it; transformers 5 reads it, and fills the decoder with random weights.
    """
    return config.model_type == "encoder-decoder" and bool(getattr(config, "tie_encoder_decoder", False))


def learn_tokenizers(bases: Mapping[str, Base], texts: Callable[..., Any], options: Seq2SeqOptions) -> State:
    """Find or learn the tokenizer of each base: the encoder's from sources, the decoder's from targets.

    One for both where there is one base, the weights are shared, or both bases have the same tokenizer: it then lies
    at the top of a model folder, where `AutoTokenizer` looks.
    """
    form = form_of_bases(bases)
    if options.share and form != "pair" and not is_shared(next(iter(bases.values())).config):
        raise UsageError(
            "`share` is for two bases, `encoder` and `decoder`",
            hint="write `base: {encoder: ..., decoder: ...}`, or leave it out",
        )
    two = _two_tokenizers(bases["base"]) if form == "seq2seq" else None
    if two is not None:
        return State({"token_changes": {"base": {}}, "generation": None}, two)
    sides: dict[str, tuple[str, ...]] = {"base": ("source", "target")}
    if form == "pair":
        sides = {"encoder": ("source",), "decoder": ("target",)}
        if options.share:
            sides = dict.fromkeys(sides, ("source", "target"))
    elif form == "source":
        sides = {"source": ("source",), "base": ("target",)}
    changes: dict[str, Json] = {}
    processors = {}
    for role, wanted in sides.items():
        tokenizer, changes[role] = text.find_tokenizer(bases[role], texts(*wanted), options.tokenizer)
        processors["tokenizer" if len(bases) == 1 else f"{role}/tokenizer"] = tokenizer
    first, *others = processors.values()
    if all(_is_same(first, tokenizer) for tokenizer in others):
        processors = {"tokenizer": first}
    return State({"token_changes": changes, "generation": None}, processors)


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two tokenizers make the same tokens of every text."""
    if not (getattr(first, "is_fast", False) and getattr(second, "is_fast", False)):
        return False
    written = [tokenizer.backend_tokenizer.to_str() for tokenizer in (first, second)]
    settings = [
        (tokenizer.special_tokens_map, tokenizer.padding_side, tokenizer.model_max_length, tokenizer.model_input_names)
        for tokenizer in (first, second)
    ]
    return written[0] == written[1] and settings[0] == settings[1]


def _two_tokenizers(base: Base) -> dict[str, Any] | None:
    """Return the tokenizers of an encoder and a decoder in one folder; None when one tokenizer serves both.

    The decoder's lies in its folder `decoder`, the encoder's in `encoder` or beside the weights.

    Raises:
        UsageError: there is one tokenizer, and encoder and decoder have vocabularies of their own.
    """
    if getattr(base.config, "model_type", "") != "encoder-decoder":
        return None
    kinds = ("encoder/tokenizer", "decoder/tokenizer")
    whole = base.processor("tokenizer")
    saved = {kind: base.processor(kind) for kind in kinds}
    if saved[kinds[1]] is not None and (saved[kinds[0]] or whole) is not None:
        both = {kinds[0]: saved[kinds[0]] or whole, kinds[1]: saved[kinds[1]]}
        for kind, tokenizer in both.items():
            text.give_padding(tokenizer, f"base, {kind}")
        return both
    sizes = [getattr(part, "vocab_size", None) for part in (base.config.encoder, base.config.decoder)]
    if whole is not None and sizes[0] != sizes[1]:
        raise UsageError(
            f"there is one tokenizer, but the encoder knows {sizes[0]} tokens and the decoder {sizes[1]}",
            place="base",
            hint="save the encoder's tokenizer into the folder `encoder`, the decoder's into `decoder`",
        )
    return None


class Sides:
    """Tokenizers of source and target, and how texts become tokens with them.

    Attributes:
        positions: positions of the model that writes; None when they are not counted.
        limit: tokens of a source, at most. target_limit: tokens of a target, at most.
        start: first input of the decoder; None when the model does that itself from the labels' end (mBART).
        end: the last token of a target.
        language: the token of the target's language, or None.
        shifts: whether the decoder's inputs are made here, with their mask: transformers would mask a start token that
            is the padding token too (GPT-2's).
    """

    def __init__(self, bases: Mapping[str, Base], options: Seq2SeqOptions, state: State) -> None:
        self.form, self.options = form_of_bases(bases), options
        names = {"pair": ("encoder", "decoder"), "source": ("source", "base")}.get(self.form, ("base", "base"))
        two = ("encoder", "decoder") if self.form == "seq2seq" else names
        whole = state.processors.get("tokenizer")
        self.source, self.target = (whole or state.processors[f"{name}/tokenizer"] for name in two)
        self.padding = self.source.padding_side
        config = bases[names[1]].config
        self.start, self.end = self._ends({**config.to_dict(), **state.values["token_changes"][names[1]]})
        self.shifts = self.form == "pair" or (self.form == "seq2seq" and config.model_type == "encoder-decoder")
        self.language = self._languages()
        self.positions, self.target_limit = self._target_lengths(config)
        if config.model_type == "mbart":  # its decoder starts with what its targets end with
            self.start = self._targets([""])[0][-1]
        first = bases[names[0]].config
        inner = first.encoder if first.model_type == "encoder-decoder" else first
        limit = text.length_limit(inner, self.source, options.max_source_length)
        self.limit = options.max_source_length or limit

    def _ends(self, config: Mapping[str, Any]) -> tuple[int | None, int]:
        tokenizer = self.target
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise UsageError("the target's tokenizer has no end token", hint="give it an `eos_token`")
        if self.form in ("seq2seq", "source") and config.get("decoder_start_token_id") is not None:
            return config["decoder_start_token_id"], end
        starts = (tokenizer.bos_token_id, tokenizer.cls_token_id, end)
        return next(token for token in starts if token is not None), end

    def _target_lengths(self, config: Any) -> tuple[int | None, int]:
        """Return the positions of the model that writes, and the tokens of a target that they leave room for."""
        part = getattr(config, "decoder", None)
        config = part if part is not None and hasattr(part, "model_type") else config
        positions = text.position_limit(config, self.target.pad_token_id, decoder=True)
        requested = self.options.max_target_length
        if self.form == "prompt":
            limit = length_behind_prompt("max_target_length", requested, TARGET_LENGTH, positions)
        else:
            cause = f"the model that writes has {positions} positions"
            limit = bounded_length("max_target_length", requested, TARGET_LENGTH, positions, cause)
        return positions, limit

    def _languages(self) -> int | None:
        """Set the tokenizer's languages, when it knows any, and return the token of the target's."""
        options = self.options
        knows = self.form in ("seq2seq", "source") and hasattr(self.target, "tgt_lang")
        if not knows:
            return None
        if options.source_language:
            _language_token(self.source, options.source_language)
            self.source.src_lang = options.source_language
        if options.target_language is None:
            return None
        self.target.tgt_lang = options.target_language
        return _language_token(self.target, options.target_language)

    def forced_language(self) -> int | None:
        """Return the language token, when targets begin with it: generation must too."""
        first = self._targets([""])[0][0] if self.language is not None else None
        return self.language if first == self.language else None

    def encode(
        self, sources: Sequence[str], targets: Sequence[str] | None
    ) -> Iterator[tuple[list[int], list[int] | None]]:
        """Yield (input ids, labels or None) of each text."""
        if not sources:
            return
        labels: Sequence[list[int] | None] = [None] * len(sources) if targets is None else self._targets(targets)
        if self.form == "prompt":
            for source, target in zip(sources, labels):
                prompt = self._prompt(source)
                yield (prompt, None) if target is None else (prompt + target, [-100] * len(prompt) + target)
            return
        written = [self.options.prefix + source for source in sources]
        encoded = self.source(written, truncation=self.limit is not None, max_length=self.limit)["input_ids"]
        for ids, target in zip(encoded, labels):
            yield list(ids) or [self.end], target

    def _targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of targets up to their end; without the start token, which is the decoder's first input."""
        limit = self.target_limit
        if self.form == "prompt":
            encoded = self.target(list(texts), add_special_tokens=False)["input_ids"]
        else:
            named = {"text_target": list(texts)} if self.form in ("seq2seq", "source") else {"text": list(texts)}
            encoded = self.target(**named, truncation=True, max_length=limit + 1)["input_ids"]
        targets = []
        for ids in encoded:
            ids = list(ids[1:] if ids and ids[0] == self.start and self.form != "prompt" else ids)
            ended = self.end in ids[-2:]  # behind the end there may be a language token
            tail = ids[-1:] if ended and ids[-1] != self.end else []
            body = ids[: len(ids) - 1 - len(tail)] if ended else ids
            targets.append([*body[: max(0, limit - 1 - len(tail))], self.end, *tail])
        return targets

    def _prompt(self, source: str) -> list[int]:
        """Return the prompt with the source in it, cut inside the source so that there is room for the target."""

        def written(string: str) -> list[int]:
            ids = self.source(self.options.prompt.replace("{source}", self.options.prefix + string))["input_ids"]
            return ids[:-1] if ids and ids[-1] == self.end else ids  # the text is to go on

        ids = written(source)
        new = max(self.target_limit, self.options.generation.max_new_tokens or 0)
        bounds = [self.options.max_source_length, None if self.positions is None else self.positions - new]
        room = min((max(1, bound) for bound in bounds if bound is not None), default=None)
        if room is not None and len(ids) > room:
            inner = self.source(source, add_special_tokens=False)["input_ids"]
            ids = written(self.source.decode(inner[: max(0, len(inner) - (len(ids) - room) - 2)]))[-room:]
        return list(ids) or [self.end]


def _language_token(tokenizer: Any, language: str) -> int:
    name = tokenizer.get_lang_token(language) if hasattr(tokenizer, "get_lang_token") else language
    token = tokenizer.convert_tokens_to_ids(name)
    if token is None or token == tokenizer.unk_token_id:
        known = [str(token) for token in tokenizer.all_special_tokens][:8]
        raise UsageError(
            f"the tokenizer does not know the language `{language}`", hint=f"its codes are written like {known}"
        )
    return int(token)
