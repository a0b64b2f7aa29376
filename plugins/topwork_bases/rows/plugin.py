"""Sources of rows: data sets of the Hub, local files, globs and folders, all through `datasets`.

What a source is, is decided here; how each kind is read stands in `_files.py` (files and folders) and
`_audio_files.py` (audio, which must not need torchcodec). Choosing a split is in `_splits.py`. Limits, shuffling,
cutting and renaming are the core's business; `sample:<name>` is answered by `sample_rows`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import Table, UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions


@hookimpl
def register_formats() -> Mapping[str, str]:
    """Return what is read without a layout of its own, with a line about each."""
    return {
        "csv": "a table of text, a row a line; separator, encoding and quotation marks are recognised",
        "tsv": "a table with tabs between its columns",
        "json": "JSON or JSON lines: records, also under a key; SQuAD as downloaded: question, context, answers",
        "parquet": "a table with types, as `datasets` and pandas write it",
        "text": "a line a row: text",
        "imagefolder": "label/*.jpg, or images beside metadata.csv (.jsonl) with file_name: image, label",
        "audiofolder": "label/*.wav, or clips beside metadata.csv (.jsonl) with file_name: audio, label",
    }


@hookimpl(trylast=True)
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """Return a `datasets.Dataset` (an `IterableDataset` with `streaming`) for a file, a glob, a folder or a Hub id.

    Raises:
        UsageError: no such file, folder, format, data set, configuration or split; several splits and none named.
        DataError: a file that cannot be read; the message names the file, and the line where it is known.
    """
    if (
        ":" in source
        and not source.startswith(("hf://", "http://", "https://"))
        and not os.path.exists(Path(source).expanduser())
    ):
        return None  # some other plugin's scheme, such as sample:digits
    from topwork_bases.rows import files as _files

    files = _files.find(source, options)
    rows = _from_hub(source, options) if files is None else _files.read_files(files, source, options)
    return _without_decoding_audio(rows)


def _from_hub(source: str, options: RowsOptions) -> Any:
    """Return a data set of the Hub, or what stands of it in the local cache when offline."""
    import datasets

    from topwork import choose_split

    try:
        loaded = datasets.load_dataset(
            source,
            name=options.name,
            revision=options.revision,
            streaming=options.streaming,
            split=None,
            **options.options,
        )
    except Exception as error:
        raise _explain_hub(source, options, error) from error
    return choose_split(loaded, options.split, source)


def _explain_hub(source: str, options: RowsOptions, error: Exception) -> UsageError:
    import datasets

    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    offline = datasets.config.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE", "0") not in ("", "0")
    if offline or isinstance(error, ConnectionError):
        where = "offline mode is on (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE)" if offline else "the Hub cannot be reached"
        return UsageError(
            f"data set `{source}` is neither a local path nor in the local cache, and {where}",
            hint="give a path that exists, or run once with a connection",
        )
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return UsageError(
            f"there is no file, folder or Hub data set `{source}`",
            hint="check the spelling; a private data set needs `hf auth login`",
        )
    setting = f" (name: {options.name})" if options.name else ""
    hint = "check `name`, `revision` and `options`"
    if type(error) is RuntimeError:  # of a data set that comes with Python code, which `datasets` no longer runs
        hint = "if it comes with Python code: a version without it, often `revision: refs/convert/parquet`"
    return UsageError(f"data set `{source}`{setting} cannot be read: {text}", hint=hint)


def _without_decoding_audio(rows: Any) -> Any:
    """Audio stays bytes and path: decoding is the task's business, by soundfile, so torchcodec is not needed."""
    import datasets

    if isinstance(rows, Table):
        rows.rows = _without_decoding_audio(rows.rows)
        return rows
    for name, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Audio) and feature.decode:
            rows = rows.cast_column(name, datasets.Audio(sampling_rate=feature.sampling_rate, decode=False))
    return rows
