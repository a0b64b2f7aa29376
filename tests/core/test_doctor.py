"""`topwork doctor`: every check says yes on a good installation and names the hint on a bad one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from topwork import load_plugins
from topwork.cli import doctor
from topwork.cli.app import main


def test_this_installation(capsys) -> None:
    findings = {finding.name: finding for finding in doctor.diagnose(load_plugins(only=[]))}
    assert all(findings[name].ok for name in ("python", "torch", "transformers", "torch with torchvision", "plugins"))
    assert all(finding.hint for finding in findings.values() if not finding.ok)
    code = main(["doctor", "--json", "--plugins", "console"])
    shown = json.loads(capsys.readouterr().out)
    assert code == int(not all(finding["ok"] for finding in shown))
    assert [finding["name"] for finding in shown] == list(findings)


def test_old_python() -> None:
    assert doctor.check_python((3, 11, 0)).ok
    finding = doctor.check_python((3, 10, 4))
    assert (finding.ok, finding.detail, finding.hint) == (False, "3.10.4", "install Python 3.11 or newer")


@pytest.mark.parametrize(
    ("line", "ok", "says"),
    [
        ("pluggy>=1.0", True, ""),
        ("pluggy>=99", False, "pip install 'pluggy>=99'"),
        ("no-such-package>=1", False, "pip install 'no-such-package>=1'"),
        ("pluggy !", False, "install topwork again"),
    ],
)
def test_requirements(line: str, ok: bool, says: str) -> None:
    finding = doctor.check_requirement(line)
    assert finding is not None
    assert (finding.ok, says in finding.hint) == (ok, True)


def test_extras_are_not_required() -> None:
    assert doctor.check_requirement("no-such-package>=1; extra == 'audio'") is None
    assert doctor.check_requirement("no-such-package>=1; python_version < '3'") is None


def test_a_package_that_is_not_installed() -> None:
    (finding,) = doctor.check_versions("no-such-package")
    assert not finding.ok
    assert "pip install" in finding.hint


def test_torchvision_of_another_torch(monkeypatch) -> None:
    broken = ModuleType("torchvision.ops")

    def nms(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    broken.nms = nms
    monkeypatch.setitem(sys.modules, "torchvision.ops", broken)
    finding = doctor.check_pair()
    assert not finding.ok
    assert "torchvision::nms does not exist" in finding.detail
    assert "torch torchvision" in finding.hint


def test_missing_audio_packages(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "AUDIO", ("json", "no_such_decoder"))
    finding = doctor.check_audio()
    assert (finding.ok, "no_such_decoder" in finding.detail, "topwork[audio]" in finding.hint) == (False, True, True)


@pytest.mark.parametrize(
    ("environment", "cores", "hint"),
    [
        ({}, 2, ""),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 2, ""),
        ({"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "2"}, 2, "export OMP_NUM_THREADS=1"),
        ({"WORLD_SIZE": "2"}, 8, "export OMP_NUM_THREADS=4"),
        ({"OMP_NUM_THREADS": "4,2"}, 2, "export OMP_NUM_THREADS=2"),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "64"}, 2, ""),
    ],
)
def test_threads_times_processes(environment: dict[str, str], cores: int, hint: str) -> None:
    finding = doctor.check_threads(environment, cores)
    assert (finding.ok, finding.hint) == (not hint, hint)


def test_failed_plugins(tmp_path: Path) -> None:
    class Broken:
        def register_stages(self):
            raise ValueError("no stages")

    from topwork import hookimpl

    Broken.register_stages = hookimpl(Broken.register_stages)
    (finding,) = doctor.check_plugins(load_plugins(only=[], extra=[Broken()]))
    assert (finding.name, finding.ok) == ("plugin Broken", False)
    assert "no stages" in finding.detail
    assert "export TOPWORK_DISABLE=Broken" in finding.hint


def test_the_cache_is_where_the_hub_puts_it(tmp_path: Path) -> None:
    import os

    from huggingface_hub import constants

    assert doctor.hub_cache(dict(os.environ)) == Path(constants.HF_HUB_CACHE)
    assert doctor.hub_cache({"HF_HOME": "/a"}) == Path("/a/hub")
    assert doctor.hub_cache({"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}) == Path("/b")
    assert doctor.hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert doctor.check_cache(tmp_path / "new" / "hub").ok


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    def refused(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    finding = doctor.check_cache(tmp_path)
    assert (finding.ok, "Permission denied" in finding.detail, "HF_HOME" in finding.hint) == (False, True, True)


def test_offline_mode_is_told() -> None:
    assert doctor.check_offline({}).detail == "online"
    finding = doctor.check_offline({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "true"})
    assert (finding.ok, "HF_HUB_OFFLINE, HF_DATASETS_OFFLINE" in finding.detail) == (True, True)


def test_little_disk(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE", 10**9)
    assert "--folder" in doctor.check_disk(tmp_path).hint
