"""Hooks of the analyses. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from topwork import Declaration, hookimpl


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare the stages of the analyses."""
    return []
