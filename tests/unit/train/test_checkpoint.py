"""Checkpoints: whole, of the right training, or refused."""

import pytest
import torch

from dyadiq.core.artifact import write_artifact
from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.train.checkpoint import SCHEMA, Best, TrainState, read_checkpoint, write_checkpoint


def state():
    return TrainState(
        n_epochs=2,
        history=({"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 1 / 3}),
        model={"a.weight": torch.tensor([1.5, -2.0]), "a.n": torch.tensor(3)},
        optimizer={"a.weight/exp_avg": torch.tensor([0.5, 0.25])},
        best=Best(1, 0.9, 0.2, {"a.weight": torch.tensor([1.0, 1.0])}),
    )


def test_state_reads_back(tmp_path):
    path = tmp_path / "train.safetensors"
    write_checkpoint(path, state(), "me")
    back = read_checkpoint(path, "me")
    assert (back.n_epochs, back.history) == (2, state().history)
    for got, expected in ((back.model, state().model), (back.optimizer, state().optimizer)):
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], value) and got[name].dtype == value.dtype for name, value in expected.items())
    assert (back.best.epoch, back.best.accuracy, back.best.loss) == (1, 0.9, 0.2)
    assert torch.equal(back.best.model["a.weight"], torch.ones(2))


def test_same_state_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, state(), "me")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_checkpoint_of_another_training_is_refused(tmp_path):
    write_checkpoint(tmp_path / "c", state(), "me")
    with pytest.raises(ConfigError, match=r"belongs to another training .* Delete it"):
        read_checkpoint(tmp_path / "c", "you")


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "c"
    write_checkpoint(path, state(), "me")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError):
        read_checkpoint(path, "me")


def test_incomplete_checkpoint_is_refused(tmp_path):
    write_artifact(tmp_path / "c", SCHEMA, {"fingerprint": "me", "n_epochs": 1})
    with pytest.raises(ArtifactError, match=r"not a whole checkpoint: 'best'"):
        read_checkpoint(tmp_path / "c", "me")
