"""Tokenizers learned from rows, for bases that are a config and bring none.

The same texts must give the same tokenizer in every process, or the same recipe would give other numbers. Of the
trainers in `tokenizers` only the one for BPE, with its alphabet given, keeps to that; those for WordPiece and Unigram
order ties by a hash that differs from process to process. So WordPiece is learned by way of the BPE trainer, and
Unigram is not offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SHIFT = 0xF0000  # a plane of Unicode without characters of its own: letters inside words go there while learning


class TokenizerOptions(BaseModel):
    """How a tokenizer is learned from the rows, when the base is a config and brings none."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["wordpiece", "bpe"] = Field("wordpiece", description="the algorithm; bpe is byte-level")
    vocab_size: PositiveInt = Field(8000, description="the largest vocabulary to learn")
    lowercase: bool = Field(True, description="fold case, and strip accents (wordpiece)")
    min_frequency: PositiveInt = Field(2, description="leave out pairs that are rarer than this")


class WritingTokenizerOptions(TokenizerOptions):
    """The same for tasks that write: by default a text comes back out of its tokens as it was, case and spaces too,
    whatever else is said of the tokenizer."""

    kind: Literal["wordpiece", "bpe"] = Field("bpe", description="the algorithm; bpe is byte-level")
    lowercase: bool = Field(False, description="fold case, and strip accents (wordpiece)")


def learn_tokenizer(texts: Iterable[str], options: TokenizerOptions, template: bool = True) -> Any:
    """A fast tokenizer with [PAD] [UNK] [CLS] [SEP] [MASK] as tokens 0 to 4. With `template` it puts [CLS] before a
    text and [SEP] behind each; without, it adds nothing (language models)."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    made = (_wordpiece if options.kind == "wordpiece" else _bytes)(texts, options)
    start, end = _SPECIAL["cls"], _SPECIAL["sep"]
    if template:
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            pair=f"{start} $A {end} $B:1 {end}:1",
            special_tokens=[(token, made.token_to_id(token)) for token in (start, end)],
        )
    names = {f"{kind}_token": token for kind, token in _SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=start, eos_token=end, **names)


def _trainer(options: TokenizerOptions, alphabet: list[str]) -> Any:
    from tokenizers import trainers

    return trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )


def _bytes(texts: Iterable[str], options: TokenizerOptions) -> Any:
    """Byte-level BPE (Radford et al. 2019, section 2.2): every text can be written, nothing is unknown, and without
    `lowercase` it comes back byte by byte, composed and combining letters too."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    made = tokenizers.Tokenizer(models.BPE(unk_token=_SPECIAL["unk"]))
    if options.lowercase:
        made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(texts, _trainer(options, sorted(pre_tokenizers.ByteLevel.alphabet())))
    return made


def _wordpiece(texts: Iterable[str], options: TokenizerOptions) -> Any:
    """WordPiece, its vocabulary learned as `tokenizers` does, by merging the most frequent pair. A letter inside a word
    is another symbol than the same letter at its beginning ("##e", "e"): it is shifted to another plane of Unicode, the
    BPE trainer merges, and what begins with a shifted letter gets its "##"."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(lowercase=options.lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    numbers: dict[str, str] = {}

    def shifted(text: str) -> str:
        words = (word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
        return " ".join(word[0] + "".join(_inside(letter, numbers) for letter in word[1:]) for word in words)

    lines = [shifted(text) for text in texts]
    letters = {sign: letter for letter, sign in numbers.items()}
    seen = {letters.get(letter, letter) for letter in set().union(*lines)} - {" "}
    alphabet = [*seen, *(_inside(letter, numbers) for letter in sorted(seen))]  # each at the beginning and inside
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(lines, _trainer(options, sorted(alphabet)))
    letters = {sign: letter for letter, sign in numbers.items()}
    vocabulary: dict[str, int] = {}
    for token, _ in sorted(bpe.get_vocab().items(), key=lambda entry: entry[1]):
        plain = "".join(letters.get(letter, letter) for letter in token)
        vocabulary["##" + plain if token[0] in letters else plain] = len(vocabulary)
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL["unk"]))
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece()
    made.add_special_tokens(list(_SPECIAL.values()))
    return made


def _inside(letter: str, numbers: dict[str, str]) -> str:
    return numbers.setdefault(letter, chr(_SHIFT + len(numbers)))
