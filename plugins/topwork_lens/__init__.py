"""The lens: finds the attention layers of any model, looks at them, gates them, scores them and prunes them.

Other packages reach it through the hooks in `plugin.py` and through `topwork.look`; nothing here knows a task.
"""
