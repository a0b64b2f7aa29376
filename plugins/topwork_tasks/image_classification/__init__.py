"""image-classification: one label, or several, for an image.

- `task`: the task and its options; `mixup`: images blended in training.
"""

from topwork_tasks.image_classification.task import ImageClassification, ImageClassificationOptions

__all__ = ["ImageClassification", "ImageClassificationOptions"]
