"""Two processes train as one does; what they would do differently is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dyadiq.core.errors import ConfigError
from dyadiq.train import TrainConfig, train
from dyadiq.train.distributed import World
from learners import Net, blobs

PROGRAM = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from learners import Net, blobs
from dyadiq.train import TrainConfig, train

folder = sys.argv[1]
distributed = len(sys.argv) > 2
if distributed:
    dist.init_process_group("gloo")
model = Net()
model.drop = nn.Identity()  # its masks are per process
config = TrainConfig(epochs=3, batch_size=16, learning_rate=0.01, freeze_bn_epoch=0, average_decay=0.9)
checkpoint = Path(folder, f"checkpoint{int(distributed)}")
result = train(model, blobs(), config, validation=blobs(30, seed=1), checkpoint=checkpoint)
again = Net()
again.drop = nn.Identity()
resumed = train(again, blobs(), config, validation=blobs(30, seed=1), checkpoint=checkpoint)
assert resumed.n_resumed_epochs == 3
rank = dist.get_rank() if distributed else 0
found = {"model": model.state_dict(), "losses": [record["loss"] for record in result.history]}
torch.save(found, f"{folder}/{len(sys.argv)}{rank}")
if distributed:
    dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_train_as_one_does(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for words in ([str(program), str(tmp_path)], [*torchrun, str(program), str(tmp_path), "distributed"]):
        subprocess.run([sys.executable, *words], env=environment, check=True, timeout=300, capture_output=True)
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("20", "30", "31"))
    for name, value in one["model"].items():
        assert torch.equal(first["model"][name], second["model"][name])
        assert torch.allclose(first["model"][name].double(), value.double(), atol=1e-5)
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-5)


def test_batches_without_equal_shares_are_refused():
    with pytest.raises(ConfigError, match="batches of 15 samples have no equal shares for 2 processes"):
        World(0, 2).check(Net(), TrainConfig(freeze_bn_epoch=0), 15)


def test_live_batch_norms_are_refused_when_there_are_several_processes():
    for epoch in (None, 1):
        with pytest.raises(ConfigError, match="1 batch norms would take statistics from the shares of 2 processes"):
            World(0, 2).check(Net(), TrainConfig(freeze_bn_epoch=epoch), 16)
    World(0, 2).check(Net(), TrainConfig(freeze_bn_epoch=0), 16)
    World(0, 1).check(Net(), TrainConfig(), 15)


def test_shares_are_the_batch():
    batch = torch.arange(6)
    assert torch.equal(torch.cat([World(rank, 3).share(batch) for rank in range(3)]), batch)
    assert World.current() == World(0, 1)
    assert World.current().mean(2.5) == 2.5


def test_one_process_alone_trains_without_a_group():
    assert train(Net(), blobs(), TrainConfig(epochs=1, batch_size=16)).history
