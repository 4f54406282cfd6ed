"""Measurements in pieces: the same numbers after an interruption, and on two processes."""

import numpy as np
import pytest
import torch
import torch.multiprocessing

import two_processes
from dyadiq.curvature import METHODS
from dyadiq.curvature.pieces import run_pieces
from two_processes import measure, numbers


class StopError(Exception):
    pass


class Interrupting:
    """Stops after some steps of the measurement itself."""

    def __init__(self, after):
        self.left = after

    def start(self, label, total): ...

    def advance(self, steps=1, note=""):
        self.left -= 1
        if self.left < 0:
            raise StopError

    def finish(self): ...


@pytest.mark.parametrize("method", [m for m in METHODS if m != "squared_error"])
def test_interrupted_measurement_goes_on_to_the_same_numbers(method, tmp_path):
    whole = measure(method, activation_bits=())
    with pytest.raises(StopError):
        measure(method, activation_bits=(), folder=tmp_path, progress=Interrupting(1))
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert kept
    resumed = measure(method, activation_bits=(), folder=tmp_path)
    assert numbers(resumed) == numbers(whole)
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in kept.items())  # Read, not made again.
    assert len(list(tmp_path.iterdir())) > len(kept)


def test_pieces_are_made_once_and_read_afterwards(tmp_path):
    made = []

    def make(i):
        made.append(i)
        return {"x": np.array([i, 0.1 * i])}

    first = run_pieces("some thing", 3, make, folder=tmp_path)
    again = run_pieces("some thing", 3, make, folder=tmp_path)
    assert made == [0, 1, 2]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])
    run_pieces("another", 1, make, folder=tmp_path)
    assert made == [0, 1, 2, 0]


def test_two_processes_share_the_work_and_give_the_numbers_of_one(tmp_path):
    torch.multiprocessing.spawn(two_processes.process, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    alone = two_processes.tables()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["tables"] == alone
        assert found["by"] == [0.0, 1.0, 0.0, 0.0]
