"""Images and clips of the run folder as `data:` addresses, so that the page is one file; images are made smaller."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from topwork_report.run_files import RunFiles

LARGEST_CLIP = 2**20  # bytes: ten seconds at 48 kHz
LARGEST_SIDE = 512  # pixels: sharp enough for a slide, small enough for two dozen of them in a page


def embed_clip(run: RunFiles, folder: Path, name: Any) -> str | None:
    """Return the clip `name` of a stage's folder, a WAV file, as a `data:` address to play.

    None when there is no name, when the clip is larger than `LARGEST_CLIP`, or when the file is missing, no WAV file or
    outside the stage's folder; the latter are noted in `run.problems`.

    Args:
        run: whose problems are noted.
        folder: of the stage.
        name: path of the clip in it; anything that is no text is ignored.
    """
    file = _file_inside(run, folder, name, "clip", "played")
    if file is None:
        return None
    if file.stat().st_size > LARGEST_CLIP:
        return None
    data = file.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        run.problem(folder / name, "the clip is damaged: it is no WAV file")
        return None
    return f"data:audio/wav;base64,{base64.b64encode(data).decode('ascii')}"


def _file_inside(run: RunFiles, folder: Path, name: Any, noun: str, verb: str) -> Path | None:
    """Return a file of a stage's folder; None for no name, and, noted as a problem, for one outside or missing."""
    if not isinstance(name, str) or not name:
        return None
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        run.problem(folder, f"the {noun} {name!r} lies outside the stage's folder and is not {verb}")
        return None
    if not file.is_file():
        run.problem(folder / name, f"the {noun} is missing")
        return None
    return file


def embed(run: RunFiles, folder: Path, name: Any) -> dict[str, Any] | None:
    """Return the image `name` of a stage's folder as {"uri", "width", "height", "small"}.

    None when there is no name, or when the file is missing, damaged or outside the stage's folder; the latter three
    are noted in `run.problems`.

    Args:
        run: whose problems are noted.
        folder: of the stage.
        name: path of the image in it; anything that is no text is ignored.
    """
    file = _file_inside(run, folder, name, "picture", "shown")
    if file is None:
        return None
    try:
        return _encode(file)
    except (OSError, ValueError, SyntaxError, ArithmeticError) as error:
        run.problem(folder / name, f"the picture is damaged: {error}")
    except Exception as error:  # PIL's decompression-bomb error is an Exception of its own
        run.problem(folder / name, f"the picture is refused: {error}")
    return None


def _encode(file: Path) -> dict[str, Any]:
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        opened.load()
        return encoded(ImageOps.exif_transpose(opened))


def encoded(plain: Image) -> dict[str, Any]:
    """Encode an image for the page as {"uri", "width", "height", "small"}; a large one is made smaller."""
    image = plain if plain.mode in ("L", "LA", "RGB", "RGBA", "P") else plain.convert("RGB")
    image = image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    kind, data = _bytes(image)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return {"uri": uri, "width": image.width, "height": image.height, "small": max(image.size) < 64}


def _bytes(image: Image) -> tuple[str, bytes]:
    """Return format and data: PNG for drawings, small images and transparency; JPEG when that is much smaller."""
    png = BytesIO()
    image.save(png, "PNG", optimize=True)
    if image.mode in ("LA", "RGBA") or png.tell() < 24_000:
        return "png", png.getvalue()
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=88)
    return ("jpeg", jpeg.getvalue()) if jpeg.tell() < 0.6 * png.tell() else ("png", png.getvalue())
