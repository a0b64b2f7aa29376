"""The command line: what it prints, its exit codes, and that it answers without importing what is heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from topwork.cli.app import main, split_shared
from topwork.plugins.commands import COMMANDS

PLUGIN = Path(__file__).parents[1] / "helpers" / "recipe_plugin.py"
HEAVY = ("torch", "transformers", "datasets", "timm", "torchvision", "sklearn")
RECIPE = """\
task: toy-task
base: some/model
data: {train: "sample:words"}
stages: [learn]
"""
DIGITS = """\
task: image-classification
base:
  config:
    {model_type: vit, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16,
     image_size: 8, patch_size: 4, num_channels: 1}
data:
  train: {path: "sample:digits", split: train, limit: 48}
  evaluate: {cut: 0.25}
stages:
  - train: {epochs: 1}
  - evaluate
  - save
"""


@pytest.fixture
def topwork(capsys, tmp_path: Path, monkeypatch):
    """Call the command line in an empty folder with the test plugin alone: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPWORK_PLUGINS", "console")

    def call(*arguments: str, plugin: bool = True) -> tuple[int, str, str]:
        code = main([*arguments, *(["--plugin", str(PLUGIN)] if plugin else [])])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


VALIDATE = ["validate", "language_model", "quickstart", "object_detection"]


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["plugins"], ["schema"], ["run", "--help"], VALIDATE])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    script = (
        "import sys; from topwork.cli import main; code = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "topwork", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "topwork")


def test_no_plugin_may_take_the_name_of_a_core_command(plugins) -> None:
    from topwork import hookimpl, load_plugins

    for name in COMMANDS:
        taker = type("Taker", (), {})()
        command = lambda: None  # noqa: E731
        command.__name__ = name
        taker.register_commands = hookimpl(lambda command=command: [command], specname="register_commands")
        (failed,) = load_plugins(only=[], extra=[taker]).failed
        assert f"the command `{name}`" in failed.error
    assert all(plugins.owner("command", name).package == "topwork" for name in COMMANDS)


def test_shared_options_may_stand_anywhere() -> None:
    found, rest = split_shared(
        ["--plugins", "a,b", "run", "r", "--plugin=x.py", "--disable", "c", "--quiet", "--", "--debug"]
    )
    assert rest == ["run", "r", "--", "--debug"]
    assert found == {"plugins": ["a", "b"], "disable": ["c"], "plugin": ["x.py"], "quiet": True, "debug": False}


def test_help_lists_the_commands_of_plugins(topwork) -> None:
    code, out, _ = topwork("--help")
    assert code == 0
    assert all(f"  {name} " in out for name in (*COMMANDS, "shout"))
    assert topwork("shout", "hello") == (0, "HELLO\n", "")


def test_list(topwork) -> None:
    code, out, _ = topwork("list")
    assert code == 0
    assert "toy-task  recipe_plugin  A task of nothing." in out
    code, out, _ = topwork("list", "stages", "--json")
    assert [entry["name"] for entry in json.loads(out)["stages"]] == ["learn", "measure", "score"]
    code, out, _ = topwork("list", "commands", "--json")
    assert {entry["name"] for entry in json.loads(out)["commands"]} == {*COMMANDS, "shout"}
    code, out, err = topwork("list", "stage")
    assert (code, "did you mean `stages`?" in err) == (2, True)
    code, out, err = topwork("list", "architectures")
    assert (code, "come with plugins" in err) == (2, True)


def test_a_plugin_may_list_by_a_command_of_its_own(topwork, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(
        "from topwork import hookimpl\n"
        "def architectures(json: bool = False) -> None:\n    print('json' if json else 'table')\n"
        "@hookimpl\ndef register_commands(): return [architectures]\n"
    )
    assert topwork("list", "architectures", "--plugin", "more.py") == (0, "table\n", "")
    assert topwork("list", "architectures", "--json", "--plugin", "more.py") == (0, "json\n", "")


def test_plugins(topwork) -> None:
    code, out, _ = topwork("plugins", "--json")
    shown = json.loads(out)["loaded"]
    assert code == 0
    assert [entry["name"] for entry in shown] == ["console", "recipe_plugin"]
    assert {"task toy-task", "stage learn", "command shout", "sample words"} <= set(shown[1]["brings"])
    assert "hook run_started" in topwork("plugins")[1]


def test_usage_errors(topwork, tmp_path: Path) -> None:
    for arguments, message in {
        ("lst",): "unknown command `lst`; did you mean `list`?",
        ("run",): "recipe",
        ("run", "nothing"): "unknown recipe `nothing`",
        ("run", "nothing.yaml"): "there is no file `nothing.yaml`",
        ("resume", "nothing"): "there is no run folder `nothing`",
        ("predict", "nothing"): "nothing to predict",
        ("predict", "nothing", "rows.csv"): "there is no model folder `nothing`",
        ("predict", ".", "-i", "text"): "not of the form column=value",
        ("new", "toy-taks"): "did you mean `toy-task`?",
        ("list", "--disable", "consle"): "did you mean `console`?",
        ("list", "--plugin", "none.py"): "none.py",
        ("run", "--no-such-option"): "--no-such-option",
    }.items():
        if arguments[:2] == ("predict", "."):
            continue
        code, out, err = topwork(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err, err
        assert "Traceback" not in err
    code, _, err = topwork("list", "--plugin", plugin=False)
    assert (code, "needs a value" in err) == (2, True)


def test_a_traceback_only_when_asked_for(topwork, monkeypatch) -> None:
    assert "Traceback" in topwork("run", "nothing", "--debug")[2]
    monkeypatch.setenv("TOPWORK_DEBUG", "1")
    assert "Traceback" in topwork("run", "nothing")[2]


def test_validate(topwork, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(RECIPE)
    (tmp_path / "bad.yaml").write_text(RECIPE.replace("learn", "lern"))
    assert topwork("validate", "good.yaml") == (0, "good.yaml: ok\n", "")
    code, out, err = topwork("validate", "good.yaml", "bad.yaml")
    assert (code, out) == (2, "good.yaml: ok\n")
    assert err.startswith("bad.yaml:4:10: stages.lern: unknown stage `lern`; did you mean `learn`?")
    code, out, _ = topwork("validate", "bad.yaml", "good.yaml", "none.yaml", "--json", "-o", "seed=1")
    bad, good, none = json.loads(out)
    assert (code, bad["ok"], good["ok"], none["ok"]) == (2, False, True, False)
    assert (bad["problems"][0]["place"], bad["problems"][0]["path"]) == ("bad.yaml:4:10", "stages.lern")


def test_dry_run_prints_the_resolved_recipe(topwork, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    code, out, _ = topwork("run", "r.yaml", "--dry-run", "-o", "stages.learn.epochs=4", "-o", "seed=2")
    shown = yaml.safe_load(out)
    assert (code, shown["seed"], shown["stages"][0]["learn"]["epochs"]) == (0, 2, 4)
    code, out, _ = topwork("run", "r.yaml", "--dry-run", "--json")
    assert json.loads(out)["task"] == {"name": "toy-task", "length": 8, "words": []}
    code, out, _ = topwork("cat", "r.yaml", "--resolved")
    assert yaml.safe_load(out)["seed"] == 0
    assert not (tmp_path / "runs").exists()


def test_cat_and_cp(topwork, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert topwork("cat", "r.yaml")[1] == RECIPE
    assert topwork("cp", "r.yaml", "copy.yaml") == (0, "", "wrote copy.yaml\n")
    assert (tmp_path / "copy.yaml").read_text() == RECIPE
    assert topwork("cp", "r.yaml", "copy.yaml")[0] == 2
    assert topwork("cp", "r.yaml", "copy.yaml", "--force")[0] == 0
    (tmp_path / "folder").mkdir()
    topwork("cp", "r.yaml", "folder")
    assert (tmp_path / "folder" / "r.yaml").is_file()


def test_new_writes_a_recipe_that_is_nearly_right(topwork, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOPWORK_PLUGINS", "train,evaluate,save")
    other = tmp_path / "task.py"
    other.write_text(PLUGIN.read_text().replace("return [Learn, Measure, Score]", "return []"))
    assert main(["new", "toy-pair", "--plugin", str(other)]) == 0
    text = (tmp_path / "toy_pair.yaml").read_text()
    assert "  # length: 8  # of an item" in text
    assert "    # note: note" in text
    ready = (
        text.replace("path: ROWS", "path: 'sample:words'")
        .replace("BASE", "some/model")
        .replace("  # length", "  length")
    )
    (tmp_path / "toy_pair.yaml").write_text(ready)
    assert main(["validate", "toy_pair.yaml", "--plugin", str(other)]) == 0
    assert main(["new", "toy-pair", "--plugin", str(other)]) == 2
    out = topwork("new", "toy-task", "-", "--base", "x/y")[1]
    assert "# topwork run recipe.yaml\ntask:\n" in out
    assert "base: {model: x/y}" in out


def test_schema_knows_what_is_installed(topwork) -> None:
    code, out, _ = topwork("schema")
    shown = json.loads(out)
    task = shown["$defs"]["task toy-task"]
    assert code == 0
    assert (task["properties"]["name"], task["properties"]["length"]["default"]) == ({"const": "toy-task"}, 8)
    short, long = shown["properties"]["stages"]["items"]["anyOf"]
    assert (short["enum"], list(long["properties"])) == (["learn", "measure", "score"], ["learn", "measure", "score"])
    references = set()

    def walk(value) -> None:
        if isinstance(value, dict):
            references.update([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            walk(entry)

    walk(shown)
    assert references <= {f"#/$defs/{name}" for name in shown["$defs"]}


def test_ctrl_c_says_how_to_go_on(topwork, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "runs" / "r-1").mkdir(parents=True)

    def interrupted(recipe, *, folder, plugins, quiet):
        class Started:
            root = "runs/r-1"

        plugins.hook.run_started.get_hookimpls()[-1].function(Started)
        raise KeyboardInterrupt

    monkeypatch.setattr("topwork.api.run", interrupted)
    code, _, err = topwork("run", "r.yaml")
    assert (code, "`topwork resume runs/r-1` goes on" in err) == (130, True)


def test_run_resume_and_predict_for_real(topwork, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TOPWORK_PLUGINS")
    from PIL import Image

    (tmp_path / "digits.yaml").write_text(DIGITS)
    code, out, err = topwork("run", "digits.yaml", "--json", plugin=False)
    assert code == 0, err
    shown = json.loads(out)
    assert [record["stage"] for record in shown["results"]] == ["train", "evaluate", "save"]
    assert "accuracy" in shown["results"][1]["result"]["metrics"]
    code, out, _ = topwork("resume", shown["folder"], "--quiet", plugin=False)
    assert (code, out) == (0, f"{shown['folder']}\n")
    Image.new("L", (8, 8), 200).save("one.png")
    model = shown["model_folder"]
    code, out, err = topwork("predict", model, "-i", "image=one.png", plugin=False)
    typed = json.loads(out)
    assert (code, typed["row"], len(typed["prediction"])) == (0, 0, 5)
    code, out, _ = topwork(
        "predict", model, "sample:digits", "--split", "test", "--limit", "3", "--output", "p.jsonl", plugin=False
    )
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert (code, out, [line["row"] for line in lines]) == (0, "", [0, 1, 2])
    assert topwork("predict", model, "-i", "image=none.png", plugin=False)[0] == 2
    assert topwork("predict", model, "none.csv", plugin=False)[0] == 2
    assert topwork("predict", model, "-i", "image", plugin=False)[0] == 2
