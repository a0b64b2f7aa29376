"""Virtual environments for tests that need packages installed elsewhere: the packages of this environment stay visible,
what is built here comes first."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path, expect: int = 0, **environment: str) -> subprocess.CompletedProcess:
    """Run a command; its exit code must be `expect`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TOPWORK_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env={**clean, **environment}
    )
    assert done.returncode == expect, (
        f"{command} answered {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    )
    return done


def make_environment(folder: Path, *projects: Path) -> Path:
    """A virtual environment with wheels of the projects; answers its Python.

    Everything else comes from the environment of this process, except topwork itself when it is among the projects.
    """
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip())
    wheels = folder / "wheels"
    for project in projects:
        run(
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", wheels, project),
            cwd=folder,
        )
    for wheel in sorted(wheels.glob("*.whl")):
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=folder)
    lines = [sysconfig.get_path("purelib")]
    if not any((project / "core").is_dir() for project in projects):
        lines += [str(ROOT / "core"), str(ROOT / "plugins")]
    (site / "zz_rest.pth").write_text("\n".join(lines) + "\n")
    return python
