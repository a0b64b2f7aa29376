"""Rows of requests that come at the same time, predicted in one batch. Entry point: `Batcher`."""

from __future__ import annotations

import base64
import queue
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import Json, Row, TaskModel, TopworkError
from topwork_workbench.serving.limits import RequestError

if TYPE_CHECKING:
    from topwork import Task


@dataclass
class Job:
    """Rows of one request.

    Args:
        rows: with the task's input columns.
        task: with the options of the request.
        key: equal for requests whose rows may be predicted together.
        future: gets the predictions as JSON, or the error.
    """

    rows: Sequence[Row]
    task: Task
    key: str
    future: Future[list[Json]] = field(default_factory=Future)


class Batcher:
    """One thread that predicts the rows of all requests that wait.

    Args:
        work: the task and its model.
        batch_size: most rows that are predicted together.
        wait: seconds that a request waits for others.
        waiting: rows that may wait.
    """

    def __init__(self, work: TaskModel, batch_size: int = 32, wait: float = 0.005, waiting: int = 1024) -> None:
        self.work, self.batch_size, self.wait, self.waiting = work, batch_size, wait, waiting
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._count, self._lock = 0, threading.Lock()
        self._thread: threading.Thread | None = None
        #: numbers of rows that were predicted together, the last ones
        self.sizes: list[int] = []

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="topwork-serve", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after the jobs that wait."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)

    def submit(self, job: Job) -> Future[list[Json]]:
        """Put a job into the queue.

        Raises:
            RequestError: too many rows wait.
        """
        with self._lock:
            if self._count + len(job.rows) > self.waiting:
                raise RequestError(503, "too many rows wait", "try again later")
            self._count += len(job.rows)
        self._jobs.put(job)
        return job.future

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs, ended = self._collect()
            groups: dict[str, list[Job]] = {}
            for job in jobs:
                with self._lock:
                    self._count -= len(job.rows)
                if job.future.set_running_or_notify_cancel():  # else nobody waits for it any more
                    groups.setdefault(job.key, []).append(job)
            for group in groups.values():
                self._answer(group)

    def _collect(self) -> tuple[list[Job], bool]:
        """Return the jobs of one turn, and whether the queue has ended."""
        first = self._jobs.get()
        if first is None:
            return [], True
        jobs, rows, until = [first], len(first.rows), time.monotonic() + self.wait
        while rows < self.batch_size:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
            rows += len(job.rows)
        return jobs, False

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Predict the rows of jobs together; a row that cannot be predicted ends its own request only."""
        rows = [row for job in jobs for row in job.rows]
        self.sizes = [*self.sizes[-99:], len(rows)]
        try:
            predictions, refused = self._predict(jobs[0].task, rows)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            for job in jobs if len(jobs) > 1 else ():  # the fault may be that of one request
                self._answer([job])
            return
        start = 0
        for job in jobs:
            indices = range(start, start + len(job.rows))
            start += len(job.rows)
            bad = next((index for index in indices if index in refused), None)
            if bad is None:
                job.future.set_result([predictions[index] for index in indices])
            else:
                note = refused[bad]
                column = f", input `{note['column']}`" if note.get("column") else ""
                job.future.set_exception(RequestError(422, f"row {bad - indices[0]}{column}: {note['cause']}"))

    def _predict(self, task: Task, rows: Sequence[Row]) -> tuple[dict[int, Json], dict[int, dict[str, Any]]]:
        """Return predictions as JSON, and notes of the rows that were refused, both by index."""
        work = TaskModel(task, self.work.model, self.work.plugins, self.work.form, self.work.origins)
        skipped: list[dict[str, Any]] = []
        predictions = {}
        settings: dict[str, Any] = {"on_error": "skip", "skipped": skipped, "items": self.batch_size}
        with tempfile.TemporaryDirectory() as scratch:
            for index, _, prediction in work.predictions(list(rows), **settings):
                folder = Path(scratch) / str(index)
                folder.mkdir()
                predictions[index] = with_files(task.write(prediction, folder, "file"), folder)
        notes = {note["row"]: note for note in skipped}
        missing = [index for index in range(len(rows)) if index not in predictions and index not in notes]
        if missing:
            raise TopworkError(f"row {missing[0]} has no prediction")
        return predictions, notes


def with_files(value: Json, folder: Path) -> Json:
    """Return a prediction as JSON in which the files that it names (masks, depth maps) stand as base64."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    files |= {str(file): file for file in list(files.values())}

    def inlined(part: Json) -> Json:
        if isinstance(part, dict):
            return {str(name): inlined(entry) for name, entry in part.items()}
        if isinstance(part, list | tuple):
            return [inlined(entry) for entry in part]
        if isinstance(part, str) and part in files:
            return base64.b64encode(files[part].read_bytes()).decode("ascii")
        return part

    return inlined(value)
