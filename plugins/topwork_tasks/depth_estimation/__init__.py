"""Depth estimation: the distance of every pixel.

- `task`: the task; `options`: its options; `examples`: example rows.
- `depth_maps`: reading of depth maps, losses, predictions; `exr`: depth maps in OpenEXR files.
- `preview`: rows before any model exists.
- `metric`: figures of the literature.
"""

from topwork_tasks.depth_estimation.options import DepthEstimationOptions
from topwork_tasks.depth_estimation.task import DepthEstimation

__all__ = ["DepthEstimation", "DepthEstimationOptions"]
