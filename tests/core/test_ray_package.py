"""`topwork-ray`, a package of third parties by the public seam: workers of Ray predict what one process predicts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bases import BASES

import topwork

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests" / "packages" / "topwork-ray"
HAS_RAY = importlib.util.find_spec("ray") is not None


def call(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    paths = [PACKAGE, ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    line = [sys.executable, "-m", "topwork", "--plugin", PACKAGE / "topwork_ray.py", *arguments]
    return subprocess.run(
        list(map(str, line)), cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_command_says_what_to_install(tmp_path):
    (tmp_path / "rows.csv").write_text("text\nfine\n")
    shown = call(tmp_path, "ray-predict", tmp_path, tmp_path / "rows.csv", "--output", tmp_path / "out.jsonl")
    assert shown.returncode == 2 and "Ray is not installed; pip install topwork-ray" in shown.stderr


@pytest.mark.faults
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
def test_two_workers_of_ray_predict_the_rows_of_one_process(tmp_path):
    rows = topwork.load_plugins().task("text-classification").example_rows()
    topwork.build("text-classification", BASES["text-classification"], rows=rows).save(tmp_path / "model")
    texts = [{"review": f"{row['text']} {index}"} for index, row in enumerate(rows * 6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    arguments = ("ray-predict", tmp_path / "model", tmp_path / "rows.jsonl", "-c", "text=review", "--batch", 8)
    shown = call(tmp_path, *arguments, "--workers", 2, "--output", tmp_path / "out.jsonl")
    assert shown.returncode == 0, shown.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = topwork.load(tmp_path / "model").predict(texts, columns={"text": "review"})
    assert [line["row"] for line in lines] == list(range(len(texts)))
    for line, prediction in zip(lines, expected):
        assert line["prediction"][0]["label"] == prediction[0]["label"]
        assert line["prediction"][0]["score"] == pytest.approx(prediction[0]["score"], abs=1e-5)
