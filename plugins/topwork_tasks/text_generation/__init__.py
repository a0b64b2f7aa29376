"""text-generation: a causal language model, trained on texts, on completions of prompts, or on chats.

- `task`: the task; `options`: its options; `examples`: example rows.
- `prompts`: rows to tokens and targets; blocks and packing.
- `metric`: predictions, perplexity, generated texts against completions.
- `streaming`: one text, piece by piece.
"""

from topwork_tasks.text_generation.options import TextGenerationOptions
from topwork_tasks.text_generation.task import TextGeneration

__all__ = ["TextGeneration", "TextGenerationOptions"]
