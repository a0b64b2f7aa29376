"""Example rows of question-answering."""

from topwork import Row

_PEOPLE = [
    ("Ada", "Lima", "baker"),
    ("Ben", "Oslo", "pilot"),
    ("Cleo", "Cairo", "tailor"),
    ("Dan", "Quito", "miner"),
]


def answer_examples() -> list[Row]:
    """Return two questions about each of four people, and one without an answer."""
    rows: list[Row] = []
    for name, city, work in _PEOPLE:
        context = f"{name} lives in {city}. {name} works as a {work}."
        for question, answer in ((f"Where does {name} live?", city), (f"What is the work of {name}?", work)):
            answers = {"text": [answer], "answer_start": [context.index(answer)]}
            rows.append({"question": question, "context": context, "answers": answers})
    no_answer: Row = {"text": [], "answer_start": []}
    rows.append({"question": "How old is Ada?", "context": rows[0]["context"], "answers": no_answer})
    return rows
