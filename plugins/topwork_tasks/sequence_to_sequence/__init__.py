"""Sequence to sequence: what summarization and translation share, and the public path for tasks of other packages.

A task names its columns (one source, one target), the key of its predictions and its metrics, and gives example rows;
bases, pairs, sharing, prompts, generation and training are those of summarization and translation. Where rows hold
source and target differently, it overrides `source_text` and `target_text`. Without a file at all, `task: translation`
with `data.columns: {source: ..., target: ...}` does the same under that name.

- `task`: `SequenceToSequence`, the base class; `options`: its options.
- `tokens`: tokenizers of source and target, languages, prompts, where targets start and end.
- `generation`: the generation config, settled once and saved; generating.
- `warm_start`: encoder-decoders from two checkpoints, shared weights, a new encoder in front.
"""

from topwork import Column
from topwork_tasks.sequence_to_sequence.options import Seq2SeqOptions
from topwork_tasks.sequence_to_sequence.task import SequenceToSequence

__all__ = ["Column", "Seq2SeqOptions", "SequenceToSequence"]
