"""Upload of a model folder to the Hub: first the plan, then the deed. Entry points: `Plan.of`, `Plan.upload`.

The files are those that the manifest lists, its weights, the manifest and the card; anything else in the folder stays.
The token is the one that `hf auth login` or HF_TOKEN gives; it is never read, shown or written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topwork import CheckpointError, Json, TopworkError, UsageError, write_text

MANIFEST, CARD = "topwork.json", "README.md"
_REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(?<![.-])")


@dataclass(frozen=True)
class Plan:
    """Plan of an upload.

    Args:
        folder: the model folder.
        repo: id of the repository, owner/name.
        files: path in the folder -> bytes, of all that is uploaded.
        left_out: files of the folder that are not uploaded.
        private: of a repository that does not exist yet.
        revision: branch; None for the main one.
        message: of the commit.
        card: entries of the card's front matter, such as license and language.
    """

    folder: Path
    repo: str
    files: dict[str, int]
    left_out: list[str] = field(default_factory=list)
    private: bool = True
    revision: str | None = None
    message: str = "Upload a model of topwork"
    card: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        folder: Path,
        repo: str,
        *,
        private: bool = True,
        revision: str | None = None,
        message: str | None = None,
        license_id: str | None = None,
        languages: Sequence[str] = (),
    ) -> Plan:
        """Return the plan for a folder; nothing is sent.

        Raises:
            UsageError: the name of the repository is none.
            CheckpointError: the folder is no model folder, or files of it are missing.
        """
        if not _REPOSITORY.fullmatch(repo):
            raise UsageError(f"`{repo}` is no name of a repository", place="repo", hint="owner/name")
        listed = _listed(folder)
        there = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        if missing := [name for name in listed if name not in there]:
            raise CheckpointError(f"`{missing[0]}` is missing", place=str(folder), hint="save the model again")
        card: dict[str, Json] = {"license": license_id} if license_id else {}
        card |= {"language": list(languages)} if languages else {}
        return cls(
            folder,
            repo,
            {name: there[name].stat().st_size for name in listed},
            [name for name in there if name not in listed],
            private,
            revision,
            message or cls.message,
            card,
        )

    def lines(self) -> list[str]:
        """Return what the upload does, in lines for a person."""
        from huggingface_hub import constants

        kind = "private" if self.private else "public"
        size = sum(self.files.values()) / 1e6
        branch = f", branch {self.revision}" if self.revision else ""
        lines = [
            f"upload {len(self.files)} files ({size:.1f} MB) of {self.folder}",
            f"to {constants.ENDPOINT}/{self.repo}{branch}",
            f"the repository is made when it does not exist, {kind}",
        ]
        lines += [f"  {name} ({size} bytes)" for name, size in self.files.items()]
        lines += [f"the card gets {name}: {value}" for name, value in self.card.items()]
        if self.left_out:
            lines.append(f"left out: {', '.join(self.left_out)}")
        return lines

    def upload(self, api: Any = None) -> str:
        """Upload the files, and return the address of the commit.

        Args:
            api: what sends; by default `huggingface_hub.HfApi` with the endpoint and the token of this machine.

        Raises:
            TopworkError: the Hub refused it, or cannot be reached.
        """
        from huggingface_hub import HfApi

        api = api or HfApi(library_name="topwork")
        self.write_card()
        try:
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            if self.revision is not None:
                api.create_branch(self.repo, branch=self.revision, exist_ok=True)
            info = api.upload_folder(
                repo_id=self.repo,
                folder_path=self.folder,
                allow_patterns=[_literal(name) for name in self.files],
                revision=self.revision,
                commit_message=self.message,
            )
        except Exception as error:  # the Hub's client has many classes, and those of its transport
            raise _refused(error, self.repo) from error
        return str(info.commit_url)

    def write_card(self) -> None:
        """Put licence and languages into the front matter of the folder's card."""
        if not self.card:
            return
        from huggingface_hub import ModelCard

        file = self.folder / CARD
        card = ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True)
        for name, value in self.card.items():
            setattr(card.data, name, value)
        write_text(file, str(card))


def _listed(folder: Path) -> list[str]:
    """Return the files of a model folder: what its manifest lists, the manifest, and the card.

    Raises:
        CheckpointError: it is no model folder.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        names = [*manifest["files"], *manifest["contents"]] if "files" in manifest else list(manifest["contents"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"this is no model folder with a list of its files ({MANIFEST})",
            place=str(folder),
            hint="name a folder that the stage `save` or `export` wrote; save an old one again",
        ) from error
    if any(part in ("", ".", "..") for name in names for part in str(name).split("/")):
        raise CheckpointError("the manifest lists files outside the folder", place=str(folder))
    return list(dict.fromkeys([*map(str, names), MANIFEST, CARD]))


def _literal(name: str) -> str:
    """Return a pattern of `fnmatch` for one file."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _refused(error: Exception, repo: str) -> TopworkError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    hints = {
        401: "log in: `hf auth login`, or set HF_TOKEN",
        403: "the token may not write there: `hf auth login` with one that may",
        404: "correct the name, or log in: `hf auth login`",
    }
    first = (str(error).strip().splitlines() or [""])[0][:300]
    message = f"{type(error).__name__}: {first}" if first else type(error).__name__
    hint = hints.get(status) if isinstance(status, int) else "the Hub must be reachable, and HF_HUB_OFFLINE not set"
    return TopworkError(f"the upload failed ({message})", place=repo, hint=hint)
