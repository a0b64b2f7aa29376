"""summarization: a document becomes a short text.

On sequence-to-sequence models (BART, T5 with `prefix: "summarize: "`, an EncoderDecoderModel), on two checkpoints
warm-started as encoder and decoder, on decoders by prompt; see `sequence_to_sequence`. Measured by ROUGE-1, -2, -L and
-Lsum on the words of any script, and length. Predictions: [{"summary_text"}].
"""

from __future__ import annotations

from typing_extensions import override

from topwork import Column, Row
from topwork_tasks.sequence_to_sequence.task import SequenceToSequence


class Summarization(SequenceToSequence):
    """Write the summary of a document.

    Rows that it refuses or mends: `sequence_to_sequence/bad_input.md`.
    """

    name = "summarization"
    answer = "summary_text"
    metrics = ("rouge", "length")
    columns = {
        "document": Column("the text", kind="text"),
        "summary": Column("its summary", target=True, kind="text"),
    }

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        pairs = [
            ("It rained all day in Oslo and the streets were wet.", "Rain in Oslo."),
            ("The sun shone on Rome from morning to night.", "Sun in Rome."),
            ("Snow fell on Bern, and the trains were late.", "Snow in Bern."),
            ("All of Lima was grey; it rained without end.", "Rain in Lima."),
            ("People in Oslo went swimming in the bright sun.", "Sun in Oslo."),
            ("Children in Rome saw snow for the first time.", "Snow in Rome."),
            ("Umbrellas were sold out in Bern, so much it rained.", "Rain in Bern."),
            ("In Lima the sun came out at last.", "Sun in Lima."),
        ]
        return [{"document": document, "summary": summary} for document, summary in pairs]
