"""Work in processes: every result arrives, failures name the task, nothing stays behind."""

import multiprocessing
import operator
import os
import time

import pytest

from dyadiq.core.errors import ConfigError, ToolError
from dyadiq.zoo.jets_job import JetsConfig
from dyadiq.zoo.jets_workers import in_processes


def test_every_task_comes_back_with_its_result():
    assert dict(in_processes(operator.neg, range(5), 2)) == {k: -k for k in range(5)}
    assert multiprocessing.active_children() == []


def test_no_process_starts_when_there_is_nothing_to_do():
    assert list(in_processes(operator.neg, [], 4)) == []


def test_error_of_a_task_is_a_tool_error_that_names_it():
    with pytest.raises(ToolError, match=r"3: n_train must be at least 5"):
        list(in_processes(JetsConfig, [3], 1))
    assert multiprocessing.active_children() == []


def test_process_that_dies_is_named_with_its_task():
    with pytest.raises(ToolError, match=r"ended with exit code 7 during 7\. What was finished before is kept"):
        list(in_processes(os._exit, [7], 1))
    assert multiprocessing.active_children() == []


def test_processes_are_stopped_when_the_caller_leaves():
    results = in_processes(time.sleep, [0.0, 60.0], 2)
    assert next(results)[0] == 0.0
    results.close()
    assert multiprocessing.active_children() == []


def test_no_worker_is_refused():
    with pytest.raises(ConfigError, match=r"workers must be at least 1, got 0"):
        list(in_processes(operator.neg, [1], 0))
