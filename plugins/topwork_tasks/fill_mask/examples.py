"""Example rows of fill-mask."""

from topwork import Row

_MASKED = [
    ("the red fox ran over the [MASK] hill", "green"),
    ("the [MASK] fox ran over the green hill", "red"),
    ("the blue bird sat on the green [MASK]", "hill"),
    ("a [MASK] bird sat on the red hill", "blue"),
]
_PLAIN = [
    "the red fox ran over the green hill",
    "a blue bird sat on the red hill",
    "the green bird ran over the blue fox",
    "a red fox sat on the green bird",
]


def masked_examples() -> list[Row]:
    """Return four texts with a mask and its answer, and four without masks."""
    masked: list[Row] = [{"text": text, "answer": answer} for text, answer in _MASKED]
    return masked + [{"text": text, "answer": None} for text in _PLAIN]
