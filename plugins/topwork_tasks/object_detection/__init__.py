"""Object detection: boxes with labels.

- `task`: the task, and the hook that reads annotation files; `options`: its options.
- `detectors`: label names, and the meaning of detectors' outputs.
- `processors`: families of detectors and their image processors.
- `detr_head`: DETR's transformer as a task head on any backbone.
- `metric`: predictions and COCO's mean average precision of boxes.
- `thresholds`: the least score of a box, chosen on rows with their truth.
- `annotation_files`: where they lie; `coco_files`, `voc_files`: annotation files as rows; `run_lengths`: masks of COCO.
- `preview`: rows before any model exists.
- `examples`: example rows.
"""

from topwork_tasks.object_detection.options import ObjectDetectionOptions
from topwork_tasks.object_detection.task import ObjectDetection

__all__ = ["ObjectDetection", "ObjectDetectionOptions"]
