"""`topwork plugins new` writes packages whose tests pass; `topwork plugins check` names broken contracts."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path

import pytest

from topwork.cli.app import main
from topwork.hookspecs import CONTRACT

HEAD = "from topwork import Stage, Task, hookimpl\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package of a kind, and make it and its tests importable."""

    def write(kind: str) -> Path:
        assert main(["plugins", "new", f"topwork-fresh-{kind}", "--kind", kind, "--folder", str(tmp_path)]) == 0
        folder = tmp_path / f"topwork-fresh-{kind}"
        for path in (folder, folder / "tests"):
            monkeypatch.syspath_prepend(path)
        return folder

    yield write
    for name in [name for name in sys.modules if name.startswith(("topwork_fresh", "test_topwork_fresh"))]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["task", "stage", "observer", "base"])
def test_a_new_package_passes_its_tests_and_the_check(kind, package, tmp_path, capsys) -> None:
    folder = package(kind)
    tests = importlib.import_module(f"test_topwork_fresh_{kind}")
    functions = [function for name, function in vars(tests).items() if name.startswith("test_")]
    assert functions
    for index, function in enumerate(functions):
        scratch = tmp_path / f"scratch{index}"
        scratch.mkdir()
        function(*([scratch] if "tmp_path" in inspect.signature(function).parameters else []))
    capsys.readouterr()
    assert main(["plugins", "check", str(folder), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert len(findings) > 1 and all(finding["ok"] for finding in findings)
    assert f"TOPWORK_CONTRACT = {CONTRACT}" in (folder / f"topwork_fresh_{kind}" / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("topwork-train", ["--kind", "stage"], "the name `train` is taken by train"),
        ("topwork-summarization", [], "the name `summarization` is taken"),
        ("console", ["--kind", "observer"], "the name `console` is taken"),
        ("Topwork Vowels", [], "is no name of a package"),
        ("../vowels", [], "is no name of a package"),
        ("topwork-vowels", ["--kind", "head"], "unknown kind of plugin `head`"),
        ("topwork-there", [], "there is something of that name already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, options, text, tmp_path, capsys) -> None:
    (tmp_path / "topwork-there").mkdir()
    assert main(["plugins", "new", name, "--folder", str(tmp_path), *options]) == 2
    assert text in capsys.readouterr().err


BROKEN = {
    "import": ("import nothing_of_this_name", "plugin broken loads", "No module named 'nothing_of_this_name'"),
    "exit": ("raise SystemExit(0)", "plugin broken loads", "SystemExit"),
    "hook": (HEAD + "@hookimpl\ndef stage_dun(run): pass", "plugin broken loads", "there is no hook `stage_dun`"),
    "contract": (f"TOPWORK_CONTRACT = {CONTRACT + 1}", "plugin broken loads", f"version {CONTRACT + 1} of the plugin"),
    "contract, a text": ("TOPWORK_CONTRACT = '1'", "plugin broken loads", "a whole number from 1, not '1'"),
    "nothing": ("def stage_done(run): pass", "plugin broken", "it brings nothing"),
    "stage": (
        HEAD + "class S(Stage):\n  '''Of a name with a space.'''\n  name = 'a b'\n"
        "  def __call__(self, run): return {}\n@hookimpl\ndef register_stages(): return [S]",
        "stage a b",
        "the name 'a b' is no identifier",
    ),
    "task": (
        HEAD
        + "class T(Task):\n  '''Without columns.'''\n  name = 'bare'\n"
        + "".join(f"  def {name}(self, *a, **k): return None\n" for name in ("build", "encode", "collate", "predict"))
        + "".join(f"  def {name}(self, *a, **k): return None\n" for name in ("loss", "merge", "metric"))
        + "  @classmethod\n  def learn(cls, *a): return None\n  @classmethod\n  def example_rows(cls): return []\n"
        "@hookimpl\ndef register_tasks(): return [T]",
        "task bare",
        "`columns` must be a dict",
    ),
    "command": (
        HEAD + "def shout(): pass\n@hookimpl\ndef register_commands(): return [shout]",
        "command shout",
        "docs",
    ),
    "sample": (
        HEAD + "@hookimpl\ndef register_samples(): return {'none': 'no rows'}\n"
        "@hookimpl\ndef load_rows(source, options): return [] if source == 'sample:none' else None",
        "sample none",
        "has no rows",
    ),
    "rows": (HEAD + "@hookimpl\ndef load_rows(source, options): return [{'a': 1}]", "hook load_rows", "answer None"),
    "base": (HEAD + "@hookimpl\ndef load_base(name, options): return 5", "hook load_base", "promised is a base"),
    "layer": (
        HEAD + "@hookimpl\ndef attention_layer(path, module): raise RuntimeError('of torch')",
        "hook attention_layer",
        "RuntimeError: of torch",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_named(case, tmp_path, capsys) -> None:
    text, subject, detail = BROKEN[case]
    file = tmp_path / "broken.py"
    file.write_text(text + "\n")
    with pytest.warns(RuntimeWarning) if case == "nothing" else pytest.MonkeyPatch.context():
        assert main(["plugins", "check", str(file), "--json"]) == 1
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings[subject]["ok"] and detail in findings[subject]["detail"]


def test_installed_plugins_are_checked_by_name_and_others_are_unknown(capsys) -> None:
    assert main(["plugins", "check", "evaluate"]) == 0
    assert "ok    stage evaluate" in capsys.readouterr().out
    assert main(["plugins", "check", "evaluat"]) == 2
    assert "did you mean `evaluate`" in capsys.readouterr().err
    assert main(["plugins", "check"]) == 2
    assert main(["plugins", "chek", "evaluate"]) == 2
