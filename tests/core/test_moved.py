"""One built-in task, one stage and the lens, moved unedited into packages of their own outside the repository: nothing
holds them to the place where they stood."""

from __future__ import annotations

import re
import shutil

import pytest
from elsewhere import ROOT, make_environment, run

PROJECT = """[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "9.0"

[project.entry-points.topwork]
{entry}

[tool.hatch.build.targets.wheel]
only-include = ["{content}"]
"""


def move(rest, folder, name, source, content, entry):
    """Take `source` out of the copy of the project and make a package of it."""
    project = folder / name
    project.mkdir()
    shutil.move(rest / source, project / content)
    (project / "pyproject.toml").write_text(PROJECT.format(name=name, entry=entry, content=content))
    return project


def without(pyproject, *entries):
    text = pyproject.read_text()
    for entry in entries:
        text, count = re.subn(rf"^{entry} = .*\n", "", text, flags=re.MULTILINE)
        assert count == 1, entry
    pyproject.write_text(text.replace('  "plugins/topwork_lens",\n', ""))


@pytest.mark.faults
def test_task_stage_and_lens_work_from_elsewhere(tmp_path):
    rest = tmp_path / "rest"
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "tests", "*.egg-info")
    shutil.copytree(ROOT, rest, ignore=ignored)
    without(rest / "pyproject.toml", "text-classification", "predict", "lens")
    task = "topwork_tasks/text_classification.py"
    stage = "core/topwork/stages/predict.py"
    target = "moved_task:TextClassification"
    projects = [
        move(rest, tmp_path, "moved-task", f"plugins/{task}", "moved_task.py", f'elsewhere = "{target}"'),
        move(rest, tmp_path, "moved-stage", stage, "moved_stage.py", 'stage = "moved_stage:Predict"'),
        move(rest, tmp_path, "moved-lens", "plugins/topwork_lens", "topwork_lens", 'lens = "topwork_lens.plugin"'),
    ]
    python = make_environment(tmp_path, rest, *projects)
    listed = run(python, "-m", "topwork", "plugins", cwd=tmp_path).stdout
    assert "failed:" not in listed
    for name in ("moved-task", "moved-stage", "moved-lens"):
        assert name in listed.replace("_", "-"), listed
    place = run(python, "-c", "import topwork; print(topwork.__file__)", cwd=tmp_path).stdout
    assert str(tmp_path) in place
    tests = ROOT / "tests"
    files = [
        "tasks/test_text_classification.py",
        "lens/test_pruning.py",
        "lens/test_stages.py",
        "core/test_third_party.py",
    ]
    run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", tests),
        *(tests / file for file in files),
        cwd=tmp_path,
        PYTHONPATH=f"{tests}:{tests / 'helpers'}",
    )
