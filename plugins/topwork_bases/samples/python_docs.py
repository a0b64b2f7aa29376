"""English text that is on every machine: the paragraphs of Python's language reference, as `help()` shows them.

Split by topic; a paragraph that several topics share goes to the training rows only. How much text there is depends on
the version of Python.
"""

from __future__ import annotations

from typing import Any


def python_docs_dataset(split: str) -> Any:
    """Return the rows of `paragraphs` of a split, "train" or "test", as a `datasets.Dataset`."""
    import datasets

    return datasets.Dataset.from_list(paragraphs(split))


def paragraphs(split: str) -> list[dict[str, str]]:
    """Return rows {text, topic} of a split, without paragraphs below 80 characters (headings, lines of code)."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    test = set(names[::10])
    training = [(name, text) for name in names if name not in test for text in _paragraphs(topics[name])]
    seen = {text for _, text in training}
    if split == "test":
        training = [
            (name, text) for name in names if name in test for text in _paragraphs(topics[name]) if text not in seen
        ]
    unique = {text: name for name, text in reversed(training)}
    return [{"text": text, "topic": name} for text, name in reversed(unique.items())]


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text without line breaks and indentation."""
    joined = (" ".join(block.split()) for block in text.split("\n\n"))
    return [block for block in joined if len(block) >= 80 and not block.startswith(">>>")]
