"""Hooks of the analyses. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from topwork import Declaration, hookimpl


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare the stages of the analyses."""
    return [
        Declaration(
            "head_effects",
            "topwork_analyses.head_effects.stage:HeadEffects",
            "Measure what changes without each attention head: intervals over rows, corrected for all attention heads.",
        ),
    ]
