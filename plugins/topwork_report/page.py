"""Makes the page: reads the run folder, chooses what to show, fills the template, writes report.html whole."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from topwork import Json, write_text
from topwork_report import formatting as formats
from topwork_report.attention_view import attention_blocks
from topwork_report.colours import inks, scales
from topwork_report.images import embed, embed_clip
from topwork_report.page_data import PageData, script
from topwork_report.run_files import RunFiles, StageFiles, mappings, read_run
from topwork_report.sections import section, stage_numbers
from topwork_report.summary import headline_cards

PAGE = "report.html"
_MARKS = {"right": 0, "wrong": 1, "truth": 2}  # styles of the marks that `topwork.Picture` names: green, red, blue
MOST_PICTURES = 24  # of predictions, on the whole page


def write_page(
    folder: Path, *, title: str | None = None, without: str | None = None, live: int | None = None
) -> dict[str, Json]:
    """Write `report.html` into a run folder, whole or not at all.

    Args:
        folder: the run folder.
        title: headline; the run's name when None.
        without: name of a stage folder that is left out: the one that is making the page.
        live: the run goes on: a browser loads the page again after so many seconds; None: it does not.

    Returns:
        {"page": its name, "bytes": its size, "sections": stages shown, "problems": files that were missing or damaged}.

    Raises:
        UsageError: the folder is not a run folder.
    """
    run = read_run(Path(folder), without, live=live is not None)
    # A page says nothing about pages: so it is the same whether its own stage makes it or somebody makes it later.
    run.stages = [stage for stage in run.stages if "page" not in stage.result]
    text = page_text(run, title, live)
    write_text(run.folder / PAGE, text)
    size = len(text.encode("utf-8"))
    return {"page": PAGE, "bytes": size, "sections": len(run.stages), "problems": list(run.problems)}


def page_text(run: RunFiles, title: str | None = None, live: int | None = None) -> str:
    """Return the page as HTML. Images that cannot be shown are added to `run.problems` on the way."""
    sections = []
    share = _picture_share(run)
    marks = dict(_MARKS)
    data = PageData()
    for stage in run.stages:
        part = section(run, stage)
        part["blocks"] += attention_blocks(run, stage) + _pictures(run, stage, share, marks)
        part["blocks"] += _given_to_script(data, stage, part["blocks"] + part["rest"])
        sections.append(part)
    text, digest = script()
    light, dark = (list(zip(scale, inks(scale), strict=True)) for scale in scales())
    return environment().get_template("page.html.j2").render(
        title=title or str(run.about.get("name") or run.folder.resolve().name),
        head=_head(run),
        versions=_versions(run),
        story=headline_cards(run),
        stages=[{"stage": stage, "numbers": stage_numbers(stage)} for stage in run.stages],
        seconds=_seconds(run),
        sections=sections,
        problems=run.problems,
        recipe=run.recipe_text,
        light=light,
        dark=dark,
        live=live,
        data=data.json(),
        script=text,
        script_hash=digest,
    )  # fmt: skip


def _given_to_script(data: PageData, stage: StageFiles, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hand the script the data of a stage's blocks, and return the blocks that the script alone fills."""
    for block in blocks:
        if block["kind"] == "curves":
            data.add_charts(block, stage.anchor)
        elif block["kind"] == "attention":
            data.add_attention(stage, block)
        elif block["kind"] == "relevance":
            data.add_relevance(stage)
    table = data.add_predictions(stage)
    return [table] if table else []


@cache
def environment() -> Any:
    """Return the template engine, with escaping on and undefined names as errors."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).resolve().parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in ("short", "signed", "compact", "duration", "words", "heading"):
        environment.filters[name] = getattr(formats, name)
    return environment


def _head(run: RunFiles) -> list[tuple[str, str]]:
    """Return the facts under the headline, those that are known."""
    about, recipe = run.about, run.recipe
    task = about.get("task") or recipe.get("task")
    facts = {
        "task": task.get("name") if isinstance(task, dict) else task,
        "base": _base(recipe.get("base")),
        "seed": about.get("seed", recipe.get("seed")),
        "started": _date(about.get("started")),
        "state": about.get("state") if about.get("state") not in ("running", "done", "finished") else None,
        "device": about.get("device"),
        "processes": about.get("processes") if about.get("processes") not in (None, 1) else None,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None and value != ""]


def _base(base: Any) -> str | None:
    """Return the base's name, or the names by role (`encoder: ..., decoder: ...`)."""
    if isinstance(base, dict):
        named, config = base.get("model"), base.get("config")
        if isinstance(named, str):
            return named
        if isinstance(config, dict):
            return f"{config.get('model_type', 'a config')}, from scratch"
        roles = {role: _base(entry) for role, entry in base.items() if isinstance(entry, dict)}
        return ", ".join(f"{role}: {name}" for role, name in roles.items() if name) or None
    return base if isinstance(base, str) else None


def _date(started: Any) -> str | None:
    """Return an ISO date and time as `2026-02-14 09:30`."""
    return started[:16].replace("T", " ") if isinstance(started, str) else None


def _versions(run: RunFiles) -> list[tuple[str, str]]:
    versions = run.about.get("versions")
    return [(str(name), str(version)) for name, version in versions.items()] if isinstance(versions, dict) else []


def _seconds(run: RunFiles) -> float | None:
    known = [stage.seconds for stage in run.stages if stage.seconds is not None]
    return sum(known) if known else None


def _picture_share(run: RunFiles) -> int:
    """Return how many pictures each stage that has some may show."""
    having = sum(1 for stage in run.stages if mappings(stage.artefacts.get("pictures.json")))
    return MOST_PICTURES // having if having else 0


def _pictures(run: RunFiles, stage: StageFiles, most: int, marks: dict[str, int]) -> list[dict[str, Any]]:
    """Return the block of the stage's predictions. `marks` numbers the kinds of marked text across the page."""
    pictures = mappings(stage.artefacts.get("pictures.json"))
    if not pictures:
        return []
    cards: list[dict[str, Any]] = []
    for drawn in pictures[:most]:
        picture = embed(run, stage.folder, drawn.get("image"))
        cards.append({
            "row": drawn.get("row"),
            "caption": formats.short(drawn.get("caption", "")),
            "picture": picture,
            "audio": embed_clip(run, stage.folder, drawn.get("audio")),
            "text": _pieces(drawn.get("text"), marks),
        })  # fmt: skip
    used = sorted({(piece["kind"], piece["mark"]) for card in cards for piece in card["text"] if piece["mark"]})
    wordy = any(card["text"] for card in cards)
    return [
        {
            "kind": "pictures",
            "cards": cards,
            "marks": used,
            "wordy": wordy,
            "anchor": stage.anchor,
            "order": _order(stage, pictures),
            "left_out": len(pictures) - len(cards),
        }
    ]


def _order(stage: StageFiles, pictures: list[dict[str, Any]]) -> str:
    """Return the end of the heading of the predictions: what they are ordered by, as the stage says it."""
    table = stage.artefacts.get("predictions.json")
    if len({entry.get("badness") for entry in pictures}) <= 1:
        return ", in the order of the rows"
    order = table.get("order") if isinstance(table, dict) else None
    return f" by {formats.cut(order, 120)}" if isinstance(order, str) and order else ", the worst first"


def _pieces(text: Any, marks: dict[str, int]) -> list[dict[str, Any]]:
    """Return marked-up text; marks without a style of their own get the others in the order in which they appear."""
    pieces = []
    for piece in text if isinstance(text, list) else []:
        if isinstance(piece, list) and len(piece) == 2:
            mark = str(piece[1] or "")
            kind = marks.setdefault(mark, len(marks)) % 6 if mark else 0
            pieces.append({"text": formats.cut(str(piece[0]), 4000), "mark": mark, "kind": kind})
    return pieces
