"""Rows from layouts of files that are recognised, or that `format` names.

Entry points: the hooks `load_rows` and `register_formats`. Tables, JSON and plain folders are read by `rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl, unknown

if TYPE_CHECKING:
    from topwork import RowsOptions
    from topwork_bases.formats.layout import Layout

#: a line about each layout; here, because it is asked for whenever plugins are loaded, and the readers are not
ABOUT = {
    "conll": "a word a line with its tags, sentences apart by empty lines; CoNLL-U too: words, tags",
    "words": "csv with a word a row (sentence, word, tag): words, tags",
    "parallel": "two files with a sentence a line, train.en and train.de: translation",
    "chat": "JSON of ShareGPT (conversations) or Alpaca (instruction, input, output): messages",
    "doccano": "an export of doccano: text with spans or label",
    "label-studio": "an export of label-studio (JSON, JSON_MIN): text with spans or label",
    "images-masks": "images/ beside masks/ (or annotations/), files of the same name: image, mask",
    "images-depth": "rgb/ (or images/) beside depth/, files of the same name: image, depth",
    "boxes": "csv with a box a line (filename, class, xmin, ymin, xmax, ymax; x, y, w, h; bbox): image, objects",
    "yolo": "data.yaml (or classes.txt), images/ and labels/*.txt: image, objects",
    "ljspeech": "metadata.csv (name|text) beside wavs/: audio, text",
    "common-voice": "train.tsv, dev.tsv, test.tsv beside clips/: audio, text",
    "librispeech": "speaker/chapter/*.trans.txt beside clips: audio, text, speaker",
    "speech-commands": "word/*.wav, validation_list.txt and testing_list.txt: audio, label, speaker",
    "nemo": "JSON lines with audio_filepath and text: audio, text",
}


def _layouts() -> dict[str, Layout]:
    from topwork_bases.formats import boxes, chats, exports, maps, speech, texts, words, yolo

    return {
        layout.name: layout
        for room in (words, texts, chats, exports, maps, boxes, yolo, speech)
        for layout in room.LAYOUTS
    }


@hookimpl
def register_formats() -> Mapping[str, str]:
    """Return the layouts, with a line about each."""
    return ABOUT


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """Read a file or folder of a known layout; None for everything else.

    Raises:
        UsageError: several layouts fit, or an option is unknown.
        DataError: a damaged file, with its line.
    """
    from topwork import choose_split
    from topwork_bases.formats.exports import check_tool

    path = Path(source).expanduser()
    layouts = _layouts()
    if options.format is not None:
        if options.format not in layouts or not path.exists():
            return None
        layout = layouts[options.format]
    else:
        if not path.exists() or (not path.is_file() and not path.is_dir()):
            return None
        fitting = [layout for layout in layouts.values() if layout.matches(path)]
        if not fitting:
            check_tool(path)
            return None
        if len(fitting) > 1:
            names = " and ".join(layout.name for layout in fitting)
            raise UsageError(f"`{source}` may be read as {names}", hint=f"say which: `format: {fitting[0].name}`")
        layout = fitting[0]
    for name in options.options:
        if name not in layout.options:
            raise unknown(f"option of `format: {layout.name}`", name, layout.options)
    tables = layout.read(path, options.options)
    rows = choose_split(dict(tables), options.split, source)
    if options.streaming:
        return rows.stream()
    if not rows.remarks:
        rows.remarks = [remark for table in tables.values() for remark in table.remarks]
    return rows
