"""Object detection."""

from topwork_tasks.object_detection.task import ObjectDetection, ObjectDetectionOptions, load_rows, register_tasks

__all__ = ["ObjectDetection", "ObjectDetectionOptions", "load_rows", "register_tasks"]
