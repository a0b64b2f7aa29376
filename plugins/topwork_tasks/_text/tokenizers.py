"""Tokenizers learned from rows, for bases that are a config and bring none.

Entry point: `learn_tokenizer`. The same texts must give the same tokenizer in every process, or the same recipe would
give different numbers. Of the trainers in `tokenizers` only the one for BPE, with its alphabet given, does so; those
for WordPiece and Unigram break ties by a hash that differs from process to process. So WordPiece is learned by way of
the BPE trainer, and Unigram is not offered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from topwork_tasks._text.words import UNSPACED_SIGN

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SHIFT = 0xF0000  # a plane of Unicode without characters of its own: letters inside words go there while learning
#: letters of a word that WordPiece reads; a longer one is [UNK]
_LONGEST_WORD = 100
#: learning is quadratic in the longest run without a break
_LONG_RUN = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}|\s{{{_LONGEST_WORD + 1},}}")
#: control, format, private and surrogate characters, but white space and the joiners of Persian and Indic scripts
_UNWANTED = r"(?![\t\n\r\u200C\u200D])[\p{Cc}\p{Cf}\p{Co}\p{Cs}]"


class TokenizerOptions(BaseModel):
    """Options of learning a tokenizer from the rows, when the base is a config and brings none."""

    model_config = ConfigDict(extra="forbid")

    #: each sign of a script without spaces becomes a word of its own, so that spans may begin and end at any sign
    separate_signs: ClassVar[bool] = True

    kind: Literal["wordpiece", "bpe"] = Field("wordpiece", description="the algorithm; bpe is byte-level")
    vocab_size: PositiveInt = Field(8000, description="the largest vocabulary to learn")
    lowercase: bool = Field(True, description="fold case; accents and marks stay")
    strip_accents: bool = Field(
        False, description="leave out combining marks (Unicode category Mn), also of composed letters"
    )
    min_frequency: PositiveInt = Field(2, description="leave out pairs that are rarer than this")


class WritingTokenizerOptions(TokenizerOptions):
    """The same for tasks that write: by default a text is restored from its tokens exactly, case and spaces too."""

    separate_signs: ClassVar[bool] = False

    kind: Literal["wordpiece", "bpe"] = Field("bpe", description="the algorithm; bpe is byte-level")
    lowercase: bool = Field(False, description="fold case; accents and marks stay")


def learn_tokenizer(texts: Iterable[str], options: TokenizerOptions, template: bool = True) -> Any:
    """Learn a fast tokenizer with [PAD] [UNK] [CLS] [SEP] [MASK] as tokens 0 to 4.

    Args:
        texts: what it is learned from.
        options: kind and size of the vocabulary, and how text is prepared.
        template: put [CLS] before a text and [SEP] behind each; False adds nothing (language models).
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    made = (_wordpiece if options.kind == "wordpiece" else _byte_level)(texts, options)
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


def _splitter(options: TokenizerOptions, words: Any) -> Any:
    """Return the pre-tokenizer `words`, behind one that separates signs of scripts without spaces where wanted."""
    from tokenizers import Regex, pre_tokenizers

    if not options.separate_signs:
        return words
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(UNSPACED_SIGN), "isolated"), words])


def _stripping(options: TokenizerOptions) -> list[Any]:
    """Return the normalizers that strip accents, as BERT's does, if the options want that."""
    from tokenizers import Regex, normalizers

    return [normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}"), "")] if options.strip_accents else []


def _byte_level(texts: Iterable[str], options: TokenizerOptions) -> Any:
    """Learn byte-level BPE (Radford et al. 2019, section 2.2).

    Every text can be written and nothing is unknown. Without `lowercase` and `strip_accents` a text is restored byte by
    byte, composed and combining letters too.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    made = tokenizers.Tokenizer(models.BPE(unk_token=_SPECIAL["unk"]))
    steps = [*_stripping(options), *([normalizers.Lowercase()] if options.lowercase else [])]
    if steps:
        made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = _splitter(options, pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(_short_runs(texts), _trainer(options, alphabet))
    return made


def _short_runs(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, those with a very long word or gap in parts."""
    for text in texts:
        start = 0
        for run in _LONG_RUN.finditer(text):
            yield text[start : run.start()]
            for first in range(run.start(), run.end(), _LONGEST_WORD):
                yield text[first : min(first + _LONGEST_WORD, run.end())]
            start = run.end()
        yield text[start:]


def _wordpiece(texts: Iterable[str], options: TokenizerOptions) -> Any:
    """Learn WordPiece; its vocabulary as `tokenizers` does, by merging the most frequent pair.

    A letter inside a word is another symbol than the same letter at its beginning ("##e", "e"): it is shifted to
    another plane of Unicode, the BPE trainer merges, and what begins with a shifted letter gets its "##". Words too
    long for WordPiece are left out.
    """
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    bert = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=options.lowercase)
    unwanted = normalizers.Replace(Regex(_UNWANTED), "")
    normalizer = normalizers.Sequence([unwanted, *_stripping(options), bert])
    splitter = _splitter(options, pre_tokenizers.BertPreTokenizer())
    shifted_letters: dict[str, str] = {}

    def shift(text: str) -> str:
        words = (word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
        return " ".join(
            word[0] + "".join(_shifted(letter, shifted_letters) for letter in word[1:])
            for word in words
            if len(word) <= _LONGEST_WORD
        )

    lines = [shift(text) for text in texts]
    letters = {sign: letter for letter, sign in shifted_letters.items()}
    occurring = {letters.get(letter, letter) for letter in set().union(*lines)} - {" "}
    alphabet = [*occurring, *(_shifted(letter, shifted_letters) for letter in sorted(occurring))]  # first and inside
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(lines, _trainer(options, sorted(alphabet)))
    letters = {sign: letter for letter, sign in shifted_letters.items()}
    vocabulary: dict[str, int] = {}
    for token, _ in sorted(bpe.get_vocab().items(), key=lambda pair: pair[1]):
        plain = "".join(letters.get(letter, letter) for letter in token)
        vocabulary["##" + plain if token[0] in letters else plain] = len(vocabulary)
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL["unk"]))
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece()
    made.add_special_tokens(list(_SPECIAL.values()))
    return made


def _shifted(letter: str, shifted_letters: dict[str, str]) -> str:
    return shifted_letters.setdefault(letter, chr(_SHIFT + len(shifted_letters)))
