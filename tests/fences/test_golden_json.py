"""Keys and values of what topwork writes as JSON: manifests, results of stages, predictions, the files of a run."""

from __future__ import annotations

import json

import pytest

from fences import golden, snapshots

KNOWN = snapshots.load("golden")


def check(part, found) -> None:
    differences = list(golden.differences(KNOWN[part], json.loads(json.dumps(found))))
    assert not differences, snapshots.report(differences, "golden")


def test_manifests_of_altered_models_and_of_models_with_several_bases() -> None:
    check("manifests", golden.manifests())


@pytest.mark.parametrize("name", [*golden.RUNS, "stages"])
def test_results_and_files_of_a_run(name) -> None:
    found = json.loads(json.dumps(golden.run(name)))
    differences = list(golden.differences(KNOWN["runs"][name], found))
    assert not differences, snapshots.report(differences, "golden")


def test_results_of_evaluate_for_every_task() -> None:
    check("evaluations", golden.evaluations())


def test_every_stage_of_topwork_ran(plugins) -> None:
    ran = {record["stage"] for run in KNOWN["runs"].values() for record in run["stages"]}
    owners = {name: plugins.owner("stage", name) for name in plugins.stages}
    # what analyses, compression and the workbench give is held by their tests
    apart = ("analyses", "compress", "workbench")
    assert ran == {name for name, owner in owners.items() if owner.package == "topwork" and owner.name not in apart}


def test_differences_are_named() -> None:
    known = {"a": 1, "b": [1.0, "x"], "c": {"d": None}}
    assert list(golden.differences(known, {"a": 1, "b": [1.0000001, "x"], "c": {"d": None}})) == []
    found = set(golden.differences(known, {"a": True, "b": [1.1, "x"], "c": {"e": 1}}))
    assert found == {".a was 1, is True", ".b[0] was 1.0, is 1.1", ".c.d is gone", ".c.e is new"}
