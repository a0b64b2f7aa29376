"""Numbers from 0 to 99,999 in English and German words: a language pair that is on every machine, with an exact truth.

Every fiftieth number (in a scattered order) is a test number; no number is in both splits.
"""

from __future__ import annotations

import random
from typing import Any

LIMIT = 100_000

_EN = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_EN_TENS = str.split("- - twenty thirty forty fifty sixty seventy eighty ninety")
_DE = str.split(
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
)
_DE_TENS = str.split("- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")


def english(number: int) -> str:
    """Write a number below a million in English words, such as "twenty-one thousand three hundred five"."""
    if number >= 1000:
        return _joined(f"{english(number // 1000)} thousand", number % 1000)
    if number >= 100:
        return _joined(f"{_EN[number // 100]} hundred", number % 100)
    if number < 20:
        return _EN[number]
    tens, ones = divmod(number, 10)
    return _EN_TENS[tens] + (f"-{_EN[ones]}" if ones else "")


def _joined(head: str, rest: int) -> str:
    return f"{head} {english(rest)}" if rest else head


def german(number: int) -> str:
    """Write a number below a million in German words, such as "einundzwanzigtausenddreihundertfünf"."""
    return "null" if number == 0 else _german(number, last=True)


def _german(number: int, last: bool) -> str:
    """Write a number; with `last` nothing follows it, so that one is "eins"."""
    if number >= 1000:
        return _german(number // 1000, last=False) + "tausend" + _german_rest(number % 1000)
    if number >= 100:
        return f"{_DE[number // 100]}hundert" + _german_rest(number % 100)
    if number < 20:
        return "eins" if number == 1 and last else _DE[number]
    tens, ones = divmod(number, 10)
    return (f"{_DE[ones]}und" if ones else "") + _DE_TENS[tens]


def _german_rest(number: int) -> str:
    return _german(number, last=True) if number else ""


def numbers(split: str) -> list[int]:
    """Return the numbers of a split in a scattered order."""
    every = list(range(LIMIT))
    random.Random("number words").shuffle(every)
    cut = LIMIT // 50
    return every[:cut] if split == "test" else every[cut:]


def number_words_dataset(split: str) -> Any:
    """Return the rows of `number_words` of a split, "train" or "test", as a `datasets.Dataset`."""
    import datasets

    return datasets.Dataset.from_list(number_words(split))


def number_lines_dataset(split: str) -> Any:
    """Return the rows of `number_lines` of a split, "train" or "test", as a `datasets.Dataset`."""
    import datasets

    return datasets.Dataset.from_list(number_lines(split))


def number_words(split: str) -> list[dict[str, dict[str, str]]]:
    """Return rows {"translation": {"en", "de"}} of a split."""
    return [{"translation": {"en": english(number), "de": german(number)}} for number in numbers(split)]


def number_lines(split: str) -> list[dict[str, str]]:
    """Return rows {"text", "prompt", "completion"} with a number in digits, in English and in German.

    A masked word can be inferred from the other two forms; the digits are a prompt, the words complete it.
    """
    rows = []
    for number in numbers(split):
        prompt, completion = f"{' '.join(str(number))} =", f" {english(number)} = {german(number)}"
        rows.append({"text": prompt + completion, "prompt": prompt, "completion": completion})
    return rows
