"""Pages for notebooks: a run, or captured attention; by the hook `notebook_view`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topwork_report.colours import inks, scales
from topwork_report.images import encoded
from topwork_report.page import environment, page_text
from topwork_report.page_data import PageData, left_out_note, script
from topwork_report.run_files import read_run

_ANCHOR = "shown"


def view(subject: str, content: Any) -> str | None:
    """Return the page of a subject; None for a subject that there is no page of.

    Args:
        subject: "run" or "attention".
        content: see `topwork.show`.
    """
    if subject == "run":
        run = read_run(Path(content), live=True)
        run.stages = [stage for stage in run.stages if "page" not in stage.result]
        return page_text(run)
    return _attention_page(content) if subject == "attention" else None


def _attention_page(content: dict[str, Any]) -> str:
    rows, images = [], []
    for index, row in enumerate(content["rows"]):
        image = row.get("image")
        entry = {**row, "image": None}
        if image is not None:
            entry["image"] = f"image-{index}"
            images.append({"id": entry["image"], **encoded(image)})
        rows.append(entry)
    data = PageData()
    left_out = data.add_rows(_ANCHOR, "attention", rows, first={"layer": content["layer"], "head": content["head"]})
    text, digest = script()
    light, dark = (list(zip(scale, inks(scale), strict=True)) for scale in scales())
    return environment().get_template("notebook.html.j2").render(
        anchor=_ANCHOR, images=images, left_out=left_out, shown=bool(data.attention), light=light, dark=dark,
        reasons=sorted({left_out_note(row.get("heads_left_out")).strip() for row in content["rows"]} - {""}),
        data=data.json(), script=text, script_hash=digest,
    )  # fmt: skip
