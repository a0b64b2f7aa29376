"""Loading plugins: good ones next to broken ones of every kind, subsets, local files, traces, and questions."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pluggy
import pytest

from topwork import (
    BaseOptions,
    Declaration,
    PluginError,
    RowsOptions,
    Stage,
    TopworkError,
    UsageError,
    hookimpl,
    load_plugins,
)

GOOD = """
    from topwork import Stage, hookimpl

    class Hello(Stage):
        '''Says hello.'''
        name = "hello"
        times: int = 1

        def __call__(self, run):
            return {"said": self.times}

    @hookimpl
    def register_stages():
        return [Hello]
"""
BROKEN = {  # kind of fault -> (source, what the message must say)
    "import": ("raise RuntimeError('boom')", ["RuntimeError: boom", "broken.py:1"]),
    "exit": ("import sys; sys.exit(3)", ["SystemExit: 3"]),
    "syntax": ("def (:", ["SyntaxError", "broken.py:1"]),
    "misspelt": (
        "from topwork import hookimpl\n@hookimpl\ndef register_stage(): return []",
        ["`register_stage`", "did you mean `register_stages`?"],
    ),
    "argument": (
        "from topwork import hookimpl\n@hookimpl\ndef load_base(name, colour): return None",
        ["colour", "load_base"],
    ),
    "raises": (
        "from topwork import hookimpl\n@hookimpl\ndef register_tasks(): raise ValueError('no tasks today')",
        ["ValueError: no tasks today", "broken.py:3"],
    ),
    "not a class": (
        "from topwork import hookimpl\n@hookimpl\ndef register_stages(): return [3]",
        ["3 is not a subclass"],
    ),
    "not a list": ("from topwork import hookimpl\n@hookimpl\ndef register_stages(): return 'x'", ["list", "str"]),
    "abstract": (
        "from topwork import Task, hookimpl\nclass T(Task):\n  name = 't'\n@hookimpl\ndef register_tasks(): return [T]",
        ["task `t` does not write", "encode"],
    ),
    "command": ("from topwork import hookimpl\n@hookimpl\ndef register_commands(): return [4]", ["not a function"]),
    "no folder": (
        "from topwork import hookimpl\n@hookimpl\ndef register_recipes(): return ['/no/such/folder']",
        ["/no/such/folder"],
    ),
}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder / f"{name}.py"


def alone(**options):
    """Without anything that is installed."""
    return load_plugins(only=[], **options)


def a_stage(title: str) -> type[Stage]:
    class Made(Stage):
        name = title

        def __call__(self, run):
            return {}

    return Made


class ABase:
    """As much of a base as plugins are asked for."""

    config = None

    def __init__(self, name: str) -> None:
        self.name = name

    native = backbone = trained_labels = processor = lambda self, *names, **changes: None


class Fake:
    """A plugin object whose hooks answer what is given."""

    def __init__(self, name: str, **hooks) -> None:
        self.name = name
        for hook, function in hooks.items():
            setattr(self, hook, hookimpl(specname=hook)(function))


def test_a_local_file_is_a_plugin(tmp_path: Path) -> None:
    plugins = alone(files=[write(tmp_path, "greeter", GOOD)])
    assert plugins.stage("hello")(times=2)(None) == {"said": 2}
    assert plugins.owner("stage", "hello").name == "greeter"
    assert plugins.files == [tmp_path / "greeter.py"]


def test_a_local_file_does_not_stand_in_for_a_package(tmp_path: Path) -> None:
    alone(files=[write(tmp_path, "yaml", GOOD)])
    import yaml

    assert yaml.__file__ != str(tmp_path / "yaml.py")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_local_file_is_an_error_of_the_user(kind: str, tmp_path: Path) -> None:
    source, expected = BROKEN[kind]
    path = write(tmp_path, "broken", source)
    with pytest.raises(UsageError) as caught:
        alone(files=[path])
    assert all(text in str(caught.value) for text in [*expected, str(path)]), str(caught.value)
    with pytest.raises(UsageError, match=r"nothing\.py"):
        alone(files=["nothing.py"])


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_installed_plugin_is_left_out_and_named(kind: str, tmp_path: Path, monkeypatch) -> None:
    source, expected = BROKEN[kind]
    install(tmp_path, monkeypatch, broken=source, greeter=GOOD)
    plugins = load_plugins(only=["broken", "greeter"])
    assert [info.name for info in plugins.loaded] == ["greeter"]
    (failed,) = plugins.failed
    assert (failed.name, failed.package, failed.version) == ("broken", "strangers", "1.2")
    assert all(text in failed.error for text in expected), failed.error
    assert failed.disable == "export TOPWORK_DISABLE=broken"
    assert "broken" not in [name for name, _ in plugins._manager.list_name_plugin()]
    assert not hasattr(plugins.hook, "register_stage")
    with pytest.raises(UsageError, match=r"(?s)did you mean `hello`.*failed to load: broken \(strangers 1\.2\)"):
        plugins.stage("helo")
    assert load_plugins(only=["greeter", "broken"], disable=["broken"]).failed == []


def install(folder: Path, monkeypatch, **modules: str) -> None:
    """Put modules and an entry-point table on the path, as pip would."""
    site = folder / "site"
    info = site / "strangers-1.2.dist-info"
    info.mkdir(parents=True)
    for name, source in modules.items():
        write(site, name, source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.2\n")
    info.joinpath("entry_points.txt").write_text("[topwork]\n" + "".join(f"{name} = {name}\n" for name in modules))
    monkeypatch.syspath_prepend(str(site))


def test_the_list_works_next_to_a_broken_plugin(tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, monkeypatch, broken="raise RuntimeError('boom')", greeter=GOOD)
    call = [sys.executable, "-m", "topwork", "list", "--json"]
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}:{Path(__file__).parents[2] / 'core'}", "PATH": ""}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert "hello" in [entry["name"] for entry in shown["stages"]]
    (failed,) = [entry for entry in shown["failed"] if entry["name"] == "broken"]
    assert failed["package"] == "strangers"
    assert "boom" in failed["error"]


def test_the_installed_entry_points_are_those_of_the_checkout() -> None:
    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"][
        "topwork"
    ]
    own = {point.name: point.value for point in distribution("topwork").entry_points if point.group == "topwork"}
    assert own == table, "pyproject's table has changed: install the checkout again (pip install -e .)"


def test_topworks_own_plugins_come_first_and_are_those_of_its_entry_points(tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, monkeypatch, aaa=GOOD)
    plugins = load_plugins()
    found = [*plugins.loaded, *plugins.failed]
    own = {point.name for point in distribution("topwork").entry_points if point.group == "topwork"}
    assert {info.name for info in found if info.package == "topwork"} == own
    assert plugins.loaded[-1].name == "aaa"


@pytest.mark.parametrize("kind", ["stage", "command", "sample", "recipe"])
def test_a_name_that_is_taken_names_both_plugins(kind: str, tmp_path: Path) -> None:
    (tmp_path / "twin.yaml").touch()

    def twin() -> None:
        pass

    answers = {
        "stage": {"register_stages": lambda: [a_stage("twin"), a_stage("more")]},
        "command": {"register_commands": lambda: [twin]},
        "sample": {"register_samples": lambda: {"twin": "rows"}},
        "recipe": {"register_recipes": lambda: [tmp_path]},
    }
    first, second = (Fake(name, **answers[kind]) for name in ("first", "second"))
    plugins = alone(extra=[first, second])
    assert [info.name for info in plugins.loaded] == ["first"]
    assert plugins.owner(kind, "twin").name == "first"
    (failed,) = plugins.failed
    assert failed.name == "second"
    assert f"the {kind} `twin`" in failed.error
    assert "plugin first" in failed.error


def test_nothing_of_a_refused_plugin_is_left() -> None:
    other = Fake("other", register_stages=lambda: [a_stage("new"), a_stage("twin")], load_base=lambda name: "base")
    plugins = alone(extra=[Fake("first", register_stages=lambda: [a_stage("twin")]), other])
    assert list(plugins.stages) == ["twin"]
    assert plugins.implementers("load_base") == []
    with pytest.raises(UsageError):
        plugins.owner("stage", "new")


def test_the_same_name_twice_in_one_plugin_and_the_name_of_a_core_command() -> None:
    def run() -> None:
        pass

    twice = Fake("twice", register_stages=lambda: [a_stage("a"), a_stage("a")])
    plugins = alone(extra=[twice, Fake("runner", register_commands=lambda: [run])])
    assert "registered by this plugin already" in plugins.failed[0].error
    assert "the command `run`" in plugins.failed[1].error
    plugins = alone(extra=[Fake("same"), Fake("same")])
    assert "the plugin name `same` is taken" in plugins.failed[0].error


def test_subsets_by_argument_and_environment(monkeypatch) -> None:
    assert [info.name for info in load_plugins(only=["train"]).loaded] == ["train"]
    monkeypatch.setenv("TOPWORK_PLUGINS", "train, console")
    assert {info.name for info in load_plugins().loaded} == {"train", "console"}
    monkeypatch.setenv("TOPWORK_DISABLE", "console")
    assert {info.name for info in load_plugins().loaded} == {"train"}


@pytest.mark.parametrize("argument", ["only", "disable"])
def test_an_unknown_plugin_name(argument: str) -> None:
    with pytest.raises(UsageError, match="did you mean `console`"):
        load_plugins(**{argument: ["consol"]})


def test_trace_prints_hook_calls(monkeypatch, capsys) -> None:
    monkeypatch.setenv("TOPWORK_TRACE", "1")
    plugins = alone(extra=[Fake("mine", load_base=lambda name: ABase(name))])
    plugins.load_base(BaseOptions(model="abc"))
    shown = capsys.readouterr().err
    assert "topwork hook load_base(name='abc', options=<BaseOptions>) asks mine" in shown
    assert "topwork hook load_base -> <ABase>" in shown


def test_the_last_plugin_answers_first_and_none_means_not_mine() -> None:
    first = Fake("first", load_base=lambda name: ABase(f"first {name}"))
    second = Fake("second", load_base=lambda name: ABase("second") if name == "config:tiny" else None)
    plugins = alone(extra=[first, second])
    assert plugins.implementers("load_base") == ["second", "first"]
    assert plugins.load_base(BaseOptions(model="x")).name == "first x"
    assert plugins.load_base(BaseOptions(config={"model_type": "tiny"})).name == "second"


def test_nobody_answers() -> None:
    plugins = alone(extra=[Fake("asked", load_rows=lambda source: None)])
    with pytest.raises(UsageError, match=r"no plugin knows the rows `x`; asked \(hook `load_rows`\): asked"):
        plugins.load_rows(RowsOptions(path="x"))
    with pytest.raises(UsageError, match="nobody"):
        plugins.load_base(BaseOptions(model="x"))
    named = alone(
        extra=[Fake("words", register_samples=lambda: {"words": "some"}, load_rows=lambda source: [{"text": source}])]
    )
    assert named.load_rows(RowsOptions(path="sample:words")) == [{"text": "sample:words"}]
    with pytest.raises(UsageError, match="did you mean `words`"):
        named.load_rows(RowsOptions(path="sample:wrods"))


def test_an_exception_in_a_hook_names_the_plugin() -> None:
    def fails(name):
        raise KeyError("weights")

    def refuses(source):
        raise TopworkError("on purpose")

    plugins = alone(extra=[Fake("clumsy", load_base=fails, load_rows=refuses)])
    with pytest.raises(PluginError, match=r"plugin clumsy \(given\), hook load_base: KeyError: 'weights'") as caught:
        plugins.load_base(BaseOptions(model="x"))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(TopworkError, match="on purpose") as direct:
        plugins.load_rows(RowsOptions(path="x"))
    assert type(direct.value) is TopworkError


def test_without_an_installation(monkeypatch) -> None:
    monkeypatch.setattr("topwork.plugins.loading.entry_points", lambda group: [])
    with pytest.raises(PluginError, match="pip install"):
        load_plugins()


def test_every_hook_is_documented_and_the_manager_is_not_shared() -> None:
    from topwork import hookspecs

    first, second = alone(), alone(extra=[Fake("mine", load_base=lambda name: 1)])
    hooks = [name for name in vars(first.hook) if not name.startswith("_")]
    assert all(getattr(hookspecs, name).__doc__ for name in hooks)
    assert isinstance(first._manager, pluggy.PluginManager)
    assert first.implementers("load_base") == []
    first.observe(Fake("watching", run_done=lambda run: None))
    assert (first.loaded, first.implementers("run_done") != []) == ([], True)
    assert second.implementers("load_base") == ["mine"]


def test_a_declaration_says_what_the_class_says(plugins) -> None:
    fresh = load_plugins()
    for table in (plugins.tasks, plugins.stages):
        for name in table:
            about = getattr(fresh, f"{table.kind}s").about(name)
            assert about == (table[name].__doc__ or "").strip().splitlines()[0], name


@pytest.mark.parametrize("kind", ["missing module", "missing class", "other name", "no stage", "raises"])
def test_a_declaration_that_leads_nowhere_names_the_plugin_when_it_is_used(kind: str, tmp_path: Path, monkeypatch):
    source = "import topwork\nclass Odd(topwork.Stage):\n  name = 'odd'\n  def __call__(self, run): return {}\n"
    (tmp_path / "declared_stage.py").write_text(source + ("1 / 0" if kind == "raises" else ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "declared_stage", raising=False)
    target = {"missing module": "no_such_module:Odd", "missing class": "declared_stage:Even", "no stage": "os:path"}
    name = "even" if kind == "other name" else "odd"
    declared = Declaration(name, target.get(kind, "declared_stage:Odd"), "Odd.")
    plugins = alone(extra=[Fake("lazy", register_stages=lambda: [declared])])
    assert (list(plugins.stages), plugins.stages.about(name)) == ([name], "Odd.")
    with pytest.raises(PluginError, match=r"plugin lazy \(given\)"):
        plugins.stage(name)
    right = alone(extra=[Fake("lazy", register_stages=lambda: [Declaration("odd", "declared_stage:Odd")])])
    if kind != "raises":
        assert right.stage("odd").name == "odd"


def test_a_class_of_a_stage_is_a_plugin_by_itself() -> None:
    plugins = alone(extra=[a_stage("lonely"), Fake])
    assert list(plugins.stages) == ["lonely"]
    assert plugins.failed == []
