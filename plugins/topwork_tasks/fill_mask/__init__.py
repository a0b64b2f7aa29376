"""fill-mask: the words behind masks in a text; masked language modelling, from scratch too.

- `task`: the task; `options`: its options; `examples`: example rows.
- `masking`: which tokens are masked, predictions for masks, and the metric over them.
"""

from topwork_tasks.fill_mask.options import FillMaskOptions
from topwork_tasks.fill_mask.task import FillMask

__all__ = ["FillMask", "FillMaskOptions"]
