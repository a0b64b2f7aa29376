"""Failures under `--json`: stdout holds one object with the key `error`; and lists of one stage or task."""

from __future__ import annotations

import io
import json

import pytest

from topwork import load_plugins
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
        "class Own(BaseException): pass\n"
        "def ends(as_json: bool = False): raise Own('own')\n"
        "@topwork.hookimpl\ndef register_commands(): return [fails, stops, ends]\n"
    )
    assert main(["--plugin", str(plugin), "fails", "--as-json"]) == 1
    assert capsys.readouterr().out == ""
    plugin.write_text(plugin.read_text().replace("as_json", "json"))
    assert main(["--plugin", str(plugin), "fails", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ZeroDivisionError"
    assert main(["--plugin", str(plugin), "ends", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["message"], error["exit_code"]) == ("Own", "Own: own", 1)
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


def test_every_task_stage_base_and_format_can_be_described(plugins, capsys) -> None:
    from topwork.cli.listing import KINDS

    for kind in ("tasks", "stages", "bases", "formats"):
        for entry in KINDS[kind](plugins):
            assert main(["list", kind, entry["name"]]) == 0
            shown = capsys.readouterr().out
            assert shown.startswith(entry["name"]) and "\noptions\n" in shown and "\nexample\n" in shown


def test_the_example_of_a_task_or_stage_is_part_of_a_recipe(plugins) -> None:
    import yaml

    from topwork.cli.description import describe
    from topwork.recipe.recipe import make_base_options, make_stage, make_task_options

    for name, stage in plugins.stages.items():
        (use,) = yaml.safe_load(describe("stages", name, plugins)["example"])["stages"]
        options = use[name] if isinstance(use, dict) else {}
        if options and all(value != option.upper() for option, value in options.items()):  # nothing to be filled in
            assert isinstance(make_stage(name, options, plugins), stage)
    for name in plugins.tasks:
        content = yaml.safe_load(describe("tasks", name, plugins)["example"])
        task = content["task"] if isinstance(content["task"], dict) else {"name": content["task"]}
        make_task_options(task.pop("name"), task, plugins)
        for base in [content["base"]] if "model" in str(content.get("base")) and "base" in content else ():
            base = base if not isinstance(base, dict) or {"model", "config"} & set(base) else base.popitem()[1]
            make_base_options(base)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["formats", "yol"], "unknown format `yol`; did you mean `yolo`?"),
        (["bases", "bert"], "unknown base `bert`; known: bases, timm"),
        (["samples", "x"], "`samples` cannot be described one by one; tasks, stages, bases, formats can"),
    ],
)
def test_what_cannot_be_described_is_said(arguments, text, capsys) -> None:
    assert main(["list", *arguments]) == 2
    assert text in capsys.readouterr().err


COMMANDS = list(load_plugins().commands)
#: command -> arguments with which it fails
FAILING = {
    "run": ["nothing.yaml"],
    "resume": ["nowhere"],
    "data": ["nothing.yaml"],
    "list": ["tsks"],
    "cat": ["nothing"],
    "cp": ["nothing"],
    "new": ["text-clasification"],
    "predict": ["nowhere", "nothing.csv"],
    "evaluate": ["nowhere", "nothing.csv"],
    "plugins": ["new", "text-classification"],
    "compress": ["nowhere", "--data", "nothing.csv"],
    "architectures": ["brt"],
    "report": ["nowhere"],
    "sweep": ["nothing.yaml", "-s", "stages.train.epochs=1,2"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_gives_an_error_object_for_wrong_arguments(command, capsys) -> None:
    assert main([command, "--no-such-option", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


@pytest.mark.parametrize("command", FAILING)
def test_every_command_gives_an_error_object_when_it_fails(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    if command == "plugins":  # the folder is there already
        (tmp_path / "text-classification").mkdir()
        (tmp_path / "text-classification" / "file").touch()
    code = main([command, *FAILING[command], "--json"])
    shown = capsys.readouterr()
    assert code in (1, 2)
    error = json.loads(shown.out)["error"]
    assert error["exit_code"] == code
    assert error["message"] in shown.err, shown.err
    assert "wrong arguments" not in error["message"]
    assert "Traceback" not in shown.err


class Terminal(io.StringIO):
    """Stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "silent", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)])
def test_ok_and_errors_have_colours_on_a_terminal_alone(terminal, silent, coloured, tmp_path, monkeypatch) -> None:
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", silent)
    (tmp_path / "bad.yaml").write_text("task: tetx\nbase: x\nstages: [train]\n")
    assert main(["validate", "quickstart", str(tmp_path / "bad.yaml")]) == 2
    assert main(["list", "tsks"]) == 2
    assert ("\033[32mok\033[0m" in out.getvalue()) == coloured
    assert (err.getvalue().count("\033[31m") == 2) == coloured
    assert ("\033" in out.getvalue() + err.getvalue()) == coloured


def test_options_of_an_optional_part_are_listed_with_their_types(capsys) -> None:
    assert main(["list", "stages", "train", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    options = {option["name"]: option for option in described["options"]}
    assert options["lora"] | {"about": ""} == {"name": "lora", "type": "options | null", "default": "null", "about": ""}
    assert (options["lora.r"]["type"], options["lora.r"]["default"]) == ("int", "8")
    assert options["lora.targets"]["type"] == "attention | neurons | all | list[str]"
    assert all(option["about"] for option in options.values())
    assert "train" in described["example"]
