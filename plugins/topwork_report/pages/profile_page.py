"""Page about a recipe's rows before training: distributions, doubts and first rows, in one offline file.

`write_profile` is the entry point, called through the hook `profile_page`; the profile itself is made by the core.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from topwork import write_text
from topwork_report.colours import inks, scales
from topwork_report.images import encoded
from topwork_report.page import environment

LABELS_SHOWN = 40


def write_profile(profile: Any, file: Path) -> None:
    """Write the page of a profile, whole or not at all.

    Args:
        profile: the core's `Profile`.
        file: HTML file to write.
    """
    light, dark = (list(zip(scale, inks(scale), strict=True)) for scale in scales())
    roles = [{"profile": role, "examples": [_example(picture) for picture in role.examples]} for role in profile.roles]
    page = environment().get_template("profile.html.j2")
    write_text(file, page.render(profile=profile, roles=roles, labels_shown=LABELS_SHOWN, light=light, dark=dark))


def _example(picture: Any) -> dict[str, Any]:
    """Return one rendered row as the template wants it; images and sounds become data addresses."""
    image = encoded(picture.image) if picture.image is not None else None
    audio = picture.audio
    uri = f"data:audio/wav;base64,{base64.b64encode(audio).decode('ascii')}" if audio else None
    return {"caption": picture.caption, "image": image, "text": picture.text or (), "audio": uri}
