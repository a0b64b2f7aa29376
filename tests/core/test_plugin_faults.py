"""Plugins that end the program, raise, print or answer nonsense, wherever their code runs: the plugin is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import topwork
from topwork import BaseOptions, PluginError, RowsOptions, hookimpl, load_plugins
from topwork.cli import main
from topwork.plugins.calls import raised_by_code
from topwork.plugins.declaration import Declaration

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
#: a task, a stage and observers in one file; whatever PLACE names ends the program by STATEMENT
PLUGIN = """
import sys, topwork
from topwork import hookimpl
from engine_plugin import Points

def end(place):
    if place == {place!r}:
        {statement}

class Metric(topwork.MeanMetric):
    keys, primary = ("error",), "error"
    def add(self, row, prediction):
        end("metric")
        super().add(row, prediction)
    def values(self, row, prediction):
        return {{"error": 0.0}}

class Odd(Points):
    name = "odd-points"
    @classmethod
    def learn(cls, rows, bases, options):
        end("learn")
        return super().learn(rows, bases, options)
    def encode(self, rows, mode, seed):
        end("encode")
        return super().encode(rows, mode, seed)
    def loss(self, model, batch):
        end("loss")
        return super().loss(model, batch)
    def predict(self, model, batch):
        end("predict")
        return super().predict(model, batch)
    def metric(self):
        end("metric")
        return super().metric()

class Quit(topwork.Stage):
    name = "quit"
    def __call__(self, run):
        end("stage")
        return {{}}

@hookimpl
def register_tasks(): return [Odd]
@hookimpl
def register_stages(): return [Quit]
@hookimpl
def run_started(run): end("run_started")
@hookimpl
def stage_started(run): end("stage_started")
@hookimpl
def stage_done(run): end("stage_done")
@hookimpl
def run_done(run): end("run_done")
@hookimpl
def build_head(task): end("build_head")
"""
STATEMENTS = ["sys.exit(0)", "sys.exit()", "raise KeyboardInterrupt", "exit(3)"]
PLACES = ["learn", "encode", "loss", "predict", "metric", "stage", "build_head"]
NEWS = ["run_started", "stage_started", "stage_done", "run_done"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs a recipe with the plugin; `topwork run` in this process: (exit code, stderr is printed)."""
    import engine_plugin

    monkeypatch.chdir(tmp_path)
    rows = engine_plugin.point_rows(24)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": "odd-points",
        "base": BASE,
        "data": {"train": "rows.jsonl", "evaluate": "rows.jsonl"},
        "stages": [{"train": {"steps": 1}}, "evaluate", "quit"],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))

    def call(place: str, statement: str, *options: str, more: str = "") -> int:
        (tmp_path / "odd.py").write_text(f"{PLUGIN.format(place=place, statement=statement)}\n{more}\n")
        return main(["run", "recipe.yaml", "--plugin", "odd.py", *options])

    return call


@pytest.mark.parametrize(
    ("place", "statement"),
    [*((place, STATEMENTS[index % 3]) for index, place in enumerate([*PLACES, *NEWS])), ("stage", "exit(3)")],
)
def test_code_that_ends_the_program_is_an_error_of_its_plugin(start, place, statement, capsys) -> None:
    assert start(place, statement, "--quiet") == 1
    assert "plugin odd (" in capsys.readouterr().err


@pytest.mark.parametrize("place", NEWS)
def test_an_observer_that_fails_is_a_warning_and_the_run_goes_on(start, place, capsys, monkeypatch) -> None:
    statement = "raise ConnectionError('tracker is down')"
    assert start(place, statement) == 0
    text = capsys.readouterr().err
    assert f"hook {place}: ConnectionError: tracker is down; the run goes on" in " ".join(text.split())
    with pytest.warns(RuntimeWarning, match="tracker is down"):
        assert start(place, statement, "--quiet") == 0
    monkeypatch.setenv("TOPWORK_STRICT", "1")
    assert start(place, statement, "--quiet") == 1


def test_ctrl_c_in_the_code_of_a_plugin_is_still_the_users(start, capsys) -> None:
    assert start("stage", "import signal; signal.raise_signal(signal.SIGINT)") == 130
    assert "interrupted; `topwork resume" in capsys.readouterr().err


def test_what_code_raised_and_what_ctrl_c_interrupted() -> None:
    import signal

    def raised(statement: str) -> bool:
        try:
            exec(statement, {"signal": signal})
        except KeyboardInterrupt as error:
            return raised_by_code(error)
        raise AssertionError

    assert raised("raise KeyboardInterrupt")
    assert raised("def f(): raise KeyboardInterrupt('no')\nf()")
    assert not raised("signal.raise_signal(signal.SIGINT)")
    assert not raised("sorted([1, 2], key=lambda x: signal.raise_signal(signal.SIGINT))")


# ---------------------------------------------------------------- answers


class Answers:
    """A plugin whose hook gives an answer."""

    name = "odd"

    def __init__(self, hook: str, answer: object) -> None:
        setattr(self, hook, hookimpl(lambda: answer, specname=hook))


QUESTIONS = {
    "load_base": lambda plugins: plugins.load_base(BaseOptions(model="x")),
    "load_rows": lambda plugins: plugins.load_rows(RowsOptions(path="x")),
    "build_head": lambda plugins: plugins.hook.build_head(task=None, bases={}, weights=True),
    "attention_layer": lambda plugins: plugins.hook.attention_layer(path="", module=None, model=None),
    "look": lambda plugins: plugins.look(None),
    "block": lambda plugins: plugins.hook.block(path="", module=None, model=None),
    "make_tracker": lambda plugins: plugins.hook.make_tracker(name="x", run=None),
    "load_program": lambda plugins: plugins.hook.load_program(
        folder=Path("x"), program={"format": "x"}, model=None, trusted=False
    ),
    "profile_page": lambda plugins: plugins.hook.profile_page(profile=None, file=Path("x")),
}


@pytest.mark.parametrize(
    "answer", [5, "text", [1, 2], {"a": 1}, object(), True], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("hook", QUESTIONS)
def test_an_answer_that_is_not_what_was_promised_names_plugin_hook_and_file(hook, answer) -> None:
    if (hook, answer) == ("profile_page", True):
        pytest.skip("that is the promise")
    plugins = load_plugins(only=[], extra=[Answers(hook, answer)])
    with pytest.raises(PluginError) as caught:
        QUESTIONS[hook](plugins)
    text = str(caught.value)
    assert all(part in text for part in ("plugin odd", f"hook {hook}", __file__, "promised")), text


@pytest.mark.parametrize("answer", [5, ["rows"], {"rows": 5}, {"rows": None}], ids=repr)
def test_samples_are_a_dict_of_texts(answer) -> None:
    (failed,) = load_plugins(only=[], extra=[Answers("register_samples", answer)]).failed
    assert "register_samples" in failed.error or "described by a text" in failed.error


# ---------------------------------------------------------------- files


WAYS = {
    "print": "print",
    "another program": "lambda text: __import__('os').system('echo ' + text)",
    "the descriptor": "lambda text: __import__('os').write(1, (text + chr(10)).encode())",
    "the first stdout": "lambda text: __import__('sys').__stdout__.write(text)",
}


@pytest.mark.parametrize("way", WAYS)
def test_prints_of_plugins_leave_stdout_to_the_command(way, tmp_path) -> None:
    source = """
        import topwork
        print = WAY
        print("hello from the import")
        class Loud(topwork.Stage):
            name = "loud"
            def __call__(self, run):
                print("hello from a stage")
                return {}
        @topwork.hookimpl
        def register_stages():
            print("hello from a hook")
            return [Loud]
    """
    (tmp_path / "loud.py").write_text(textwrap.dedent(source).replace("WAY", WAYS[way]))
    call = [sys.executable, "-m", "topwork", "--plugin", "loud.py", "list", "--json"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "loud" in [stage["name"] for stage in json.loads(done.stdout)["stages"]]
    assert "hello from the import" in done.stderr and "hello from a hook" in done.stderr


def test_prints_of_a_stage_leave_stdout_to_the_json_of_a_run(start, capsys) -> None:
    assert start("stage", "print('hello from a stage')", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["folder"] and "hello from a stage" in shown.err


def test_an_error_whose_text_raises_is_still_named(tmp_path) -> None:
    source = "class Odd(Exception):\n  def __str__(self): raise ValueError('no text')\nraise Odd\n"
    (tmp_path / "mute.py").write_text(source)
    with pytest.raises(topwork.UsageError, match=r"mute\.py.*Odd: \(its message cannot be made: ValueError\)"):
        load_plugins(only=[], files=[tmp_path / "mute.py"])
    plugins = load_plugins(only=[], extra=[Answers("load_base", None)])

    def fails(name):
        raise type("Odd", (Exception,), {"__str__": lambda self: 1 / 0})

    failing = type("Failing", (), {"load_base": staticmethod(hookimpl(fails))})()
    plugins = load_plugins(only=[], extra=[failing])
    with pytest.raises(PluginError, match="its message cannot be made"):
        plugins.load_base(BaseOptions(model="x"))


def test_a_file_without_marked_hooks_is_said_to_bring_nothing(tmp_path) -> None:
    (tmp_path / "bare.py").write_text("def register_stages(): return []\n")
    with pytest.warns(RuntimeWarning, match="plugin bare .* brings nothing; mark its hooks"):
        load_plugins(only=[], files=[tmp_path / "bare.py"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_plugins()


@pytest.mark.parametrize("statement", ["time.sleep(60)", "while True: pass", "threading.Event().wait()"])
def test_an_import_that_hangs_is_ended_and_named(statement, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TOPWORK_IMPORT_TIMEOUT", "0.3")
    (tmp_path / "slow.py").write_text(f"import threading, time\n{statement}\n")
    assert main(["list", "tasks", "--plugin", str(tmp_path / "slow.py")]) == 2
    assert "its import takes more than 0.3 seconds" in capsys.readouterr().err


def test_a_declared_stage_whose_import_hangs_names_the_plugin(tmp_path, monkeypatch) -> None:
    (tmp_path / "hanging_module.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TOPWORK_IMPORT_TIMEOUT", "0.3")
    declared = Declaration("sleepy", "hanging_module:Sleepy", "Sleep.", "stage")
    plugins = load_plugins(only=[], extra=[Answers("register_stages", [declared])])
    with pytest.raises(PluginError, match=r"plugin odd.*takes more than 0.3 seconds"):
        plugins.stage("sleepy")


# ------------------------------------------------------------------ answers and changes that nobody foresees


#: code that follows the plugin's, and words of the message, beside which the plugin is named
LIES = {
    "coroutine of learn": ("async def learn(*given): ...\nOdd.learn = classmethod(learn)", "coroutine"),
    "number of encode": ("Odd.encode = lambda self, rows, mode, seed: 5", "not iterable"),
    "nothing of predict": ("Odd.predict = lambda self, model, batch: None", "NoneType"),
    "huge text for a metric": ("Odd.metric = lambda self: 'x' * 10**7", "'str' object has no"),
    "nothing of a stage": ("Quit.__call__ = lambda self, run: None", "it returned NoneType"),
    "coroutine of a stage": ("async def call(self, run): ...\nQuit.__call__ = call", "it returned coroutine"),
    "a value that cannot be shown": (
        "class Mute:\n  def __repr__(self): 1 / 0\nQuit.__call__ = lambda self, run: {'x': Mute()}",
        "ZeroDivisionError",
    ),
    "working folder": ("Quit.__call__ = lambda self, run: os.chdir('/') or {}", "in another working folder, `/`"),
    "no model": ("Quit.__call__ = lambda self, run: setattr(run.work, 'model', None) or {}", "left no torch module"),
}


@pytest.mark.parametrize("lie", LIES)
def test_whatever_a_task_or_stage_answers_its_plugin_is_named_in_the_error_object(lie, start, capsys) -> None:
    code, words = LIES[lie]
    assert start("nowhere", "pass", "--quiet", "--json", more=f"import os\n{code}") == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert words in error["message"]
    assert "is of plugin odd (" in f"{error.get('place')} {error['message']}"


def test_an_import_that_changes_the_working_folder_is_refused_and_the_folder_put_back(start, tmp_path, capsys) -> None:
    assert start("nowhere", "pass", "--quiet", more="import os\nos.chdir('/')") == 2
    assert "odd.py" in (shown := capsys.readouterr().err) and "another working folder, `/`" in shown
    assert Path.cwd() == tmp_path


def test_an_observer_that_changes_the_working_folder_is_a_warning(start, tmp_path, capsys) -> None:
    assert start("stage_done", "import os; os.chdir('/')") == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "hook stage_done: ChangedFolder: leaves the process in another working folder, `/`; the run goes on" in shown


def test_a_stage_that_closes_stdout_does_not_close_it_for_the_json_of_a_run(start, capsys) -> None:
    assert start("stage", "sys.stdout.close()", "--json") == 0
    assert json.loads(capsys.readouterr().out)["folder"]


@pytest.mark.faults
def test_a_stage_that_closes_every_stream_is_named_in_the_error_object(start, tmp_path) -> None:
    start("nowhere", "pass", "--quiet")
    closing = "sys.stdout.close(); sys.__stdout__.close(); sys.stderr.close(); raise LookupError('closed')"
    (tmp_path / "odd.py").write_text(PLUGIN.format(place="stage", statement=closing))
    line = [sys.executable, "-m", "topwork", "run", "recipe.yaml", "--plugin", "odd.py", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1 and "stage `quit` is of plugin odd (" in error["place"]
