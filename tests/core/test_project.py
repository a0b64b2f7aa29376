"""The project around the code: wheel, extras, the README's figures, Dockerfile, workflow, changelog."""

from __future__ import annotations

import os
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = sorted(set(PROJECT["project"]["optional-dependencies"]) - {"test"})
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: the two commands with `pip install` in code blocks
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if "pip install" in line
]


def product_code() -> str:
    files = [file for folder in ("core", "plugins") for file in (ROOT / folder).rglob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    builders = pytest.importorskip("hatchling.builders.wheel")
    (file,) = builders.WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_packages_and_the_recipes(wheel) -> None:
    packages = [ROOT / name for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    files = {
        file.relative_to(package.parent).as_posix()
        for package in packages
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"
    }
    files |= {
        f"topwork/recipes/{file.relative_to(ROOT / 'recipes').as_posix()}" for file in ROOT.glob("recipes/**/*.yaml")
    }
    assert len(files) > 500
    assert files <= wheel, sorted(files - wheel)
    assert not [name for name in wheel if name.startswith(("tests", "core/", "plugins/")) or "__pycache__" in name]
    assert {package.name for package in packages} == {
        name.partition("/")[0] for name in wheel if ".dist-info/" not in name
    }


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_is_dead(extra) -> None:
    """Some product code says which extra is missing, by its name."""
    named = re.findall(r"topwork\[([\w,-]+)\]", product_code())
    trackers = {"tensorboard", "trackio", "wandb", "mlflow"} if "topwork[{name}]" in product_code() else set()
    assert extra in {name for names in named for name in names.split(",")} | trackers


def test_the_required_packages_are_pinned() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    pinned = {name.replace("_", "-") for name in pinned}
    wanted = {re.split(r"[<>=\[; ]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    assert wanted <= pinned, wanted - pinned


def test_the_readme_counts_the_packages_of_its_first_command() -> None:
    """The count is that of the closure of the required packages, wherever it can be followed."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    seen: set[str] = set()

    def follow(name: str, extras: frozenset[str] = frozenset()) -> None:
        plain = re.sub(r"[-_.]+", "-", name.lower())
        if plain in seen and not extras:
            return
        seen.add(plain)
        try:
            lines = requires(plain) or []
        except PackageNotFoundError:
            return
        for requirement in map(Requirement, lines):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": x}) for x in ("", *extras)):
                follow(requirement.name, frozenset(requirement.extras))

    follow("topwork")
    plain = {name for name in seen if not name.startswith(("nvidia-", "cuda-", "triton"))}
    stated = int(re.search(r"(\d+) packages", README).group(1)) - int(
        re.search(r"of which (\d+) are CUDA's", README).group(1)
    )
    assert abs(len(plain) - 1 - stated) <= 5, (sorted(plain), stated)


def test_the_dockerfile_does_the_readmes_first_command() -> None:
    lines = (ROOT / ".github/Dockerfile").read_text().splitlines()
    steps = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM" and re.fullmatch(r"python:3\.(\d+)-slim", steps[0][2])
    least = int(PROJECT["project"]["requires-python"].rpartition(".")[2])
    assert int(steps[0][2].split(".")[1].partition("-")[0]) >= least
    installs = [text for word, _, text in steps if word == "RUN"]
    install, run = COMMANDS[0].split(" && ")
    assert install.replace("pip install", "pip install --no-cache-dir") in installs[0]
    assert f"topwork {run.removeprefix('topwork ')}" == "topwork run quickstart"
    assert ("ENTRYPOINT", " ", '["topwork"]') in steps and ("CMD", " ", '["run", "quickstart"]') in steps
    user = next(index for index, step in enumerate(steps) if step[0] == "USER")
    assert steps[user][2] != "root" and f"useradd --create-home {steps[user][2]}" in installs[0]


def test_the_workflow_runs_the_one_command_for_all_checks() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step].count(".ci/run") == 1
    for script in ("run", "transformers"):
        assert os.access(ROOT / ".ci" / script, os.X_OK)
    assert "pip wheel" in (ROOT / ".ci/run").read_text()


def test_the_changelog_knows_this_version_and_how_names_go() -> None:
    text = (ROOT / ".github/CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {PROJECT['project']['version']}" in text and "## Deprecation policy" in text


def test_the_lowest_and_the_newest_transformers_are_those_of_the_requirement() -> None:
    (requirement,) = [line for line in PROJECT["project"]["dependencies"] if line.startswith("transformers")]
    match = re.search(r"sed -n '(s/[^']*)'", (ROOT / ".ci/transformers").read_text())
    assert match is not None and re.fullmatch(r"transformers>=5\.\d+,<6", requirement)
    line = next(
        line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith('  "transformers')
    )
    assert re.fullmatch(r'  "transformers(.*)",', line).group(1) == requirement.removeprefix("transformers")


def test_a_tokenizer_whose_package_is_missing_names_the_extra(tmp_path, monkeypatch) -> None:
    import transformers

    from topwork import CheckpointError
    from topwork_bases.transformers.sources import find_processor

    def missing(*_: object, **__: object) -> None:
        raise ImportError("MarianTokenizer requires the SentencePiece library")

    (tmp_path / "tokenizer_config.json").write_text("{}")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(CheckpointError, match="SentencePiece") as caught:
        find_processor(str(tmp_path), "tokenizer", None, {})
    assert "topwork[translation]" in str(caught.value.hint)
