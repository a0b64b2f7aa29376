"""Model folders on the Hub: what topwork saved and somebody uploaded is named by its id, and fetched into the cache."""

from __future__ import annotations

import re
from pathlib import Path

from topwork.errors import CheckpointError

#: what a model folder is made of; a repository may hold more
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """A folder as it is; for the id of a Hub repository, its copy in the local cache, fetched if it is not there.

    Args:
        revision: branch, tag or commit of the repository.

    Raises:
        CheckpointError: it is neither a folder nor a repository that can be had.
    """
    if Path(folder).expanduser().exists() or not _ID.fullmatch(str(folder)):
        return Path(folder).expanduser()
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(str(folder), revision=revision, allow_patterns=list(FILES)))
    except Exception as error:
        hint = "correct the path or the id; log in if the repository is private (`hf auth login`)"
        if constants.HF_HUB_OFFLINE:
            hint = f"correct the path, or fetch the repository once online (`hf download {folder}`)"
        cause = f"there is no such folder, and it cannot be had from the Hub ({type(error).__name__})"
        raise CheckpointError(cause, place=f"{folder}" + (f" at {revision}" if revision else ""), hint=hint) from error
