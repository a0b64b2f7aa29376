"""The commands of the command line that topwork itself has; a plugin adds its own by the same hook.

They are declared here and imported when the command line is built. No plugin may take their names.
"""

from __future__ import annotations

from topwork.hookspecs import hookimpl
from topwork.plugins.declaration import Declaration

COMMANDS = {
    "run": "run:run_command",
    "resume": "run:resume_command",
    "data": "data:data",
    "validate": "recipes:validate",
    "list": "listing:list_",
    "cat": "recipes:cat",
    "cp": "recipes:cp",
    "new": "recipes:new",
    "schema": "recipes:schema",
    "predict": "predict:predict_command",
    "evaluate": "evaluate:evaluate_command",
    "plugins": "plugins:plugins",
    "doctor": "listing:doctor",
}


@hookimpl
def register_commands() -> list[Declaration]:
    """Declare run, resume, data, validate, list, cat, cp, new, schema, predict, evaluate, plugins and doctor."""
    return [Declaration(name, f"topwork.cli.{target}") for name, target in COMMANDS.items()]
