"""Runs a compiled C simulation over saved arrays, in a process of its own: ``hls4ml_run.py LIBRARY TOP FOLDER SIZES``.

Started by `hls4ml_project.run_csim`, never imported for its functions; imports numpy only, so that it starts fast.
Reads ``in0.npy``, ``in1.npy``, ... ``[N, size]`` from the folder and writes ``out0.npy``, ... there.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

__all__ = ["main"]


def main(library: str, top: str, folder: str, sizes: str) -> None:
    """Call the top function once per sample."""
    place = Path(folder)
    inputs = [np.load(place / f"in{i}.npy") for i in range(len(list(place.glob("in*.npy"))))]
    count = len(inputs[0])
    outputs = [np.zeros((count, int(size)), dtype=np.float64) for size in sizes.split(",")]
    run = getattr(ctypes.CDLL(library), top)
    run.restype = None
    pointer = ctypes.POINTER(ctypes.c_double)
    for i in range(count):
        run(*(array[i].ctypes.data_as(pointer) for array in (*inputs, *outputs)))
    for i, array in enumerate(outputs):
        np.save(place / f"out{i}.npy", array)


if __name__ == "__main__":
    main(*sys.argv[1:])
