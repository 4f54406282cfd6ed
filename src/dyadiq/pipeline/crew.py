"""Several processes on one run: the first does everything, the others help where work is shared.

Used by `pipeline.run` and `pipeline.runner`. Nothing is started here: ``torchrun`` starts the processes, and the
process group of `torch.distributed` must be there (the command line makes it). All run the same recipe on one disk.

    first      the run as ever: lock, records, files. Before a shared stage it tells the others, and at the end to stop
    others     wait, do the work of shared stages beside the first one, and throw their files away

Shared is the stage ``analyze``, whose measurements are cut into pieces that give the same numbers wherever they are
made (`curvature.pieces`). Training is not: a run's numbers do not depend on how many processes there are.
Messages are text in tensors; nothing is unpickled. Where one process fails, torchrun ends the others.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dyadiq.core.processes import alone
from dyadiq.pipeline.stage import Stage, StageContext
from dyadiq.recipe import Recipe

__all__ = ["dismiss_others", "follow", "is_follower", "with_others"]


def is_follower() -> bool:
    """Return whether this process helps another one."""
    return _rank_and_size()[0] > 0


@contextlib.contextmanager
def with_others(stage: Stage, scratch: Path) -> Iterator[None]:
    """Let the first process run a stage: together with the others if it is shared, else alone."""
    if not stage.shared:
        with alone():
            yield
        return
    if _rank_and_size()[1] > 1:
        _broadcast({"stage": stage.name, "scratch": str(scratch)})
    yield


def dismiss_others() -> None:
    """Tell the others that the run is finished; called by the first process."""
    if _rank_and_size()[1] > 1:
        _broadcast({})


def follow(stages: Sequence[Stage], recipe: Recipe, run: Path) -> None:
    """Help until dismissed.

    Args:
        stages: Those of the run.
        recipe: The first process's.
        run: Its folder.
    """
    known = {stage.name: stage for stage in stages}
    while order := _broadcast({}):
        stage = known[order["stage"]]
        with tempfile.TemporaryDirectory() as folder:
            stage.run(StageContext(recipe, run, Path(folder), Path(order["scratch"]), stage.inputs))


def _rank_and_size() -> tuple[int, int]:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _broadcast(message: Mapping[str, str]) -> dict[str, str]:
    """Return the message of the first process, in every process."""
    import torch
    import torch.distributed

    data = torch.frombuffer(bytearray(json.dumps(message), "utf-8"), dtype=torch.uint8)
    size = torch.tensor([len(data)])
    torch.distributed.broadcast(size, 0)
    if is_follower():
        data = torch.empty(int(size.item()), dtype=torch.uint8)
    torch.distributed.broadcast(data, 0)
    found: dict[str, str] = json.loads(bytes(data.tolist()))
    return found
