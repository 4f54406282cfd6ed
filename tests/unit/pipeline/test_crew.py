"""Runs of several processes: `dyadiq` under torchrun, two gloo processes, and the bytes of one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dyadiq.core.processes import is_alone
from dyadiq.curvature.pieces import run_pieces
from dyadiq.pipeline.crew import is_follower, with_others
from dyadiq.pipeline.run import run_recipe
from dyadiq.pipeline.stage import Stage
from dyadiq.recipe import load_recipe
from dyadiq.train.distributed import World
from tiny_run import write_tiny_recipe

OPTIONS = (
    "train.epochs=2",
    "finetune.epochs=0",
    "analyze.bits=[4]",
    "analyze.n_samples=200",
    "verify.against=['exact']",
)


DYADIQ = "from dyadiq.cli.app import main; main()"


def torchrun(n_processes, code, *arguments):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n_processes, "--no-python")
    command = (sys.executable, *launch, sys.executable, "-c", code, *arguments)
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


def test_two_processes_of_torchrun_give_the_bytes_of_one(path, tmp_path):
    sets = [text for option in OPTIONS for text in ("--set", option)]
    found = torchrun(2, DYADIQ, "run", path, *sets, "--set", f"out={tmp_path / 'two'}", "--json")
    assert found.returncode == 0, found.stderr
    two = json.loads(found.stdout)  # One document: the process that helps says nothing.
    one = run_recipe(load_recipe(path, [*OPTIONS, f"out={tmp_path / 'one'}"])).summary
    for file in ("analyze/sensitivity.safetensors", "allocate/plan.json", "lower/program.safetensors"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    assert two["accuracy"] == one["accuracy"]
    assert two["plan"] == one["plan"]
    assert not (tmp_path / "two" / ".work").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux")
def test_nothing_keeps_the_threads_of_the_process_group_alive_after_the_run():
    # A thread names itself once it runs, which may be after the group is there.
    code = """
import time
from pathlib import Path
from dyadiq.cli.commands.run import _process_group
def threads():
    return sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
with _process_group():
    import torch.distributed.nn.functional
    until = time.monotonic() + 60
    while not any("gloo" in name for name in threads()) and time.monotonic() < until:
        time.sleep(0.01)
    inside = threads()
assert any("gloo" in name for name in inside), inside
assert not any("gloo" in name for name in threads()), threads()
"""
    found = torchrun(1, code)
    assert found.returncode == 0, found.stderr


def test_other_stages_are_those_of_one_process():
    def measure(i):
        return {"alone": np.array([float(is_alone())])}

    for shared in (True, False):
        with with_others(Stage("any", "any", (), (), lambda context: None, shared=shared), Path("scratch")):
            assert is_alone() is not shared
            assert run_pieces("any", 1, measure)[0]["alone"] == float(not shared)
            assert World.current() == World(0, 1)
    assert not is_follower()
