"""Layouts of speech: LJSpeech, Common Voice, LibriSpeech, Speech Commands, manifests of NeMo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork import DataError, Table, split_named
from topwork_bases.formats.folders import CLIPS, file_cell, named_clip
from topwork_bases.formats.json_records import first_records, located_records
from topwork_bases.formats.layout import Layout, Located, table_of
from topwork_bases.formats.texts import numbered_lines

_BACKGROUND = "_background_noise_"
_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}


def read_ljspeech(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read `metadata.csv` (name|text|normalised text) beside `wavs/`: the normalised text where there is one."""
    file = path if path.is_file() else path / "metadata.csv"
    folder = file.parent
    examples: list[Located] = []
    for number, line in numbered_lines(file):
        if line.strip():
            name, *texts = line.split("|")
            if not 1 <= len(texts) <= 2:
                cause = "has no text" if not texts else f"has {len(texts) + 1} fields"
                raise DataError(f"{file}:{number}: {cause}", hint="write name|text, or name|text|normalised text")
            audio = named_clip(folder / "wavs", name.removeprefix("wavs/"), file, number)
            examples.append((number, {"audio": audio, "text": texts[-1] or texts[0] or None}))
    return {"train": table_of(examples, file, f"{path}: read as LJSpeech: {len(examples)} clips")}


def _is_ljspeech(path: Path) -> bool:
    file = path if path.name == "metadata.csv" else path / "metadata.csv"
    if not file.is_file() or not (file.parent / "wavs").is_dir():
        return False
    return "|" in next((line for _, line in numbered_lines(file)), "")


def read_common_voice(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read Common Voice: `train.tsv`, `dev.tsv`, `test.tsv` (else `validated.tsv`), or one table, beside `clips/`.

    Rows of a table that is named itself keep its columns `path` and `sentence`, so that either name can be mapped.

    Raises:
        DataError: a table without `path` and `sentence`, a line of another width, a clip that does not exist.
    """
    names = {"train": "train", "dev": "validation", "test": "test"}
    files = {split: path / f"{name}.tsv" for name, split in names.items() if (path / f"{name}.tsv").is_file()}
    if path.is_file():
        files = {split_named(path.stem) or "train": path}
    made = {}
    for split, file in (files or {"train": path / "validated.tsv"}).items():
        lines = list(numbered_lines(file))
        header = lines[0][1].split("\t") if lines else []
        if not {"path", "sentence"} <= set(header):
            raise DataError(f"{file}:1: has no columns `path` and `sentence`", hint="give Common Voice's own table")
        examples: list[Located] = []
        for number, line in lines[1:]:
            cells = line.split("\t")
            if len(cells) != len(header):
                cause = f"has {len(cells)} fields where the header has {len(header)}"
                raise DataError(f"{file}:{number}: {cause}", hint="correct the line")
            row = dict(zip(header, cells))
            extra: dict[str, Any] = {
                name: row[name] for name in ("client_id", "gender", "age", "accents") if name in row
            }
            clip = named_clip(file.parent / "clips", row["path"], file, number)
            if path.is_file():
                extra |= {"path": clip, "sentence": row["sentence"] or None}
            examples.append((number, {"audio": clip, "text": row["sentence"] or None, **extra}))
        made[split] = table_of(examples, file, f"{file}: read as Common Voice: {len(examples)} clips")
    return made


def _is_common_voice(path: Path) -> bool:
    if path.is_file():
        if path.suffix.lower() != ".tsv" or not (path.parent / "clips").is_dir():
            return False
        header = next((line for _, line in numbered_lines(path)), "").split("\t")
        return {"path", "sentence"} <= set(header)
    return (path / "clips").is_dir() and any(
        (path / f"{name}.tsv").is_file() for name in ("train", "dev", "test", "validated")
    )


def read_librispeech(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read a tree of LibriSpeech: `speaker/chapter/*.trans.txt` beside the clips, in folders such as dev-clean/."""
    by_split: dict[str, tuple[list[Located], list[Path]]] = {}
    for file in sorted(path.rglob("*.trans.txt")):
        splits = (split_named(part.split("-")[0]) for part in file.relative_to(path).parts[:-1])
        examples, files = by_split.setdefault(next(filter(None, splits), "train"), ([], []))
        for number, line in numbered_lines(file):
            if not line.strip():
                continue
            name, _, text = line.partition(" ")
            audio = named_clip(file.parent, name, file, number)
            examples.append((number, {"audio": audio, "text": text, "speaker": name.split("-")[0]}))
            files.append(file)
    return {
        split: table_of(examples, files, f"{path}: read as LibriSpeech: {len(examples)} clips ({split})")
        for split, (examples, files) in by_split.items()
    }


def _is_speech_commands(path: Path) -> bool:
    if not path.is_dir():
        return False
    return all((path / name).is_file() for name in _LISTS) or (path / _BACKGROUND).is_dir()


def read_speech_commands(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read a tree of Speech Commands: `word/speaker_nohash_0.wav`, and lists of the clips of validation and test.

    Recordings of background noise are no examples of a word and are left out (Warden 2018, arXiv 1804.03209).

    Raises:
        DataError: a list names a clip that does not exist.
    """
    split_of: dict[str, str] = {}
    for name, split in _LISTS.items():
        file = path / name
        for number, line in numbered_lines(file) if file.is_file() else ():
            if line.strip():
                named_clip(path, line.strip(), file, number)
                split_of[line.strip()] = split
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith((".", "_")))
    by_split: dict[str, list[Path]] = {"train": []}
    for folder in folders:
        for clip in sorted(folder.iterdir()):
            if clip.suffix.lower() in CLIPS:
                split = split_of.get(clip.relative_to(path).as_posix(), "train")
                by_split.setdefault(split, []).append(clip)
    words = [folder.name for folder in folders]
    noise = "; _background_noise_ is left out" if (path / _BACKGROUND).is_dir() else ""
    return {
        split: table_of(
            [
                (None, {"audio": file_cell(clip), "label": words.index(clip.parent.name), "speaker": _speaker(clip)})
                for clip in clips
            ],
            clips,
            f"{path}: read as Speech Commands: {len(clips):,} clips of {len(words)} words ({split}){noise}",
            {"label": words},
        )
        for split, clips in by_split.items()
        if clips
    }


def _speaker(clip: Path) -> str:
    return clip.stem.partition("_")[0]


def read_nemo(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read a manifest of NeMo: JSON lines with `audio_filepath` (relative to it) and `text`.

    Raises:
        DataError: a line without `audio_filepath`, or one whose clip does not exist.
    """
    examples: list[Located] = []
    parts = 0
    for line, record in located_records(path):
        if not isinstance(record.get("audio_filepath"), str):
            raise DataError(f"{path}:{line}: has no `audio_filepath`", hint="name the clip of every line")
        clip = named_clip(path.parent, record["audio_filepath"], path, line)
        if record.get("offset") is not None:
            clip |= _part(path, line, record)
            parts += 1
        rest = {name: value for name, value in record.items() if name not in ("audio_filepath", "audio")}
        examples.append((line, {"audio": clip, **rest}))
    remark = f"{path}: read as a manifest of NeMo: {len(examples)} clips"
    return {"train": table_of(examples, path, remark + (f", {parts} of them parts of files" if parts else ""))}


def _part(path: Path, line: int, record: Mapping[str, Any]) -> dict[str, float]:
    """Return where a clip begins in its file and how long it is, in seconds."""
    numbers = {"offset": record["offset"], "duration": record.get("duration")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise DataError(f"{path}:{line}: `{name}` is {value!r}, no seconds", hint="write offset and duration")
    return {name: float(value) for name, value in numbers.items()}


def _is_nemo(path: Path) -> bool:
    return any("audio_filepath" in record for record in first_records(path)[:1])


LAYOUTS = (
    Layout("ljspeech", _is_ljspeech, read_ljspeech),
    Layout("common-voice", _is_common_voice, read_common_voice),
    Layout(
        "librispeech",
        lambda path: path.is_dir() and any(next(path.glob("*/" * depth + "*.trans.txt"), None) for depth in range(5)),
        read_librispeech,
    ),
    Layout(
        "speech-commands",
        _is_speech_commands,
        read_speech_commands,
    ),
    Layout("nemo", _is_nemo, read_nemo),
)
