"""Failures under `--json`: stdout holds one object with the key `error`; and lists of one stage or task."""

from __future__ import annotations

import json

import pytest

from topwork.cli import main

CASES = {  # kind -> (arguments, exit code, type, part of the message)
    "unknown command": (["lst", "--json"], 2, "UsageError", "did you mean `list`"),
    "unknown kind": (["list", "tsks", "--json"], 2, "UsageError", "did you mean `tasks`"),
    "unknown task": (["list", "tasks", "text-clasification", "--json"], 2, "UsageError", "did you mean"),
    "no recipe": (["run", "nothing.yaml", "--json"], 2, "UsageError", "there is no file"),
    "bad recipe": (["run", "bad.yaml", "--json"], 2, "RecipeError", "bad.yaml:1:7: task: unknown task"),
    "no run folder": (["resume", "nowhere", "--json"], 2, "UsageError", "there is no run folder"),
    "no such option": (["run", "bad.yaml", "--jsn", "--json"], 2, "UsageError", "stderr says which"),
    "no argument": (["run", "--json"], 2, "UsageError", "stderr says which"),
    "unknown plugin": (["--plugins", "lenz", "list", "--json"], 2, "UsageError", "did you mean `lens`"),
    "plugin file": (["--plugin", "no.py", "list", "--json"], 2, "UsageError", "is not a Python file"),
    "no type": (["architectures", "brt", "--json"], 2, "UsageError", "did you mean"),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_failure_is_an_object_on_stdout_and_a_line_on_stderr(kind, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("task: tetx\nbase: x\nstages: [train]\n")
    arguments, code, error, text = CASES[kind]
    assert main(arguments) == code
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert list(answer) == ["error"]
    assert (answer["error"]["type"], answer["error"]["exit_code"]) == (error, code)
    assert text in answer["error"]["message"]
    assert shown.err and "Traceback" not in shown.err
    if error == "RecipeError":
        assert "task" in [problem["path"] for problem in answer["error"]["problems"]]
    assert main([argument for argument in arguments if argument != "--json"]) == code
    assert capsys.readouterr().out in ("", shown.out[:0])


def test_an_unforeseen_error_and_ctrl_c_are_objects_too(monkeypatch, capsys, tmp_path) -> None:
    plugin = tmp_path / "odd.py"
    plugin.write_text(
        "import signal, topwork\n"
        "def fails(as_json: bool = False): 1 / 0\n"
        "def stops(as_json: bool = False): signal.raise_signal(signal.SIGINT)\n"
        "@topwork.hookimpl\ndef register_commands(): return [fails, stops]\n"
    )
    assert main(["--plugin", str(plugin), "fails", "--as-json"]) == 1
    assert capsys.readouterr().out == ""
    plugin.write_text(plugin.read_text().replace("as_json", "json"))
    assert main(["--plugin", str(plugin), "fails", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ZeroDivisionError"
    assert main(["--plugin", str(plugin), "stops", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "KeyboardInterrupt"


def test_list_all_and_the_options_of_one_stage_or_task(capsys) -> None:
    assert main(["list", "all", "--json"]) == 0
    assert {"tasks", "stages", "bases", "recipes", "samples", "plugins", "commands"} <= set(
        json.loads(capsys.readouterr().out)
    )
    assert main(["list", "stages", "train"]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate" in shown and "5e-05" in shown and "at its highest" in shown
    assert main(["list", "tasks", "text-classification", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert {"label", "text"} <= {column["name"] for column in described["columns"]}
    assert "tokenizer.vocab_size" in {option["name"] for option in described["options"]}


def test_every_task_and_stage_can_be_described(plugins, capsys) -> None:
    for kind, table in (("tasks", plugins.tasks), ("stages", plugins.stages)):
        for name in table:
            assert main(["list", kind, name]) == 0
            assert name in capsys.readouterr().out
