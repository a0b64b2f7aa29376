"""Generated facts with questions, in the shape of SQuAD 2.

A row has three sentences about invented people and a question whose answer is a span of the sentences; for a fifth of
the questions the sentences have no answer.
Every name (person, place, firm, pet) is built from syllables; training and test names are disjoint.
"""

from __future__ import annotations

import random
from typing import Any

COUNTS = {"train": 4000, "test": 400}

_STARTS = str.split(
    "Ba Bel Cor Da Del Do Fa Fen Gal Ha Hol Jo Ka Kel La Lor Ma Mer Na Nor Pa Pel Ra Ros Sa Sel Ta Tor Va Wen Ya Zel"
)
_MIDDLES = str.split("ba do fi ga la li lo ma mi na no ra ri ro sa so ta ti va vi")
_ENDS = {
    "person": str.split("n ra s tho wen lin dor mund rick tta"),
    "place": str.split("burg ford ham stad ton ville mouth wick"),
    "firm": str.split("tec corp dyne soft works plex"),
    "pet": str.split("kin po zy mo bee"),
}
# relation: (kind of its object, statements, questions); {s} is the person, {o} the object
_RELATIONS: dict[str, tuple[str, list[str], list[str]]] = {
    "birthplace": ("place", ["{s} was born in {o}.", "The birthplace of {s} is {o}."], ["Where was {s} born?"]),
    "home": ("place", ["{s} lives in {o}.", "{s} has a house in {o}."], ["Where does {s} live?"]),
    "employer": ("firm", ["{s} works for {o}.", "{s} has a job at {o}."], ["Which firm does {s} work for?"]),
    "pet": ("pet", ["{s} has a cat called {o}.", "The cat of {s} is called {o}."], ["What is the cat of {s} called?"]),
    "teacher": ("person", ["{s} was taught by {o}.", "{s} learned the trade from {o}."], ["Who taught {s}?"]),
}


def facts_dataset(split: str) -> Any:
    """Return the rows of `facts` of a split, "train" or "test", as a `datasets.Dataset`."""
    import datasets

    text, start = datasets.Value("string"), datasets.Value("int32")
    answers = {"text": datasets.List(text), "answer_start": datasets.List(start)}
    features = datasets.Features({"id": text, "context": text, "question": text, "answers": answers})
    return datasets.Dataset.from_list(facts(split), features=features)


def facts(split: str) -> list[dict[str, Any]]:
    """Return rows {id, context, question, answers {text, answer_start}} of a split; no answer: both lists empty."""
    draw = random.Random(f"facts {split}")
    names = {kind: _names(kind, split) for kind in _ENDS}
    return [_row(draw, names, f"{split}-{number}") for number in range(COUNTS[split])]


def _names(kind: str, split: str) -> list[str]:
    """Return the names of a kind that belong to the split: a fifth of all are test names."""
    every = sorted({start + middle + end for start in _STARTS for middle in _MIDDLES for end in _ENDS[kind]})
    random.Random(f"names {kind}").shuffle(every)
    fifth = len(every) // 5
    return every[:fifth] if split == "test" else every[fifth:]


def _row(draw: random.Random, names: dict[str, list[str]], name: str) -> dict[str, Any]:
    people = draw.sample(names["person"], 2)
    pairs = draw.sample([(person, relation) for person in people for relation in _RELATIONS], 4)
    question_kind, stated = pairs[0], pairs[1:]
    answerable = draw.random() >= 0.2
    if answerable:
        stated = [question_kind, *pairs[1:3]]
        draw.shuffle(stated)
    sentences, answers = [], {}
    for person, relation in stated:
        kind, statements, _ = _RELATIONS[relation]
        thing = draw.choice([word for word in draw.sample(names[kind], 4) if word not in people])
        sentences.append(draw.choice(statements).format(s=person, o=thing))
        answers[person, relation] = thing
    context = " ".join(sentences)
    text = [answers[question_kind]] if answerable else []
    return {
        "id": name,
        "context": context,
        "question": draw.choice(_RELATIONS[question_kind[1]][2]).format(s=question_kind[0]),
        "answers": {"text": text, "answer_start": [_position(sentences, stated, question_kind, word) for word in text]},
    }


def _position(sentences: list[str], stated: list[tuple[str, str]], question_kind: tuple[str, str], word: str) -> int:
    """Return the character of the context at which the answer begins, in the sentence that states it."""
    index = stated.index(question_kind)
    before = sum(len(sentence) + 1 for sentence in sentences[:index])
    return before + sentences[index].rindex(word)
