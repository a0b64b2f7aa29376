"""Analyses of attention heads and layers, with controls and intervals, for any task; built on `topwork.look`."""
