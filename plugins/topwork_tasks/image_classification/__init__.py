"""Image classification."""

from topwork_tasks.image_classification.task import ImageClassification, ImageClassificationOptions

__all__ = ["ImageClassification", "ImageClassificationOptions"]
