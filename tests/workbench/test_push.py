"""Model cards, and uploads to a stand-in for the Hub: what would be done, what is sent, what is refused."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tiny_bases import BERT

import topwork
from topwork import CheckpointError, TopworkError, UsageError
from topwork.cli import main
from topwork_workbench.hub.upload import Plan

TOKEN = "hf_" + "secretsecret" * 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> topwork.Run:
    """A run that evaluates, prunes, evaluates and saves."""
    root = tmp_path_factory.mktemp("push")
    rows = topwork.load_plugins().task("text-classification").example_rows()
    rows[0]["label"] = "<b>[x](javascript:alert(1))"
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    data: dict[str, Any] = {role: str(root / "rows.jsonl") for role in ("train", "evaluate")}
    data["calibrate"] = {"cut": 4}
    stages: list[Any] = [
        "evaluate",
        {"prune_heads": {"heads": {0: [1]}}},
        "evaluate",
        {"save": {"license": "apache-2.0", "language": "en"}},
        {"push": {"repo": "me/m"}},
    ]
    recipe = {"name": "carded", "seed": 5, "task": "text-classification", "base": BERT, "data": data, "stages": stages}
    return topwork.run(recipe, folder=root / "run", quiet=True)


@pytest.fixture
def folder(run: topwork.Run, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(run.root / "model", tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    return tmp_path / "model"


def test_the_card_says_what_the_run_measured_removed_and_read(run) -> None:
    text = (run.root / "model" / "README.md").read_text()
    front, body = yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]
    value = run.results[2]["result"]["metrics"]["accuracy"]
    (result,) = front["model-index"][0]["results"]
    assert result["task"]["type"] == "text-classification" and result["dataset"]["name"] == "rows.jsonl"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]}["accuracy"] == pytest.approx(value)
    assert f"| accuracy | {value:.4f} |" in body and "Measured on the evaluate rows" in body
    assert "attention heads pruned: 7 of 8 are left" in body
    assert "| train | rows.jsonl |" in body and "cut from the training rows" in body
    assert "```yaml" in body and "prune_heads" in body and "Made with seed 5." in body
    assert front["license"] == "apache-2.0" and front["language"] == ["en"]
    assert str(run.root.parent) not in text  # no path of this machine
    assert "<b>" not in body.split("## Recipe")[0] and "&lt;b&gt;" in body


@pytest.mark.parametrize(
    "options", [{"license": "a b"}, {"license": "x\ny: z"}, {"language": "English"}, {"language": [1]}]
)
def test_licences_and_languages_that_would_spoil_the_card_are_refused(options) -> None:
    with pytest.raises(topwork.TopworkError, match=next(iter(options))):
        topwork.run(
            {"task": "text-classification", "base": BERT, "data": {"train": "x"}, "stages": [{"save": options}]}
        )


def test_metrics_of_before_a_change_are_not_those_of_the_model(run) -> None:
    records = run.results
    try:
        run.results = records[:2]  # evaluate, prune_heads
        assert run.card().metrics == {}
        run.results = records[:1]
        assert "accuracy" in run.card().metrics
    finally:
        run.results = records


def test_intervals_stand_where_errors_are_known(run, tmp_path) -> None:
    from topwork.saving.model_card import CardFacts, model_card

    facts = CardFacts({"accuracy": 0.5, "f1": 0.25}, {"accuracy": 0.1}, recipe="a: |\n  ````\n  # x\n")
    text = model_card(run.work, False, facts)
    assert "| accuracy | 0.5000 | 0.3040 to 0.6960 |" in text and "| f1 | 0.2500 |  |" in text
    assert text.count("`````") == 2  # the fence is longer than any in the recipe


def test_without_yes_nothing_is_sent(run, folder, capsys) -> None:
    result = run.results[-1]["result"]
    assert (result["pushed"], result["commit"]) == (False, None)
    before = (folder / "README.md").read_text()
    assert main(["push", str(folder), "me/reviews", "--license", "mit"]) == 0
    shown = capsys.readouterr().out
    assert "topwork.safetensors" in shown and "left out: notes.txt" in shown and "license: mit" in shown
    assert "nothing was sent" in shown and (folder / "README.md").read_text() == before


@pytest.mark.parametrize("repo", ["", "a/b/c", "a b", "../x", "a/..", "-a/b", "http://x/y", "a/b."])
def test_names_that_are_no_repository_are_refused(folder, repo) -> None:
    with pytest.raises(UsageError, match="no name of a repository"):
        Plan.of(folder, repo)


def test_what_is_no_whole_model_folder_is_refused(folder, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no model folder"):
        Plan.of(tmp_path, "me/m")
    manifest = json.loads((folder / "topwork.json").read_text())
    (folder / "topwork.json").write_text(json.dumps({**manifest, "contents": {"../secret": {}}}))
    with pytest.raises(CheckpointError, match="outside"):
        Plan.of(folder, "me/m")
    (folder / "topwork.json").write_text(json.dumps(manifest))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Plan.of(folder, "me/m")


def test_a_push_with_nothing_saved_before_is_a_fault_of_the_recipe() -> None:
    from topwork_workbench.hub.stage import Push

    assert "save" in str(Push(repo="me/m").precheck([]))
    assert Push(repo="me/m", folder="exported").precheck([]) is None


class Api:
    """A stand-in for `HfApi` that notes its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.error = error

    def create_repo(self, repo: str, **settings: Any) -> None:
        self.calls.append(("create_repo", settings))
        if self.error:
            raise self.error

    def create_branch(self, repo: str, **settings: Any) -> None:
        self.calls.append(("create_branch", settings))

    def upload_folder(self, **settings: Any) -> Any:
        self.calls.append(("upload_folder", settings))
        return SimpleNamespace(commit_url="https://example.org/commit/1")


def test_repository_branch_and_files_are_those_of_the_plan(folder) -> None:
    api = Api()
    plan = Plan.of(folder, "me/m", private=False, revision="next", license_id="apache-2.0", languages=["en", "de"])
    assert plan.upload(api) == "https://example.org/commit/1"
    assert [name for name, _ in api.calls] == ["create_repo", "create_branch", "upload_folder"]
    assert api.calls[0][1]["private"] is False and api.calls[2][1]["revision"] == "next"
    assert "notes.txt" not in api.calls[2][1]["allow_patterns"]
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["language"] == ["en", "de"] and front["tags"] == ["topwork"]
    assert topwork.load(folder).task.name == "text-classification"  # the card is no part of the hashes


def test_a_refusal_of_the_hub_is_an_error_with_a_hint(folder) -> None:
    error: Any = RuntimeError("401 Client Error")
    error.response = SimpleNamespace(status_code=401)
    with pytest.raises(TopworkError, match="the upload failed") as caught:
        Plan.of(folder, "me/m").upload(Api(error))
    assert "hf auth login" in str(caught.value.hint)


class Hub(BaseHTTPRequestHandler):
    """The four routes of the Hub that an upload of small files needs."""

    requests: list[tuple[str, str]]
    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.path, self.headers.get("Authorization", "")))
        url = f"http://{self.headers['Host']}/me/m"
        if self.path.endswith("/repos/create"):
            self._send({"url": url, "id": "me/m", "name": "me/m"})
        elif "/preupload/" in self.path:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            self._send({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._send({"success": True, "commitOid": "1" * 40, "commitUrl": f"{url}/commit/1", "hookOutput": ""})
        else:
            self._send({})

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers.get("Authorization", "")))
        self._send({"id": "me/m", "sha": "0" * 40, "siblings": []} if "/api/models/" in self.path else {})

    def _send(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, Any]]:
    handler = type("OneHub", (Hub,), {"requests": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_the_command_uploads_to_the_endpoint_and_writes_no_token(folder, hub, tmp_path) -> None:
    endpoint, seen = hub
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
    }
    code = [sys.executable, "-m", "topwork", "push", str(folder), "me/m", "--yes", "--language", "en"]
    done = subprocess.run(code, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "/commit/1" in done.stdout
    expected = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {"notes.txt"}
    assert set(seen.files) == expected
    assert all(content == (folder / name).read_bytes() for name, content in seen.files.items())
    assert any(TOKEN in authorization for _, authorization in seen.requests)  # by the client's own header alone
    assert TOKEN not in done.stdout + done.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


def test_a_folder_that_is_not_there_is_bad_usage_and_one_without_a_model_fails(tmp_path, capsys) -> None:
    assert main(["push", str(tmp_path / "nowhere"), "me/m"]) == 2
    assert "there is no model folder" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "me/m"]) == 1


def test_an_evaluation_by_groups_gives_the_card_its_intervals(run, tmp_path) -> None:
    import math
    import random

    rows = [dict(row) for row in run.rows("evaluate")] * 5
    result = run.work.apply("evaluate", {"evaluate": rows}, groups=4)
    right = [prediction[0]["label"] == str(row["label"]) for row, prediction in zip(rows, run.work.predict(rows))]
    group = [random.Random(index).randrange(4) for index in range(len(rows))]
    without = [[hit for hit, its in zip(right, group) if its != left_out] for left_out in range(4)]
    values = [sum(hits) / len(hits) for hits in without]
    mean = sum(values) / 4
    expected = math.sqrt(3 / 4 * sum((value - mean) ** 2 for value in values))
    assert result["standard_errors"]["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert result["metrics"] == run.work.apply("evaluate", {"evaluate": rows})["metrics"]
    records = run.results
    try:
        run.results = [{"stage": "evaluate", "result": {**result, "role": "evaluate"}}]
        assert run.card().errors["accuracy"] == result["standard_errors"]["accuracy"]
    finally:
        run.results = records
