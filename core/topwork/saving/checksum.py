"""Checksum of a JSON mapping inside itself, so that a file that lists the hashes of others has one as well.

Entry points: `with_checksum` before it is written, `check_checksum` after it was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from topwork.errors import CheckpointError
from topwork.files import plain
from topwork.items import Json

CHECKSUM = "checksum"


def with_checksum(content: Mapping[str, Json]) -> dict[str, Json]:
    """Return a mapping with the key `checksum`: the SHA-256 hash of all other entries.

    Example:
        >>> sorted(with_checksum({"format": 1}))
        ['checksum', 'format']
    """
    return {**content, CHECKSUM: _hash(content)}


def check_checksum(content: Mapping[str, Json], file: Path) -> None:
    """Compare a mapping with its checksum; one without, as earlier versions wrote it, passes.

    Args:
        content: what was read.
        file: where it was read from, for the message.

    Raises:
        CheckpointError: an entry was changed.
    """
    if CHECKSUM in content and content[CHECKSUM] != _hash(content):
        raise CheckpointError(
            "the file is not the one that was written: its content differs from its checksum",
            place=str(file),
            hint=f"copy it again; whoever changes it on purpose takes the entry `{CHECKSUM}` out",
        )


def _hash(content: Mapping[str, Json]) -> str:
    entries = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(plain(entries), sort_keys=True).encode()).hexdigest()
