"""question-answering: the span of a context that answers a question, or that there is none.

- `task`: the task; `options`: its options; `examples`: example rows.
- `squad`: answers of rows, the best spans of a window, exact match and F1 as SQuAD counts them.
"""

from topwork_tasks.question_answering.options import QuestionAnsweringOptions
from topwork_tasks.question_answering.task import QuestionAnswering

__all__ = ["QuestionAnswering", "QuestionAnsweringOptions"]
