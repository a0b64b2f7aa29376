"""Example rows of text-generation."""

from topwork import Row

_MEANINGS = {
    "red": "rot",
    "green": "grün",
    "blue": "blau",
    "one": "eins",
    "two": "zwei",
    "three": "drei",
    "dog": "Hund",
    "cat": "Katze",
    "house": "Haus",
}


def generation_examples() -> list[Row]:
    """Return prompts with completions: English words and their German meanings."""
    return [{"prompt": f"{word} =", "completion": f" {meaning}"} for word, meaning in _MEANINGS.items()]
