"""The command line's own commands, one small file for each family; plugins add theirs by `register_commands`."""

#: names that no plugin may take; `cli.py` registers exactly these
CORE_COMMANDS = (
    "run",
    "resume",
    "validate",
    "list",
    "cat",
    "cp",
    "new",
    "schema",
    "predict",
    "plugins",
    "doctor",
)
