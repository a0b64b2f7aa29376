"""Depth estimation."""

from topwork_tasks.depth_estimation.task import DepthEstimation, DepthEstimationOptions, register_tasks

__all__ = ["DepthEstimation", "DepthEstimationOptions", "register_tasks"]
