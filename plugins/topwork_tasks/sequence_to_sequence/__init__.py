"""The door to the sequence-to-sequence seam for tasks of other packages: grammar correction, sentence fusion, splits.

A task names its columns (one source, one target), the key of its predictions and its metrics, and gives example rows;
bases, pairs, sharing, prompts, generation and training are those of summarization and translation (see `_seq2seq`).
Where rows hold source and target otherwise, it overrides `source_text` and `target_text`. Without a file at all,
`task: translation` with `data.columns: {source: ..., target: ...}` does the same under that name.
"""

from topwork import Column
from topwork_tasks.sequence_to_sequence.options import Seq2SeqOptions
from topwork_tasks.sequence_to_sequence.task import SequenceToSequence

__all__ = ["Column", "Seq2SeqOptions", "SequenceToSequence"]
