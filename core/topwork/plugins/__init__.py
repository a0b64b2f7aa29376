"""Plugins: how they are found, loaded, checked and called. `load_plugins` is the way in.

- `registry`: `Plugins`, what is loaded and what it registered
- `declaration`: `Declaration`, a task, stage or command that is imported when it is used; tables of what is registered
- `commands`: the commands of topwork itself
- `loading`: entry points and files, one plugin at a time; what is kept of a broken one
- `calls`: what surrounds each call of a hook: errors that name the plugin, checks of answers, traces
"""

from topwork.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Declaration": "topwork.plugins.declaration",
        "FailedPlugin": "topwork.plugins.loading",
        "PluginInfo": "topwork.plugins.loading",
        "Plugins": "topwork.plugins.registry",
        "load_plugins": "topwork.plugins.registry",
    },
)
