"""token-classification: a tag for each word of a text (entities, parts of speech, roles).

- `task`: the task; `options`: its options; `examples`: example rows.
- `tags`: words and true tags of rows, names of tags.
- `predictions`: tags and entities from the scores of tokens, drawn predictions.
- `preview`: rows before any model exists.
- `entities`: entities in sequences of tags, their schemes, the metric.
"""

from topwork_tasks.token_classification.options import TokenClassificationOptions
from topwork_tasks.token_classification.task import TokenClassification

__all__ = ["TokenClassification", "TokenClassificationOptions"]
