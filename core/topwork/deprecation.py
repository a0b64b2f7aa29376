"""Deprecated names: one warning for all of them, with the new name and the version that drops the old one.

Every alias of a public name that changed calls `warn_renamed`; nothing else is kept here.
"""

from __future__ import annotations

import warnings

#: version that drops the names deprecated so far
DROPPED_IN = "0.3"


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Emit a DeprecationWarning for a public name that has a new name.

    Args:
        old: name as the caller wrote it.
        new: name to use instead.
        stacklevel: frames between this call and the line to blame, as in `warnings.warn`.
    """
    warnings.warn(
        f"`{old}` is now called `{new}`; the old name goes away in topwork {DROPPED_IN}",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
