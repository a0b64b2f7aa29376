"""The HTTP service: the Hub's shapes for every task, requests together in one batch, limits, nothing opened by name."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_bases import BASES

import topwork
from topwork.cli import main

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")

from fastapi.testclient import TestClient

from topwork.testing import same_predictions
from topwork_workbench.serving.app import make_app
from topwork_workbench.serving.batcher import Batcher, Job
from topwork_workbench.serving.connections import settings
from topwork_workbench.serving.limits import Limits, RequestError


def built(task: str, **options: Any) -> topwork.TaskModel:
    torch.manual_seed(0)
    return topwork.build(task, BASES[task], rows=topwork.load_plugins().task(task).example_rows(), **options)


@contextmanager
def serving(work: topwork.TaskModel, limits: Limits | None = None, **settings: Any) -> Iterator[TestClient]:
    with TestClient(
        make_app(work, limits or Limits(seconds=300), **settings), base_url="http://127.0.0.1:8000"
    ) as client:
        yield client


@pytest.fixture(scope="module")
def texts() -> topwork.TaskModel:
    return built("text-classification")


@pytest.fixture(scope="module")
def images() -> topwork.TaskModel:
    return built("image-classification")


def encoded(value: Any) -> str:
    """The file of a row as base64."""
    if isinstance(value, dict):
        return base64.b64encode(value["bytes"]).decode()
    out = io.BytesIO()
    value.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def single(work: topwork.TaskModel, row: dict[str, Any]) -> Any:
    """A row as a person would write it into `inputs`."""
    columns = {name: column for name, column in work.task.columns.items() if not column.target and name in row}
    values = {name: encoded(row[name]) if column.lazy else row[name] for name, column in columns.items()}
    return next(iter(values.values())) if len(values) == 1 and isinstance(next(iter(values.values())), str) else values


#: keys of a prediction in the Hub's pipelines; of a list, those of its elements
SHAPES = {
    "audio-classification": {"label", "score"},
    "automatic-speech-recognition": {"text"},
    "depth-estimation": {"predicted_depth", "depth"},
    "fill-mask": {"score", "token", "token_str", "sequence"},
    "image-classification": {"label", "score"},
    "image-segmentation": {"score", "label", "mask"},
    "object-detection": {"score", "label", "box"},
    "question-answering": {"score", "start", "end", "answer"},
    "summarization": {"summary_text"},
    "text-classification": {"label", "score"},
    "text-generation": {"generated_text"},
    "token-classification": {"entity_group", "score", "word", "start", "end"},
    "translation": {"translation_text"},
}


@pytest.mark.parametrize("task", sorted(BASES))
def test_every_task_answers_in_the_shape_of_the_pipelines(task) -> None:
    options = {"generation": {"max_new_tokens": 4}} if SHAPES[task] & {"generated_text", "summary_text"} else {}
    options |= {"threshold": 0.0} if task == "object-detection" else {}
    work = built(task, **options)
    inputs = [single(work, row) for row in work.task.example_rows()[:2]]
    inputs = ["Ada lives in London", "Bo is here"] if task == "token-classification" else inputs
    with serving(work) as client:
        alone = client.post("/", json={"inputs": inputs[0]})
        together = client.post("/", json={"inputs": inputs})
        assert (alone.status_code, together.status_code) == (200, 200), (alone.text, together.text)
        answer = alone.json()
        assert len(together.json()) == 2
        answer = answer[0] if task == "text-classification" else answer
        if task != "depth-estimation":  # whose maps are files, the last digits of which depend on the batch
            assert same_predictions(together.json()[:1], [answer])
        elements = answer if isinstance(answer, list) else [answer]
        assert elements and all(set(element) <= SHAPES[task] for element in elements), elements
        assert task in client.get("/").text and client.get("/health").json()["task"] == task


def test_the_numbers_are_those_of_predict(texts) -> None:
    with serving(texts) as client:
        answer = client.post("/", json={"inputs": ["a fine film", "dull"], "parameters": {"top_k": 2}}).json()
    expected = [[(entry["label"], entry["score"]) for entry in prediction] for prediction in answer]
    scores = texts.predict(["a fine film", "dull"])
    assert all(len(prediction) == 2 for prediction in expected)
    assert [prediction[0][0] for prediction in expected] == [prediction[0]["label"] for prediction in scores]
    assert [prediction[0][1] for prediction in expected] == pytest.approx([p[0]["score"] for p in scores], rel=1e-5)


def test_masks_come_back_as_images() -> None:
    from PIL import Image

    work = built("image-segmentation")
    row = work.task.example_rows()[0]
    with serving(work) as client:
        mask = client.post("/", json={"inputs": encoded(row["image"])}).json()[0]["mask"]
    assert Image.open(io.BytesIO(base64.b64decode(mask))).size == row["image"].size


def test_requests_at_the_same_time_get_their_own_answers(texts) -> None:
    inputs = [f"film {index}" for index in range(6)]
    with serving(texts, wait=0.05) as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda text: client.post("/", json={"inputs": text}).json(), inputs))
    assert same_predictions(answers, [[list(prediction)] for prediction in texts.predict(inputs)])


def job(work: topwork.TaskModel, *rows: dict[str, Any], key: str = "") -> Job:
    return Job(rows, work.task, key)


def test_jobs_that_wait_are_one_batch_if_their_parameters_are_equal(texts) -> None:
    batcher = Batcher(texts, batch_size=5)
    jobs = [job(texts, {"text": f"film {index}"}, {"text": "x"}) for index in range(2)]
    jobs += [job(texts, {"text": "other"}, key="other"), job(texts, {"text": "late"})]
    futures = [batcher.submit(waiting) for waiting in jobs]
    batcher.start()  # now that all of them wait
    answers = [future.result(timeout=300) for future in futures]
    batcher.stop()
    assert batcher.sizes == [4, 1, 1]  # two requests of two rows; other parameters; a full turn before
    expected = texts.predict(["film 0", "x", "film 1", "x", "other", "late"])
    flat = [prediction for answer in answers for prediction in answer]
    assert same_predictions(flat, [list(prediction) for prediction in expected])


def test_a_bad_row_ends_its_own_request_alone(images) -> None:
    image = images.task.example_rows()[0]["image"]
    batcher = Batcher(images)
    good, bad = job(images, {"image": image}), job(images, {"image": image}, {"image": {"bytes": b"no", "path": None}})
    futures = [batcher.submit(waiting) for waiting in (good, bad)]
    batcher.start()
    assert len(futures[0].result(timeout=300)) == 1
    with pytest.raises(RequestError, match="row 1, input `image`") as caught:
        futures[1].result(timeout=300)
    batcher.stop()
    assert caught.value.status == 422 and batcher.sizes == [3]


def test_a_row_on_which_the_task_fails_ends_its_own_request_alone(texts, monkeypatch) -> None:
    kind = type(texts.task)
    encode = kind.encode

    def failing(self: Any, rows: Any, *arguments: Any) -> Any:
        if any(row["text"] == "fault" for row in rows):
            raise RuntimeError("a fault of the tokenizer")
        return encode(self, rows, *arguments)

    monkeypatch.setattr(kind, "encode", failing)
    batcher = Batcher(texts)
    futures = [batcher.submit(job(texts, {"text": text})) for text in ("a", "fault", "b")]
    batcher.start()
    assert all(len(futures[index].result(timeout=300)) == 1 for index in (0, 2))
    with pytest.raises(RuntimeError, match="tokenizer"):
        futures[1].result(timeout=300)
    batcher.stop()


def test_a_request_that_was_given_up_is_not_predicted(texts) -> None:
    batcher = Batcher(texts)
    first, second = batcher.submit(job(texts, {"text": "a"})), batcher.submit(job(texts, {"text": "b"}))
    assert first.cancel()
    batcher.start()
    assert second.result(timeout=300)
    batcher.stop()
    assert batcher.sizes == [1]


@pytest.mark.parametrize(
    "content",
    ["/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/x.png", "../../x.png", "data:image/png;base64,"],
)
@pytest.mark.parametrize("form", ["text", "column", "list"])
def test_paths_and_addresses_are_never_opened(images, monkeypatch, tmp_path, content, form) -> None:
    image = tmp_path / "secret.png"
    images.task.example_rows()[0]["image"].save(image)
    shapes = {"text": lambda value: value, "column": lambda value: {"image": value}, "list": lambda value: [value]}
    with serving(images) as client:
        for value in (content, str(image)):
            response = client.post("/", json={"inputs": shapes[form](value)})
            assert response.status_code == 422 and "base64" in response.json()["error"]
        nested = client.post("/", json={"inputs": {"image": {"path": str(image), "bytes": None}}})
        assert nested.status_code == 422


REFUSED: list[tuple[Any, str]] = [
    ({"inputs": "\ud800 x"}, "surrogate"),
    ({"inputs": {"text": "x", "text_pair": "\udc00"}}, "surrogate"),
    ({"input": "x"}, "no object with `inputs`"),
    (["x"], "no object with `inputs`"),
    ({"inputs": []}, "empty"),
    ({"inputs": 5}, "int"),
    ({"inputs": {"words": "x"}}, "no input `words`"),
    ({"inputs": {"text_pair": "x"}}, "`text` is missing"),
    ({"inputs": {"text": ["a"]}}, "not a text"),
    ({"inputs": {"text": "a", "label": "good"}}, "no input `label`"),
    ({"inputs": "x", "parameters": []}, "not an object"),
    ({"inputs": "x", "parameters": {"topk": 1}}, "did you mean `top_k`"),
    ({"inputs": "x", "parameters": {"top_k": -1}}, "top_k"),
    ({"inputs": "x", "parameters": {"max_length": 9}}, "no parameter"),
    ({"inputs": "x", "path": "y"}, "no key `path`"),
]


@pytest.mark.parametrize(("body", "cause"), REFUSED, ids=[json.dumps(body) for body, _ in REFUSED])
def test_what_cannot_be_read_is_a_json_error(texts, body, cause) -> None:
    with serving(texts) as client:
        response = client.post("/", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 422 and cause in response.json()["error"]


def test_other_bodies_methods_and_hosts_are_refused_as_json(texts) -> None:
    with serving(texts) as client:
        assert client.post("/", content=b"{", headers={"content-type": "application/json"}).status_code == 422
        assert client.post("/", content=b"x=1", headers={"content-type": "text/plain"}).status_code == 415
        assert client.post("/", content=b"x", headers={"content-type": "image/png"}).status_code == 415
        assert client.get("/nowhere").json()["error"] == "Not Found"
        assert client.put("/").status_code == 405 and "error" in client.put("/").json()
        stranger = client.get("/health", headers={"host": "evil.example"})
        assert stranger.status_code == 400 and "another name" in stranger.json()["error"]
        deep = client.post("/", content=b"[" * 200_000, headers={"content-type": "application/json"})
        assert deep.status_code == 422
        for body in (b'{"inputs": NaN}', b'{"inputs": "x", "parameters": {"top_k": Infinity}}'):
            assert "no number" in client.post("/", content=body, headers={"content-type": "application/json"}).text


def test_raw_bytes_of_an_image_are_a_row(images) -> None:
    image = images.task.example_rows()[0]["image"]
    content = base64.b64decode(encoded(image))
    with serving(images) as client:
        answer = client.post("/", content=content, headers={"content-type": "image/png"})
        assert same_predictions([answer.json()], list(images.predict([{"image": image}])))
        assert client.post("/", content=b"", headers={"content-type": "image/png"}).status_code == 422


def test_limits_of_size_rows_pixels_and_seconds(texts, images) -> None:
    image = encoded(images.task.example_rows()[0]["image"])
    with serving(texts, Limits(body=200, rows=2)) as client:
        assert client.post("/", json={"inputs": "x" * 300}).status_code == 413
        chunks = client.post("/", content=iter([b"x" * 150] * 2), headers={"content-type": "application/json"})
        assert chunks.status_code == 413
        assert client.post("/", json={"inputs": ["a"] * 3}).status_code == 422
        assert client.post("/", json={"inputs": ["a"] * 2}).status_code == 200
    with serving(images, Limits(pixels=32 * 32 - 1)) as client:
        response = client.post("/", json={"inputs": image})
        assert response.status_code == 413 and "32 x 32 pixels" in response.json()["error"]
    with serving(texts, Limits(waiting=1)) as client:
        assert client.post("/", json={"inputs": ["a", "b"]}).status_code == 503


def test_a_clip_that_is_too_long_is_refused_by_its_header() -> None:
    pytest.importorskip("soundfile")
    from topwork_workbench.serving.inputs import Inputs

    out = io.BytesIO()
    with wave.open(out, "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(100)
        clip.writeframes(bytes(2 * 100 * 5))
    task: Any = topwork.load_plugins().task("audio-classification")
    Inputs(task, Limits(audio_seconds=6)).file_row(out.getvalue())
    with pytest.raises(RequestError, match="5 seconds") as caught:
        Inputs(task, Limits(audio_seconds=4)).file_row(out.getvalue())
    assert caught.value.status == 413


def test_predictions_that_take_too_long_are_given_up(texts, monkeypatch) -> None:
    kind = type(texts.task)
    slow = kind.predict

    def predict(self: Any, model: Any, batch: Any) -> Any:
        time.sleep(0.5)
        return slow(self, model, batch)

    monkeypatch.setattr(kind, "predict", predict)
    with serving(texts, Limits(seconds=0.1)) as client:
        response = client.post("/", json={"inputs": "x"})
    assert response.status_code == 408 and "seconds" in response.json()["error"]


def test_a_fault_of_the_model_is_an_error_without_its_words(texts, monkeypatch) -> None:
    def predict(self: Any, model: Any, batch: Any) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(texts.task), "predict", predict)
    with serving(texts) as client:
        response = client.post("/", json={"inputs": "x"})
    assert response.status_code == 500 and "secret" not in response.text


def test_parameters_of_generation_cost_no_more_than_the_model_was_saved_with() -> None:
    work = built("text-generation", generation={"max_new_tokens": 4})
    with serving(work) as client:
        assert client.post("/", json={"inputs": "red =", "parameters": {"max_new_tokens": 5}}).status_code == 422
        assert client.post("/", json={"inputs": "red =", "parameters": {"num_beams": 9}}).status_code == 422
        short = client.post("/", json={"inputs": "red =", "parameters": {"max_new_tokens": 1}})
        assert short.status_code == 200


def test_labels_on_the_page_are_text(texts) -> None:
    from topwork_workbench.serving.page import page

    class Hostile:
        columns = {"<script>": topwork.Column("</script><b>", kind="text")}
        files: tuple[str, ...] = ()

    inputs: Any = Hostile()
    text = page("<i>", inputs, {"<u>": "x"})
    assert not any(tag in text for tag in ("<i>", "<u>", "</script><b>")) and text.count("<script>") == 1


def test_a_folder_that_is_not_there_is_named(capsys, tmp_path) -> None:
    assert main(["serve", str(tmp_path / "nothing")]) == 2
    assert "no model folder" in capsys.readouterr().err


def test_the_command_serves_a_folder_on_this_machine_alone(texts, tmp_path, monkeypatch) -> None:
    import uvicorn

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **settings: calls.append({"app": app, **settings}))
    folder = texts.save(tmp_path / "model")
    assert main(["serve", str(folder), "--max-rows", "1"]) == 0
    assert calls[0]["host"] == "127.0.0.1"
    with TestClient(calls[0]["app"], base_url="http://localhost") as client:
        assert client.post("/", json={"inputs": "x"}).status_code == 200
        assert client.post("/", json={"inputs": ["x", "y"]}).status_code == 422


class _Served:
    """A service on a free port of this machine, for clients that open connections."""

    def __init__(self, work: topwork.TaskModel, limits: Limits | None = None) -> None:
        import uvicorn

        limits = limits or Limits(seconds=300)
        self.server = uvicorn.Server(uvicorn.Config(make_app(work, limits), port=0, **settings(limits)))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=60)


def exchange(address: str, *parts: bytes) -> bytes:
    """Send parts over one connection, and return all that comes back until the service closes it."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
        content = b""
        while piece := connection.recv(65536):
            content += piece
        return content


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"POST / HT",),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\n", b"X-Slow: 1\r\n"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n{",),
    ],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
def test_a_client_that_never_ends_its_request_is_told_so_and_let_go(texts, parts) -> None:
    with _Served(texts, Limits(seconds=0.3, header_seconds=0.3)) as address:
        assert exchange(address, *parts).startswith(b"HTTP/1.1 408 ")


def test_more_connections_than_allowed_are_refused_and_later_ones_answered(texts) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with _Served(texts, Limits(connections=3, header_seconds=300)) as address:
        host, port = address.removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port)), timeout=60) for _ in range(3)]
        refused = exchange(address, request)
        assert refused.startswith(b"HTTP/1.1 503 ") and b"too many connections" in refused
        for connection in idle:  # one after the other, as a slot is free only when the service has seen it closed
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            while connection.recv(65536):
                pass
            connection.close()
        deadline = time.monotonic() + 60
        while not exchange(address, request).startswith(b"HTTP/1.1 200 "):
            assert time.monotonic() < deadline


#: what the client of the Hub returns for a row, by task; it has no method for depth
CLIENT = {
    "audio-classification": list,
    "automatic-speech-recognition": "AutomaticSpeechRecognitionOutput",
    "fill-mask": list,
    "image-classification": list,
    "image-segmentation": list,
    "object-detection": list,
    "question-answering": "QuestionAnsweringOutputElement",
    "summarization": "SummarizationOutput",
    "text-classification": list,
    "text-generation": str,
    "token-classification": list,
    "translation": "TranslationOutput",
}


@pytest.mark.recipes
@pytest.mark.parametrize("task", sorted(CLIENT))
def test_the_client_of_the_hub_understands_every_task(task, monkeypatch) -> None:
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the service is on this machine

    options = {"generation": {"max_new_tokens": 4}} if task in ("summarization", "translation") else {}
    options |= {"threshold": 0.0} if task == "object-detection" else {}
    work = built(task, **options)
    row = work.task.example_rows()[0]
    with _Served(work) as address:
        method = getattr(InferenceClient(model=address, timeout=300), task.replace("-", "_"))
        if task == "question-answering":
            answer = method(question=row["question"], context=row["context"])
        elif (first := single(work, row)) and any(column.lazy for column in work.task.columns.values()):
            answer = method(base64.b64decode(first))
        elif task == "text-generation":
            answer = method("red =", max_new_tokens=2)
        else:
            answer = method(first if isinstance(first, str) else "Ada lives in London")
    kind = CLIENT[task]
    assert type(answer).__name__ == kind if isinstance(kind, str) else isinstance(answer, kind)
    elements = answer if isinstance(answer, list) else [answer]
    assert (elements and all(hasattr(element, "score") for element in elements)) or not isinstance(answer, list)
