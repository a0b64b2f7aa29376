"""Example rows of token-classification."""

from topwork import Row

_TAGGED = [
    ("Ada Lovelace lived in London .", "B-PER I-PER O O B-LOC O"),
    ("Alan Turing worked at Bletchley .", "B-PER I-PER O O B-LOC O"),
    ("The bank lent money to Acme .", "O O O O O B-ORG O"),
    ("Acme opened a shop in New York .", "B-ORG O O O O B-LOC I-LOC O"),
    ("Nothing happened today .", "O O O O"),
    ("Grace Hopper left London .", "B-PER I-PER O B-LOC O"),
    ("New York was quiet .", "B-LOC I-LOC O O O"),
    ("Acme hired Alan .", "B-ORG O B-PER O"),
]


def tagged_examples() -> list[Row]:
    """Return words with tags of persons, places and organisations, in IOB2."""
    return [{"words": words.split(), "tags": tags.split()} for words, tags in _TAGGED]
