"""A measurement in pieces: done one after another, kept on disk so that an interrupted one goes on, or over processes.

Used by the methods of this package. A piece is the work on one chunk of samples, or on one decision; it returns named
arrays and depends on nothing but its number, so that the numbers are the same wherever and whenever it is computed:
sums over pieces are always taken in the order of their numbers.

    here        every piece, one after another
    kept        pieces found in a folder are read, the others computed and stored (whole files or none)
    shared      with `torch.distributed` initialized, piece i belongs to process i modulo their number, and all
                processes get all pieces; bytes travel as tensors of safetensors, nothing is unpickled

The folder must belong to one measurement: same graph, data, options and version. The pipeline gives a stage's scratch
folder, which its key names and which is deleted when the stage is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from safetensors.numpy import load, save

from dyadiq.core.artifact import read_artifact, write_artifact
from dyadiq.core.processes import is_alone
from dyadiq.core.progress import NO_PROGRESS, Progress

__all__ = ["Piece", "run_pieces"]

Piece: TypeAlias = Mapping[str, NDArray[np.float64]]

SCHEMA = "dyadiq.piece/1"


def run_pieces(
    label: str,
    n_pieces: int,
    make: Callable[[int], Piece],
    *,
    folder: Path | None = None,
    progress: Progress = NO_PROGRESS,
    notes: Sequence[str] = (),
) -> list[Piece]:
    """Return the pieces 0 to ``n_pieces - 1`` in order.

    Args:
        label: Name of the measurement within the folder, and of its progress.
        n_pieces: How many there are.
        make: Computes a piece from its number alone.
        folder: Where to keep them; None keeps none.
        progress: Told of every piece.
        notes: What each piece is, for the progress.

    Raises:
        StorageError: The disk is full or not writable.

    Example:
        >>> made = run_pieces("squares", 3, lambda i: {"square": np.array([i * i], np.float64)})
        >>> [float(piece["square"][0]) for piece in made]
        [0.0, 1.0, 4.0]
    """
    rank, world = _place()
    mine = range(rank, n_pieces, world)
    progress.start(label, n_pieces)
    pieces: dict[int, Piece] = {}
    for i in mine:
        pieces[i] = _kept(label, i, make, folder)
        progress.advance(world if i + world < n_pieces else n_pieces - i + rank, notes[i] if notes else "")
    if not mine:
        progress.advance(n_pieces)
    progress.finish()
    if world > 1:
        pieces = _gathered(pieces, n_pieces, rank, world)
    return [pieces[i] for i in range(n_pieces)]


def _place() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    if not is_alone() and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _kept(label: str, i: int, make: Callable[[int], Piece], folder: Path | None) -> Piece:
    if folder is None:
        return make(i)
    path = folder / f"{label.replace(' ', '_')}_{i:06d}.safetensors"
    if path.exists():
        return read_artifact(path, SCHEMA)[1]
    piece = make(i)
    folder.mkdir(parents=True, exist_ok=True)
    write_artifact(path, SCHEMA, {}, dict(piece))
    return piece


def _gathered(pieces: Mapping[int, Piece], n_pieces: int, rank: int, world: int) -> dict[int, Piece]:
    """Return all pieces: each is sent by its owner to everybody, in order."""
    device = torch.device("cuda", torch.cuda.current_device()) if _on_gpu() else torch.device("cpu")
    everything: dict[int, Piece] = {}
    for i in range(n_pieces):
        owner = i % world
        data = save({k: np.ascontiguousarray(v) for k, v in pieces[i].items()}) if owner == rank else b""
        size = torch.tensor([len(data)], dtype=torch.int64, device=device)
        torch.distributed.broadcast(size, owner)
        buffer = torch.empty(int(size.item()), dtype=torch.uint8, device=device)
        if owner == rank:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        torch.distributed.broadcast(buffer, owner)
        everything[i] = load(buffer.cpu().numpy().tobytes())
    return everything


def _on_gpu() -> bool:
    return str(torch.distributed.get_backend()) == "nccl"
