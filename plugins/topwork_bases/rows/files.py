"""Local files as rows: which files a path means, which format they have, and what is wrong with them.

The formats are those of `datasets`; a folder's format is the one that most of its files have.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import DataError, Origin, Table, UsageError, choose_split, listed, unknown
from topwork_bases.rows.described import folder_remark, split_of
from topwork_bases.rows.parquet_files import check_growth
from topwork_bases.rows.text_files import PACKED, check_regular, check_unpacked, common_encoding, read_through
from topwork_bases.rows.walking import files_below, has_links, left_out

if TYPE_CHECKING:
    from topwork import RowsOptions

_METADATA = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
_SAVED = {"dataset_info.json", "dataset_dict.json", "state.json"}
_OURS = {
    "tsv": "csv",
    "jsonl": "json",
    "ndjson": "json",
    "images": "imagefolder",
    "audio": "audiofolder",
    "txt": "text",
}
_MEDIA = ("audiofolder", "imagefolder", "videofolder")
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
#: suffixes that `datasets` takes for rows and topwork does not
_NO_ROWS = (".md", ".toml", ".xml", ".eval")
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")


@dataclass(frozen=True)
class Files:
    """Files that a path names; `folder` is set for a folder, else `paths` are the files; `links` lead out of it."""

    format: str
    paths: tuple[Path, ...]
    folder: Path | None = None
    links: bool = False


def find(source: str, options: RowsOptions) -> Files | None:
    """Return the files that `source` means; None when it looks like the name of a Hub data set."""
    if source.startswith(("http://", "https://", "hf://")):
        return Files(_format(options, [Path(source)], source), (), None)
    path = Path(source).expanduser()
    check_regular(path)
    if path.is_dir():
        paths = _inside(path)
        saved = options.format is None and any((path / name).is_file() for name in _SAVED)
        if not paths:
            raise UsageError(f"folder `{source}` holds no files", hint="check the path")
        name = "saved" if saved else _format(options, paths, source)
        return Files(name, tuple(paths), path, has_links(path, paths))
    if path.is_file():
        return Files(_format(options, [path], source), (path,))
    if glob.has_magic(source):
        paths = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not paths:
            raise UsageError(f"no file matches `{source}`", hint="check the pattern and the working folder")
        return Files(_format(options, paths, source), tuple(paths))
    if options.format or source.startswith((".", "/", "~")) or _suffix(path) in _formats() or source.count("/") > 1:
        raise UsageError(f"there is no file or folder `{source}`", hint=f"paths are taken from {Path.cwd()}")
    return None


def _inside(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in files_below(folder)
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def _suffix(path: Path) -> str:
    """Return the suffix that tells the format, in lower case: `.csv` of `rows.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _formats() -> dict[str, str]:
    """Suffix -> format, as `datasets` has them; README.md and other prose in a data folder is not rows."""
    from datasets.packaged_modules import _EXTENSION_TO_MODULE

    return {suffix: module for suffix, (module, _) in _EXTENSION_TO_MODULE.items() if suffix not in _NO_ROWS}


def _format(options: RowsOptions, paths: list[Path], source: str) -> str:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if options.format is not None:
        name = _OURS.get(options.format, options.format)
        if name not in _PACKAGED_DATASETS_MODULES:
            if not any(path.exists() for path in paths):
                raise UsageError(f"there is no file or folder `{source}`", hint=f"paths are taken from {Path.cwd()}")
            fault = unknown("format", options.format, [*_PACKAGED_DATASETS_MODULES, *_OURS])
            fault.hint = "; ".join(filter(None, (fault.hint, "layouts: `topwork list formats`")))
            raise fault
        return name
    formats = _formats()
    rows = [path for path in paths if path.name not in _METADATA] or paths
    counts = Counter(formats[_suffix(path)] for path in rows if _suffix(path) in formats)
    if not counts:
        if any(_suffix(path) in _SPREADSHEETS for path in rows):
            raise UsageError(
                f"`{source}` is a spreadsheet, not a table of text",
                hint="save the sheet as `CSV UTF-8` and give that file",
            )
        if any(_suffix(path) in _ARCHIVES for path in rows):
            raise UsageError(f"`{source}` is an archive, not rows", hint="unpack it, and give the folder or the file")
        raise UsageError(
            f"the format of `{source}` cannot be told from its name",
            hint="write the rows as csv, jsonl or parquet; or say how they are written: `format: csv`, json, text ...",
        )
    media = {name: count for name, count in counts.items() if name in _MEDIA}
    if media and counts["text"] <= max(media.values()):  # a text beside every clip is not what the folder holds
        del counts["text"]
    return counts.most_common(1)[0][0]


def read_files(files: Files, source: str, options: RowsOptions) -> Any:
    """Read the rows of the files, the split chosen.

    Returns:
        a `Table`; a stream of `datasets` with `streaming`.
    """
    if files.format == "saved":
        return _saved(files, source, options)
    if files.format == "audiofolder":
        from topwork_bases.rows import audio_files

        splits = audio_files.read_audio_files(files.paths, files.folder)
        for table in splits.values():
            table.remarks = table.remarks or [f"{source}: {folder_remark(table.rows, 'clips')}"]
            table.remarks += _left_out(files)
        if options.streaming:
            return choose_split({name: table.stream() for name, table in splits.items()}, options.split, source)
        return choose_split(splits, options.split, source)
    if files.format == "imagefolder" and files.folder is not None and not options.options:
        tables = [path for path in files.paths if path.name == "metadata.csv"]
        if tables:
            return choose_split(_described_images(tables, files, options), options.split, source)
    if files.format in ("csv", "json") and files.paths and not {"data_files", "data_dir"} & set(options.options):
        return choose_split(_text_tables(files, source, options), options.split, source)
    return _by_library(files, source, options)


def _described_images(tables: list[Path], files: Files, options: RowsOptions) -> dict[str, Any]:
    """Return the images that tables of text describe, by split; `datasets` would guess the types of their cells."""
    import datasets

    from topwork_bases.rows.described import read_described

    made = read_described(tables, files.folder, "image", datasets.Image())
    return {split: table.stream() for split, table in made.items()} if options.streaming else dict(made)


def _by_library(files: Files, source: str, options: RowsOptions) -> Any:
    """Return the rows as `datasets` reads them."""
    import datasets

    if files.format == "text":
        check_unpacked(files.paths)
    if files.format == "parquet":
        check_growth(files.paths)
    where = _where(files, source, options)
    try:
        loaded = datasets.load_dataset(files.format, name=options.name, streaming=options.streaming, **where)
    except Exception as error:
        raise _explain(files, source, error, options.options.get("encoding")) from error
    rows = choose_split(loaded, options.split, source)
    if not options.streaming and files.format == "imagefolder" and files.folder is not None:
        return Table(rows, remarks=[f"{source}: {folder_remark(rows, 'images')}", *_left_out(files)])
    if options.streaming or len(files.paths) != 1 or files.folder is not None:
        return rows
    if options.split is not None and "[" in options.split:
        return rows
    lines = np_lines(rows) if files.format == "text" else None
    return Table(rows, Origin((str(files.paths[0]),), lines=lines))


def _left_out(files: Files) -> list[str]:
    """Return a line about the files of a folder of media that are no rows."""
    known = {suffix.lower() for suffix, name in _formats().items() if name == files.format}
    remark = left_out(files.paths, known) if files.folder is not None else None
    return [f"{files.folder}: {remark}"] if remark else []


def np_lines(rows: Any) -> Any:
    """Return the lines of a file of which each is a row."""
    import numpy as np

    return np.arange(1, len(rows) + 1)


def _text_tables(files: Files, source: str, options: RowsOptions) -> dict[str, Any]:
    """Return tables of csv, tsv or JSON by split."""
    from topwork_bases.rows.records import read_records
    from topwork_bases.rows.tables import read_table

    made: dict[str, Any] = {}
    for split, paths in _splits_of(files).items():
        tables = []
        for path in paths:
            if files.format == "csv":
                tab = options.format == "tsv" or ".tsv" in path.name.lower()
                tables.append(read_table(path, options.options, tab))
            else:
                tables.append(read_records(path, options.options))
        for path, table in zip(paths[1:], tables[1:]):
            if table.column_names != tables[0].column_names:
                raise DataError(
                    f"{path}: has the columns {listed(table.column_names)}, {paths[0]} has "
                    f"{listed(tables[0].column_names)}",
                    hint="every file must have the same columns",
                )
        made[split] = Table.concatenate(tables)
        made[split].remarks = [remark for table in tables for remark in table.remarks]
    return {split: table.stream() for split, table in made.items()} if options.streaming else made


def _splits_of(files: Files) -> dict[str, list[Path]]:
    """Return the files by split: of a folder as `datasets` divides it by names, else all are training rows."""
    if files.folder is None:
        return {"train": list(files.paths)}
    suffixes = {suffix for suffix, name in _formats().items() if name == files.format}
    readable = [path for path in files.paths if _suffix(path) in suffixes] or list(files.paths)
    if files.links:
        return _linked_splits(files.folder, readable)
    import datasets

    try:
        builder = datasets.load_dataset_builder(files.format, data_dir=str(files.folder))
    except Exception as error:
        raise _explain(files, str(files.folder), error) from error
    known = {path.resolve(): path for path in readable}
    splits = {
        str(split): [known[Path(name).resolve()] for name in names if Path(name).resolve() in known]
        for split, names in (builder.config.data_files or {}).items()
    }
    return {split: paths for split, paths in splits.items() if paths}


def _linked_splits(folder: Path, paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files by the split that their first folder names: `datasets` does not follow links."""
    made: dict[str, list[Path]] = {}
    for path in paths:
        made.setdefault(split_of(path, folder) or "train", []).append(path)
    return made


def _where(files: Files, source: str, options: RowsOptions) -> dict[str, Any]:
    """Return the arguments of `load_dataset` that say what to read."""
    given = dict(options.options)
    names = [path.name.lower() for path in files.paths] or [source]
    if files.format == "csv" and any(".tsv" in name for name in names):
        given.setdefault("sep", "\t")
    if options.format == "tsv":
        given.setdefault("sep", "\t")
    if files.format == "text" and files.paths:
        given.setdefault("encoding", common_encoding(files.paths))
    if "data_files" in given or "data_dir" in given:
        return given
    if files.folder is not None and (files.links or files.format == "text"):
        given["data_files"] = {name: list(map(str, paths)) for name, paths in _splits_of(files).items()}
    elif files.folder is not None:
        given["data_dir"] = str(files.folder)
    else:
        given["data_files"] = [str(path.resolve()) for path in files.paths] or [source]
    return given


def _saved(files: Files, source: str, options: RowsOptions) -> Any:
    """Return a folder that `save_to_disk` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(files.folder))
    except Exception as error:
        raise DataError(f"{files.folder}: cannot be read as a saved data set: {_line(error)}") from error
    rows = choose_split(loaded, options.split, source)
    return rows.to_iterable_dataset() if options.streaming else rows


def _explain(files: Files, source: str, error: Exception, encoding: str | None = None) -> DataError | UsageError:
    """Return the fault of the files: the first one that cannot be read, and its line."""
    import datasets

    if files.format == "text":
        for path in files.paths:
            try:
                read_through(path, encoding)
            except (DataError, UsageError) as undecodable:
                return undecodable

    if isinstance(error, datasets.exceptions.DataFilesNotFoundError):
        return UsageError(f"`{source}` holds no {files.format} files", hint="check the path and `format`")
    for path in files.paths:
        fault = _fault(path, files.format)
        if fault:
            return DataError(f"{path}{fault}", hint="mend the file, or give the right `format` and `options`")
    if type(error) in (TypeError, ValueError):
        return UsageError(
            f"`{source}` cannot be read as {files.format}: {_line(error)}", hint="check `name` and `options`"
        )
    cause = error.__cause__ or error
    if isinstance(error, datasets.exceptions.DatasetGenerationCastError):
        cause = error
    return DataError(
        f"{source}: cannot be read as {files.format}: {_line(cause)}",
        hint="every file must have the same columns, each with values of one kind",
    )


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__


def _fault(path: Path, format_name: str) -> str | None:
    """Return the fault of a text file as `:line: cause`; None when it is read without trouble."""
    if format_name not in ("csv", "json", "text") or _suffix(path) != path.suffix.lower():
        return None
    data = path.read_bytes()
    if not data.strip():
        return ": the file is empty"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f":{line}: not UTF-8 ({error.reason})"
    if format_name == "json":
        return _json_fault(text)
    if format_name == "csv":
        import pandas

        try:
            pandas.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
        except Exception as error:
            return f": {_line(error)}"
    return None


def _json_fault(text: str) -> str | None:
    """Return the first fault of JSON, or of JSON lines."""
    try:
        json.loads(text)
    except json.JSONDecodeError as whole:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                json.loads(line)
            except json.JSONDecodeError as error:
                if number == 1 and whole.lineno > 1 and "Extra data" not in whole.msg:
                    return f":{whole.lineno}: {whole.msg}"
                return f":{number}: {error.msg} (column {error.colno})"
    return None
