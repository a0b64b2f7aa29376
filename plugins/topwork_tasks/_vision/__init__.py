"""Shared code of vision tasks: images, boxes, augmentation, dense heads, COCO metrics."""
