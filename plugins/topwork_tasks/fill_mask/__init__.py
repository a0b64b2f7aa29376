"""Masked language modelling."""

from topwork_tasks.fill_mask.task import FillMask, FillMaskOptions, register_tasks

__all__ = ["FillMask", "FillMaskOptions", "register_tasks"]
