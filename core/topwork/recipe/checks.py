"""Checks of the sections of a recipe, one after the other; every fault is collected, none stops the next check.

Entry point: `RecipeChecker`. The section `data` is checked in `data`, options in `validation`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from topwork.base import BaseOptions
from topwork.errors import Problem, TopworkError, UsageError
from topwork.files import exists, expanded
from topwork.recipe.data import check_data, check_roles, looks_local, missing_source
from topwork.recipe.overrides import stage_name
from topwork.recipe.validation import check_options, check_without_faults, shown, unknown_key
from topwork.recipe.yaml import KeyPath, Node
from topwork.stage import Stage

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.task import Task, TaskOptions

NAME = r"[^/\\\0]+"  # of a run folder
#: ids of the Hub, and names such as `timm/<name>`
_MAY_BE_FETCHED = re.compile(r"[\w.-]+(/[\w.-]+)?")
KEYS = ("name", "description", "extends", "task", "base", "data", "seed", "track", "strict", "stages")


class RecipeChecker:
    """Checker that turns the tree of a recipe into the parts of a `Recipe`, or into problems."""

    def __init__(self, root: Node, plugins: Plugins, problems: list[Problem]) -> None:
        self.root, self.plugins, self.problems = root, plugins, problems
        self.needs: list[tuple[str, str, tuple[str, ...]]] = []  # stage, its location, the roles that it reads

    def parts(self, *, check_roles: bool) -> dict[str, Any] | None:
        """Return the attributes of the `Recipe`, or None when something is wrong.

        Args:
            check_roles: whether each stage must be given rows; False when the rows are in memory.
        """
        for key, node in self.root.value.items():
            if key not in KEYS:
                several = "; several are written `base: {encoder: ..., decoder: ...}`" if key == "bases" else ""
                self._fault(node.start, str(key), unknown_key(key, KEYS) + several)
        task, options = self._task()
        bases = self._bases(task)
        stages = self._stages()
        data = check_data(self.root.get("data"), task, self.plugins, self.problems)
        if check_roles:
            self._roles()
        seed, track, strict = self._seed(), self._track(), self._strict()
        name, description = self._name(), self._plain("description", str, "text", None)
        if self.problems or task is None or options is None or data is None:
            return None
        names = [stage.name for stage in stages]
        for path, message in task.recipe_problems(options, bases, data.columns, names):
            self._fault(self._location(path), path, message)
        if self.problems:
            return None
        return {
            "task_class": task,
            "task_options": options,
            "bases": bases,
            "data": data,
            "stages": stages,
            "seed": seed,
            "track": track,
            "strict": strict,
            "name": name,
            "description": description,
        }

    def _location(self, path: str) -> str:
        """Return the location of the deepest node on a path of keys; stages go by their names."""
        node = self.root
        for key in path.split("."):
            entries = node.value if isinstance(node.value, list) else []
            child = next((entry for entry in entries if stage_name(entry) == key), None) or node.get(key)
            if child is None:
                break
            node = child
        return node.start

    def _fault(self, location: str, path: str, message: str) -> None:
        self.problems.append(Problem(location, path, message))

    def _plain(self, key: str, kind: type, wanted: str, default: Any) -> Any:
        node = self.root.get(key)
        if node is None or node.value is None:
            return default
        if not isinstance(node.value, kind) or isinstance(node.value, bool):
            self._fault(node.location, key, f"should be {wanted}, not {shown(node.plain())}")
            return default
        return node.value

    def _seed(self) -> int:
        seed = self._plain("seed", int, "a whole number", 0)
        if seed < 0:
            self._fault(self.root.value["seed"].location, "seed", f"should be 0 or more, not `{seed}`")
        return seed

    def _track(self) -> list[str]:
        """Return the names of the trackers."""
        node = self.root.get("track")
        if node is None or node.value is None:
            return []
        entries = node.value if isinstance(node.value, list) else [node]
        names = []
        for entry in entries:
            if not isinstance(entry.value, str):
                self._fault(entry.start, "track", "should be a list of trackers' names, such as [tensorboard]")
            elif entry.value not in self.plugins.trackers:
                error = self.plugins.unknown("tracker", entry.value, self.plugins.trackers)
                self._fault(entry.start, "track", str(error))
            else:
                names.append(entry.value)
        return list(dict.fromkeys(names))

    def _strict(self) -> bool:
        """Return whether failing observers end the run."""
        node = self.root.get("strict")
        if node is None or node.value is None:
            return False
        if not isinstance(node.value, bool):
            self._fault(node.location, "strict", f"should be true or false, not {shown(node.plain())}")
        return node.value is True

    def _name(self) -> str | None:
        name = self._plain("name", str, "text", None)
        if name is not None and not re.fullmatch(NAME, name):
            message = f"names the run folder, so it holds no slash and is not empty; it is {shown(name)}"
            self._fault(self.root.value["name"].location, "name", message)
        return name

    # ------------------------------------------------------------------ task and base

    def _task(self) -> tuple[type[Task] | None, TaskOptions | None]:
        node = self.root.get("task")
        if node is None or node.value is None:
            self._fault(self.root.location, "task", "`task` is missing: say what the model is for")
            return None, None
        named = node if not isinstance(node.value, dict) else node.get("name")
        if named is None or not isinstance(named.value, str):
            self._fault(node.start, "task", "should be a task's name, or {name: ..., and its options}")
            return None, None
        try:
            task = self.plugins.task(named.value)
        except UsageError as error:
            self._fault(named.location, "task", str(error))
            return None, None
        rest = node.value if isinstance(node.value, dict) else {}
        options = Node({key: entry for key, entry in rest.items() if key != "name"}, node.location, node.key_location)
        return task, check_options(task.Options, options, ("task",), self.problems)

    def _bases(self, task: type[Task] | None) -> dict[str, BaseOptions]:
        node = self.root.get("base")
        if node is None or node.value is None:
            self._fault(self.root.location, "base", "`base` is missing: give a model's Hub id or folder")
            return {}
        by_role = isinstance(node.value, dict) and not node.value.keys() & BaseOptions.model_fields.keys()
        roles = task.roles if task is not None else tuple(map(str, node.value)) if by_role else ("base",)
        if task is not None and by_role:
            roles = task.nearest_roles(tuple(map(str, node.value)))
        several = [names for names in (task.roles, *task.alternatives) if len(names) > 1] if task is not None else []
        if isinstance(node.value, list) and several:
            written = " or ".join(f"`base: {{{', '.join(f'{role}: ...' for role in names)}}}`" for names in several)
            self._fault(node.start, "base", f"several bases are no list; they are written {written}")
            return {}
        if len(roles) == 1 and not (by_role and set(node.value) == set(roles)):
            return self._base(roles[0], node, ("base",))
        if not isinstance(node.value, dict) or (not by_role and task is not None):
            self._fault(node.start, "base", f"this task needs one base for each of {', '.join(roles)}")
            return {}
        bases: dict[str, BaseOptions] = {}
        for role, base_node in node.value.items():
            if role in roles:
                bases |= self._base(role, base_node, ("base", role))
            else:
                self._fault(base_node.start, f"base.{role}", unknown_key(role, roles))
        for role in roles:
            if role not in node.value:
                self._fault(node.start, f"base.{role}", f"`{role}` is missing: this task needs {', '.join(roles)}")
        return bases

    def _base(self, role: str, node: Node, path: KeyPath) -> dict[str, BaseOptions]:
        options = check_options(BaseOptions, node, path, self.problems, shorthand="model")
        model = node if isinstance(node.value, str) else node.get("model")
        if model is not None and isinstance(model.value, str):
            message = None
            if looks_local(model.value):
                message = missing_source(model.value, self.plugins)
            elif model.value == "BASE" and not exists(expanded("BASE")):
                message = "`BASE` is to be filled in: a Hub id, a local folder, or timm/<name>"
            if message:
                self._fault(model.location, ".".join([*map(str, path), "model"]), message)
                return {}
        if options is not None and (message := self._base_fault(options)):
            self._fault((model or node).location, ".".join(map(str, path)), message)
        return {} if options is None else {role: options}

    def _base_fault(self, options: BaseOptions) -> str | None:
        """Return why a base cannot be opened, or None; what is fetched, or runs code of its own, is left to the run."""
        name = options.model
        if options.trust_remote_code:
            return None
        if name and _MAY_BE_FETCHED.fullmatch(name) and not os.path.isdir(expanded(name)):
            return None
        try:
            self.plugins.check_base(options)
        except TopworkError as error:
            return "; ".join(filter(None, (error.cause, error.hint)))
        return None

    # ------------------------------------------------------------------ stages

    def _stages(self) -> list[Stage]:
        node = self.root.get("stages")
        if node is None or not isinstance(node.value, list) or not node.value:
            location = self.root.location if node is None else node.start
            self._fault(location, "stages", "should be a list of stages, such as [train, evaluate, save]")
            return []
        names = [stage_name(stage_node) for stage_node in node.value]
        stages: list[Stage] = []
        for index, (stage_node, name) in enumerate(zip(node.value, names)):
            path: KeyPath = ("stages", index, name or "") if names.count(name) > 1 else ("stages", name or index)
            stage = self._stage(stage_node, name, path)
            if stage is not None:
                if len(stages) == index and (message := stage.precheck(stages)) is not None:
                    self._fault(stage_node.start, ".".join(str(part) for part in path if part != ""), message)
                stages.append(stage)
        return stages

    def _stage(self, node: Node, name: str | None, path: KeyPath) -> Stage | None:
        where = ".".join(str(part) for part in path if part != "")
        if name is None:
            hint = ""
            if isinstance(node.value, dict) and len(node.value) > 1:
                known = [key for key in node.value if key in self.plugins.stages]
                hint = f"; are the options of `{known[0]}` indented under it?" if known else ""
            self._fault(node.start, where, f"should be a stage's name, or one name with its options below{hint}")
            return None
        options = node.get(name) or Node(None, node.location)
        try:
            stage_class = self.plugins.stage(name)
        except UsageError as error:
            self._fault(options.start if isinstance(node.value, dict) else node.location, where, str(error))
            return None
        stage = check_options(stage_class, options, path, self.problems)
        readable = stage or check_without_faults(stage_class, options)
        if readable is not None:
            self.needs.append((name, node.location, tuple(readable.reads())))
        return stage

    def _roles(self) -> None:
        check_roles(self.root.get("data"), self.needs, self.root, self.problems)
