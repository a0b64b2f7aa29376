"""Image segmentation: semantic, instance and panoptic.

- `task`: the task; `options`: its options; `examples`: example rows.
- `labels`: label names, learned once, and the labels of numbers in masks.
- `colours`: masks whose colours are labels.
- `masks`: masks as numbers, and the notations of segments; `doubts`: masks that look wrong.
- `truth`: masks, instances and panoptic segments of rows; targets.
- `models`: segmenters of transformers, their image processors and losses; `mask_head`: a head for any backbone.
- `outputs`: the meaning of segmenters' outputs; predictions.
- `metrics`: mean IoU, COCO's average precision of masks, panoptic quality.
- `preview`: rows before any model exists.
- `drawing`: truth and prediction on the image.
"""

from topwork_tasks.image_segmentation.options import ImageSegmentationOptions
from topwork_tasks.image_segmentation.task import ImageSegmentation

__all__ = ["ImageSegmentation", "ImageSegmentationOptions"]
