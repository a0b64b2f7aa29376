"""Image segmentation: semantic, instance and panoptic."""

from topwork_tasks.image_segmentation.task import ImageSegmentation, register_tasks

__all__ = ["ImageSegmentation", "register_tasks"]
