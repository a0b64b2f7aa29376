"""Recipes from a YAML file, a dict or Python code, fully checked before anything heavy is imported.

Entry point: `load_recipe`. YAML is read in `yaml`, sections are checked in `checks`.

A recipe holds names and values, never import paths; nothing in it is executed. Everything that is wrong is reported at
once, each fault with file, line and column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from topwork.base import BaseOptions
from topwork.data.options import DataOptions
from topwork.errors import Problem, RecipeError, UsageError, nearest
from topwork.files import exists, expanded, is_readable
from topwork.items import Json
from topwork.recipe.checks import RecipeChecker
from topwork.recipe.overrides import apply_overrides
from topwork.recipe.validation import check_options
from topwork.recipe.yaml import LONGEST, Node, dump, from_python, merge, null_characters, read

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.stage import Stage
    from topwork.task import Task, TaskOptions

Made = TypeVar("Made", bound=BaseModel)
MOST_EXTENDS = 50


@dataclass
class Recipe:
    """Checked recipe.

    Attributes:
        task_class, task_options: the task and its options.
        bases: options of the bases, by role of the task ("base" when it has only one).
        data: where the rows come from; without any role when the rows are in memory.
        stages: the stages in their order; each is a pydantic object with its options.
        seed: of everything random in the run.
        track: names of the trackers that hear the news of the run.
        strict: a tracker or another observer that fails ends the run; without it, it warns.
        name, description: for people; a recipe without a name is called after its file, or else after its task.
        source: where the recipe came from: a file, or "recipe" for Python objects.
        plugin_files: local plugin files that were loaded when it was read, and that it may need again.
    """

    task_class: type[Task]
    task_options: TaskOptions
    bases: dict[str, BaseOptions]
    data: DataOptions = field(default_factory=lambda: DataOptions.model_validate({}))
    stages: list[Stage] = field(default_factory=list)
    seed: int = 0
    track: list[str] = field(default_factory=list)
    strict: bool = False
    name: str | None = None
    description: str | None = None
    source: str = "recipe"
    plugin_files: list[Path] = field(default_factory=list)

    @property
    def task_name(self) -> str:
        """Return the name of the task, as in a recipe."""
        return self.task_class.name

    @classmethod
    def make(
        cls,
        task: type[Task],
        base: BaseOptions | str | Mapping[str, BaseOptions | str],
        options: TaskOptions | Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> Recipe:
        """Make a recipe from Python objects, for rows in memory too.

        Args:
            task: the task class.
            base: the options of its base, or a Hub id or folder; by role when the task has several bases.
            options: the task's options.
            rest: other attributes of a recipe.

        Raises:
            UsageError: the bases are not those that the task needs.
        """
        named = base if isinstance(base, Mapping) else {task.roles[0]: base}
        if not task.fits(named):
            wanted = ", ".join(task.nearest_roles(named))
            raise UsageError(f"the task `{task.name}` needs bases for {wanted}, and got {', '.join(named) or 'none'}")
        bases = {role: make_base_options(value) for role, value in named.items()}
        if not isinstance(options, task.Options):
            options = _made(task.Options, options or {}, f"task {task.name}")
        return cls(task_class=task, task_options=options, bases=bases, **rest)

    def to_dict(self) -> dict[str, Json]:
        """Return the recipe with every default; `load_recipe` makes the same recipe of it."""
        bases = {role: written_out(options) for role, options in self.bases.items()}
        content: dict[str, Json] = {key: getattr(self, key) for key in ("name", "description") if getattr(self, key)}
        content["task"] = {"name": self.task_name, **written_out(self.task_options)}
        content["base"] = bases if len(bases) > 1 else next(iter(bases.values()))
        content["data"] = written_out(self.data)
        content["seed"] = self.seed
        if self.track:
            content["track"] = list(self.track)
        if self.strict:
            content["strict"] = True
        content["stages"] = [
            {stage.name: written_out(stage)} if written_out(stage) else stage.name for stage in self.stages
        ]
        return content

    def to_yaml(self) -> str:
        """Return `to_dict` as YAML."""
        return dump(self.to_dict())


def written_out(options: BaseModel) -> dict[str, Json]:
    """Return options as JSON with their defaults, without the entries that are null by default."""
    written = options.model_dump(mode="json", by_alias=True)
    content = {}
    for name, info in type(options).model_fields.items():
        key = info.serialization_alias or info.alias or name
        value = getattr(options, name)
        if value is None and info.default is None:
            continue
        content[key] = written_out(value) if isinstance(value, BaseModel) else written[key]
    return content


def make_stage(name: str, options: Mapping[str, Any], plugins: Plugins) -> Stage:
    """Make a stage from its name and options.

    Raises:
        UsageError: an unknown name.
        RecipeError: everything that is wrong with the options.
    """
    return _made(plugins.stage(name), options, f"stage {name}")


def make_task_options(name: str, options: Mapping[str, Any], plugins: Plugins) -> TaskOptions:
    """Make the options of a task; errors as in `make_stage`."""
    return _made(plugins.task(name).Options, options, f"task {name}")


def make_base_options(value: str | Mapping[str, Any] | BaseOptions) -> BaseOptions:
    """Make the options of a base from an id or a mapping; errors as in `make_stage`."""
    return value if isinstance(value, BaseOptions) else _made(BaseOptions, value, "base", shorthand="model")


def _made(kind: type[Made], value: Any, location: str, shorthand: str | None = None) -> Made:
    problems: list[Problem] = []
    made = check_options(kind, from_python(value, location), (), problems, shorthand=shorthand)
    if made is None:
        raise RecipeError(problems)
    return made


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), plugins: Plugins | None = None
) -> Recipe:
    """Read and check a recipe.

    Args:
        source: a path, the name of a shipped recipe, a dict, or a recipe.
        overrides: `key.path=value`, as after `-o` on the command line.
        plugins: what is installed; loaded when None.

    Raises:
        RecipeError: everything that is wrong with it.
        UsageError: there is no such recipe.
    """
    if isinstance(source, Recipe) and not overrides:
        return source
    if plugins is None:
        from topwork.plugins.shared import shared_plugins

        plugins = shared_plugins()
    problems: list[Problem] = []
    in_memory = isinstance(source, Recipe) and not source.to_dict()["data"].keys() & {"train", "evaluate", "predict"}
    root, name = _tree(source, plugins, problems)
    root = apply_overrides(root, overrides, problems)
    problems.extend(null_characters(root))
    parts = RecipeChecker(root, plugins, problems).parts(check_roles=not in_memory)
    if problems:
        raise RecipeError(sorted(dict.fromkeys(problems), key=_by_place))
    assert parts is not None
    short = Path(name).stem if name != "recipe" else parts["task_class"].name
    return Recipe(**{**parts, "name": parts["name"] or short}, source=name, plugin_files=list(plugins.files))


def find_recipe(source: str | Path, plugins: Plugins) -> Path:
    """Return the file of a recipe: a path, or the name of a shipped one.

    Raises:
        UsageError: neither a file nor a shipped recipe.
    """
    path = expanded(source)
    if exists(path) and not path.is_dir():
        return path
    text = str(source)
    if isinstance(source, Path) or path.suffix in (".yaml", ".yml") or "/" in text or "\\" in text:
        known = ", ".join(sorted(plugins.recipes)) or "none"
        hint = nearest(path.stem, plugins.recipes)
        raise UsageError(f"there is no file `{source}`{hint}", hint=f"shipped recipes, by name: {known}")
    return plugins.recipe(text)


def _tree(
    source: str | Path | Mapping[str, Any] | Recipe, plugins: Plugins, problems: list[Problem]
) -> tuple[Node, str]:
    if isinstance(source, Recipe):
        return from_python(source.to_dict(), source.source), source.source
    if isinstance(source, Mapping):
        return _extended(from_python(source), Path(), plugins, problems, ()), "recipe"
    path = find_recipe(source, plugins)
    return _file_tree(path, plugins, problems, ()), str(path)


def _file_tree(path: Path, plugins: Plugins, problems: list[Problem], below: tuple[Path, ...]) -> Node:
    if not is_readable(path):
        cause = "this is no regular file but a pipe, socket or device; give a file, or /dev/stdin"
        raise RecipeError([*problems, Problem(str(path), "", cause)])
    try:
        with path.open("rb") as stream:
            text = stream.read(4 * LONGEST + 4).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        cause = f"not UTF-8 (byte 0x{error.object[error.start]:02x} in line {line}); save it as UTF-8"
        raise RecipeError([*problems, Problem(str(path), "", cause)]) from error
    except OSError as error:
        raise RecipeError([*problems, Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    root, faults = read(text, str(path))
    problems.extend(faults)
    if not root.value and faults:  # not valid YAML: whatever else might be said of it would mislead
        raise RecipeError(problems)
    if not isinstance(root.value, dict):
        message = (
            "the recipe is empty" if root.value is None else "a recipe is a mapping: `task:`, `base:`, `data:`, ..."
        )
        raise RecipeError([*problems, Problem(root.location, "", message)])
    return _extended(root, path.parent, plugins, problems, (*below, path.resolve()))


def _extended(root: Node, folder: Path, plugins: Plugins, problems: list[Problem], below: tuple[Path, ...]) -> Node:
    """Return the recipe laid over the one that its `extends` names."""
    extends = root.get("extends")
    if extends is None:
        return root
    root = replace(root, value={key: node for key, node in root.value.items() if key != "extends"})
    if not isinstance(extends.value, str):
        cause = "should be the path of a recipe, or the name of a shipped one"
        raise RecipeError([*problems, Problem(extends.location, "extends", cause)])
    if len(below) > MOST_EXTENDS:
        cause = f"the recipes extend each other more than {MOST_EXTENDS} deep"
        raise RecipeError([*problems, Problem(extends.location, "extends", cause)])
    beside = folder / expanded(extends.value)
    try:
        path = beside if exists(beside) and beside.is_file() else find_recipe(extends.value, plugins)
    except UsageError as error:
        raise RecipeError([*problems, Problem(extends.location, "extends", str(error))]) from error
    if path.resolve() in below:
        circle = " -> ".join(file.name for file in (*below, path.resolve()))
        cause = f"the recipes extend each other in a circle: {circle}"
        raise RecipeError([*problems, Problem(extends.location, "extends", cause)])
    return merge(_file_tree(path, plugins, problems, below), root)


def _by_place(problem: Problem) -> tuple[str, int, int]:
    """Return the sort key that brings problems into the order of the file."""
    file, *numbers = problem.place.rsplit(":", 2)
    if len(numbers) == 2 and all(number.isdigit() for number in numbers):
        return file, int(numbers[0]), int(numbers[1])
    return problem.place, 0, 0
