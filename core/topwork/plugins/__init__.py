"""Plugins: `registry` keeps what is registered, `loading` finds, imports and checks one plugin at a time."""

from topwork.plugins.loading import FailedPlugin, PluginInfo
from topwork.plugins.registry import Plugins, load_plugins

__all__ = ["FailedPlugin", "PluginInfo", "Plugins", "load_plugins"]
