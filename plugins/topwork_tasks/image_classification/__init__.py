"""Image classification."""

from topwork_tasks.image_classification.task import ImageClassification, ImageClassificationOptions, register_tasks

__all__ = ["ImageClassification", "ImageClassificationOptions", "register_tasks"]
