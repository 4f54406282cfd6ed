"""Measurements of one small network, alone or as one of two processes. Used by the tests of `curvature.pieces`.

A file of its own, since a spawned process imports what it runs by name.
"""

import numpy as np
import torch
import torch.distributed

from dyadiq.curvature import LABELLED_METHODS, analyze
from dyadiq.curvature.pieces import run_pieces
from graphs import NETWORKS, samples

__all__ = ["measure", "numbers", "process", "tables"]


def measure(method, **options):
    """Two widths of a network with a residual, on three chunks."""
    graph = NETWORKS["residual"](seed=2)
    x = samples(graph, 130)
    batches = [(x, np.arange(130) % 3)] if method in LABELLED_METHODS else [x]
    return analyze(graph, batches, method, bits=(2,), **options)


def numbers(table):
    """Everything a measurement found."""
    return {
        "entries": table.entries,
        "curvature": dict(table.curvature),
        "matrix": None if table.interactions is None else table.interactions.matrix.tolist(),
        "notes": table.notes,
    }


def tables():
    """Numbers of one method that works by chunks with interactions, one with gradients, one by decisions, as text."""
    return repr({method: numbers(measure(method, activation_bits=(4,))) for method in ("gram", "fisher", "eigenvalue")})


def process(rank, store, results):
    """One of two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    odd = run_pieces("odd", 3, lambda i: {"by": np.array([float(rank)]), "i": np.full((2, i), float(i))})
    one = run_pieces("one", 1, lambda i: {"by": np.array([float(rank)])})
    found = {"tables": tables(), "by": [float(piece["by"][0]) for piece in odd + one]}
    torch.save(found, f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()
