"""Token classification."""

from topwork_tasks.token_classification.task import TokenClassification, TokenClassificationOptions, register_tasks

__all__ = ["TokenClassification", "TokenClassificationOptions", "register_tasks"]
