"""Tasks spread over processes: each result is handed back as it comes, and no process outlives the call.

Used by `jets_job`. Knows nothing about jets: a task is any picklable value, the work any importable function.

Processes are spawned and write nothing to stdout (libraries in C++ print banners there). Ctrl-C reaches the parent
alone, which stops them; if the parent is killed, each ends after the task it works on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from dyadiq.core.errors import ConfigError, DyadiqError, ToolError

__all__ = ["in_processes"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], n_workers: int
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, in the order they finish.

    Args:
        work: A function at the top of a module.
        tasks: Its arguments.
        n_workers: Number of processes; not more than tasks are started.

    Raises:
        ConfigError: ``n_workers`` below 1.
        ToolError: The work raised a `DyadiqError`, or its process died; the others are stopped.
    """
    if n_workers < 1:
        raise ConfigError(f"workers must be at least 1, got {n_workers}.")
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(tasks))
    workers: dict[Connection[Any, Any], SpawnProcess] = {}
    running: dict[Connection[Any, Any], Task] = {}
    try:
        for _ in range(min(n_workers, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            with _interrupts_ignored():  # inherited, so that Ctrl-C finds no worker that has just begun to import
                process.start()
            theirs.close()
            workers[ours] = process
            running[ours] = _give(ours, waiting)
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                task = running.pop(ready)
                result = _take(ready, workers[ready], task)
                if waiting:
                    running[ready] = _give(ready, waiting)
                yield task, result
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)


def _give(connection: Connection[Any, Any], waiting: list[Task]) -> Task:
    task = waiting.pop()
    connection.send(task)
    return task


def _take(connection: Connection[Any, Any], process: SpawnProcess, task: object) -> Any:
    try:
        fine, answer = connection.recv()
    except (EOFError, ConnectionResetError) as err:
        process.join()
        raise ToolError(
            f"a worker process ended with exit code {process.exitcode} during {task}. What was finished before is "
            "kept: run the same command again; if it ends there again, report it."
        ) from err
    if not fine:
        raise ToolError(f"{task}: {answer}")
    return answer


def _serve(connection: Connection[Any, Any], work: Callable[[Any], Any]) -> None:
    """Do tasks until the parent closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer = (True, work(task))
        except DyadiqError as err:
            answer = (False, str(err))
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
