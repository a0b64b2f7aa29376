"""`recipes/cluster/`: configurations of launchers whose keys exist, and whose topwork commands would be accepted."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

import topwork
from topwork.cli import main
from topwork.cli.app import make_app

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes" / "cluster"
CONFIGS = sorted(FOLDER.glob("*machine*.yaml"))
SCRIPTS = sorted(FOLDER.glob("*.slurm"))
#: keys of a task of SkyPilot, from its documentation
SKY = {
    "name",
    "num_nodes",
    "resources",
    "workdir",
    "file_mounts",
    "setup",
    "run",
    "envs",
    "secrets",
    "service",
    "config",
}
SBATCH = {
    *("job-name", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "gpus-per-task", "cpus-per-task", "time"),
    *("signal", "requeue", "output", "array"),
}


def commands(text: str) -> list[list[str]]:
    """The topwork commands of a script, each as its arguments."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    found = [match[1] for line in lines for match in re.finditer(r"\btopwork ((?:run|resume|predict)\b[^\"\n]*)", line)]
    return [shlex.split(command) for command in found]


def test_all_files_are_looked_at():
    assert set(FOLDER.iterdir()) == {*CONFIGS, *SCRIPTS, FOLDER / "sky.yaml"}
    assert len(CONFIGS) == 3 and len(SCRIPTS) == 2


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_config_of_accelerate_has_keys_that_accelerate_reads(file):
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    content = yaml.safe_load(file.read_text())
    assert set(content) <= set(ClusterConfig.__dataclass_fields__)
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig) and config.num_processes % config.num_machines == 0
    assert config.mixed_precision == "no"


@pytest.mark.usefixtures("recipe_weights")
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_the_first_lines_of_a_config_launch_it(file, monkeypatch):
    lines = [line.lstrip("# ").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    assert lines[0].startswith(f"accelerate launch --config_file recipes/cluster/{file.name} ")
    command = " ".join(lines[:2]) if lines[0].endswith("\\") else lines[0]
    monkeypatch.chdir(ROOT)
    check(shlex.split(command.replace("\\ ", " ").split(" -m topwork ", 1)[1]))


@pytest.mark.usefixtures("recipe_weights")
@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_a_script_of_slurm_is_one_that_bash_and_slurm_read(file, monkeypatch):
    text = file.read_text()
    options = re.findall(r"^#SBATCH --([\w-]+)", text, re.MULTILINE)
    assert options and set(options) <= SBATCH
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n", str(file)], capture_output=True).returncode == 0
    monkeypatch.chdir(ROOT)
    assert commands(text)
    for command in commands(text):
        check(command)


@pytest.mark.usefixtures("recipe_weights")
def test_the_file_of_skypilot_has_keys_that_it_reads(monkeypatch):
    content = yaml.safe_load((FOLDER / "sky.yaml").read_text())
    assert set(content) <= SKY
    monkeypatch.chdir(ROOT)
    assert [command[0] for command in commands(content["run"])] == ["resume", "run"]
    for command in commands(content["run"]):
        check(command)
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=content["run"], text=True, capture_output=True).returncode == 0


def check(command: list[str]) -> None:
    """A command that topwork accepts: its options exist, its recipe is valid; nothing is executed."""
    name, *arguments = command
    known = typer.main.get_command(make_app(topwork.load_plugins()))
    known.commands[name].make_context(name, list(arguments))  # raises what typer refuses
    if name == "run":
        assert main(["validate", arguments[0]]) == 0


def test_the_launcher_asks_for_fsdp2_as_topwork_divides_a_model():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    from topwork.engines import ShardingOptions, requested_sharding

    config = load_config_from_file(str(FOLDER / "one_machine_fsdp2.yaml"))
    flags = [f"--{name}={value}" for name, value in config.fsdp_config.items()]
    flags += ["--num_processes=8", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    arguments = launch_command_parser().parse_args(["--use_fsdp", *flags, "x.py"])
    environment = prepare_multi_gpu_env(arguments)
    assert requested_sharding(environment, "MULTI_GPU") == ShardingOptions()
