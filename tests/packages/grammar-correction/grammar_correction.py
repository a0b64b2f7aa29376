"""Grammar correction: a sequence-to-sequence task in one short file."""

from topwork import hookimpl
from topwork_tasks.sequence_to_sequence import Column, SequenceToSequence


class GrammarCorrection(SequenceToSequence):
    """Correct the grammar of a sentence."""

    name = "grammar-correction"
    answer = "corrected_text"
    columns = {"text": Column("with mistakes"), "corrected": Column("without", target=True)}
    metrics = ("exact_match", "bleu", "chrf", "length")

    @classmethod
    def example_rows(cls):
        people, places = ("Ada", "Ben", "Cleo", "Dan"), ("Rome", "Oslo", "Lima", "Bern")
        rows = [{"text": f"{who} have a cat.", "corrected": f"{who} has a cat."} for who in people]
        return [*rows, *({"text": f"They was in {at}.", "corrected": f"They were in {at}."} for at in places)]


@hookimpl
def register_tasks():
    return [GrammarCorrection]
