"""Samples of jets: the same whatever the workers, continued after an interruption, splits that share nothing."""

import json

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, StorageError
from dyadiq.zoo import jets_job, load_dataset
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_job import JetsConfig, simulate_jets
from dyadiq.zoo.jets_physics import MAX_SEED
from dyadiq.zoo.jets_simulation import Chunk

SMALL = JetsConfig(n_train=104, n_test=27, seed=3, chunk_jets=8)


class FakePhysics:
    """Stands for Pythia and for the processes: jets of a seed, results in any order, an interruption after some."""

    def __init__(self, monkeypatch):
        self.made = []
        self.interrupt_after = None
        self.reverse = False
        for name in ("import_pythia", "import_fastjet"):
            monkeypatch.setattr(jets_job, name, lambda: None)
        monkeypatch.setattr(jets_job.metadata, "version", lambda name: "1.0")
        monkeypatch.setattr(jets_job, "in_processes", self.in_processes)

    def in_processes(self, work, tasks, n_workers):
        for task in reversed(tasks) if self.reverse else tasks:
            if self.interrupt_after == len(self.made):
                raise KeyboardInterrupt
            self.made.append(task)
            rng = np.random.default_rng(task.seed)
            x = rng.normal(size=(task.n_jets, len(FEATURES))).astype(np.float32)
            yield task, (Chunk(x, rng.normal(size=(task.n_jets, 3)).astype(np.float32), 6), 0.5)


@pytest.fixture
def physics(monkeypatch):
    return FakePhysics(monkeypatch)


class Recorder:
    """A progress that counts."""

    def __init__(self):
        self.total = self.done = 0

    def start(self, label, total):
        self.total = total

    def advance(self, steps=1, note=""):
        self.done += steps

    def finish(self):
        assert self.done == self.total


def test_file_has_the_form_of_the_published_jets(physics, tmp_path):
    document = simulate_jets(tmp_path, SMALL, progress=Recorder())
    with np.load(tmp_path / "jets.npz") as jets:
        assert jets.files == [
            *("x_train", "y_train", "x_test", "y_test", "kin_train", "kin_test", "feature_names", "classes")
        ]
        kinds = {name: (jets[name].dtype.str, jets[name].shape) for name in jets.files}
        assert kinds["x_train"] == ("<f4", (104, 16))
        assert kinds["y_test"] == ("|u1", (27,))
        assert kinds["kin_train"] == ("<f2", (104, 3))
        assert (kinds["feature_names"][0], kinds["classes"][0]) == ("<U13", "<U1")
        assert tuple(jets["feature_names"]) == FEATURES
        assert np.bincount(jets["y_train"]).tolist() == [21, 21, 21, 21, 20]
        assert np.bincount(jets["y_test"]).tolist() == [6, 6, 5, 5, 5]
    assert json.loads((tmp_path / "jets.json").read_text()) == document
    assert document["schema"] == "dyadiq.jets/1"
    assert document["n"] == {"train": 104, "test": 27}
    assert document["jets_per_cpu_second"] == 16.0
    assert document["n_events"] == 6 * len(physics.made)
    loaded = load_dataset("jets", path=tmp_path)
    assert (loaded.feature_names, loaded.classes, len(loaded.test)) == (FEATURES, CLASSES, 27)


def test_labels_stay_with_their_jets_and_no_jet_is_in_both_splits(physics, tmp_path):
    simulate_jets(tmp_path, SMALL)
    with np.load(tmp_path / "jets.npz") as jets:
        found = {
            split: {
                row.tobytes(): int(label) for row, label in zip(jets[f"x_{split}"], jets[f"y_{split}"], strict=True)
            }
            for split in ("train", "test")
        }
    assert not found["train"].keys() & found["test"].keys()
    for task in physics.made:
        rows = np.random.default_rng(task.seed).normal(size=(task.n_jets, len(FEATURES))).astype(np.float32)
        label = found[task.split].get(rows[0].tobytes())
        assert label == CLASSES.index(task.jet_class)


def test_sample_is_the_same_bytes_whatever_the_order_of_chunks(physics, tmp_path):
    first = simulate_jets(tmp_path / "a", SMALL, n_workers=1)
    physics.reverse = True
    second = simulate_jets(tmp_path / "b", SMALL, n_workers=7)
    assert first["sha256"] == second["sha256"]
    assert (tmp_path / "a/jets.npz").read_bytes() == (tmp_path / "b/jets.npz").read_bytes()


def test_interrupted_sample_is_continued_to_the_same_bytes(physics, tmp_path):
    whole = simulate_jets(tmp_path / "whole", SMALL)
    physics.made.clear()
    physics.interrupt_after = 4
    with pytest.raises(KeyboardInterrupt):
        simulate_jets(tmp_path / "cut", SMALL)
    assert not (tmp_path / "cut/jets.npz").exists()
    physics.interrupt_after = None
    progress = Recorder()
    document = simulate_jets(tmp_path / "cut", SMALL, progress=progress)
    assert (document["chunks"]["kept"], document["sha256"]) == (4, whole["sha256"])
    assert len(physics.made) == len(set(map(str, physics.made)))


def test_finished_sample_is_not_simulated_again(physics, tmp_path):
    simulate_jets(tmp_path, SMALL)
    n_made = len(physics.made)
    document = simulate_jets(tmp_path, SMALL)
    assert len(physics.made) == n_made
    assert document["chunks"]["new"] == 0
    assert document["jets_per_cpu_second"] is None


def test_larger_sample_uses_the_chunks_of_a_smaller_one(physics, tmp_path):
    simulate_jets(tmp_path, SMALL)
    n_made = len(physics.made)
    simulate_jets(tmp_path, JetsConfig(n_train=150, n_test=27, seed=3, chunk_jets=8))
    assert {task.number for task in physics.made[n_made:]} == {3}
    assert {task.split for task in physics.made[n_made:]} == {"train"}


def test_other_seed_shares_no_chunk(physics, tmp_path):
    first = simulate_jets(tmp_path, SMALL)
    second = simulate_jets(tmp_path, JetsConfig(n_train=104, n_test=27, seed=4, chunk_jets=8))
    assert second["chunks"]["kept"] == 0
    assert first["sha256"] != second["sha256"]


def test_full_disk_keeps_finished_chunks(physics, tmp_path, monkeypatch):
    written = []

    def write(path, data):
        if len(written) == 3:
            raise StorageError(f"cannot write {path}: the disk is full.")
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(jets_job, "atomic_write_bytes", write)
    with pytest.raises(StorageError, match="the disk is full"):
        simulate_jets(tmp_path, SMALL)
    monkeypatch.setattr(jets_job, "atomic_write_bytes", lambda path, data: path.write_bytes(data))
    assert simulate_jets(tmp_path, SMALL)["chunks"]["kept"] == 3


def test_corrupt_chunk_is_named(physics, tmp_path):
    document = simulate_jets(tmp_path, SMALL)
    file = next(iter(sorted((tmp_path / "chunks").rglob("train-g-*.npz"))))
    assert str(file.parent) == document["chunks"]["folder"]
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ArtifactError, match=r"train-g-00000\.npz: cannot be read"):
        simulate_jets(tmp_path, SMALL)


def test_chunk_with_other_jets_than_its_name_says_is_refused(physics, tmp_path):
    simulate_jets(tmp_path, SMALL)
    file = next(iter(sorted((tmp_path / "chunks").rglob("test-z-*.npz"))))
    np.savez(file, x=np.zeros((2, 16), np.float32), kinematics=np.zeros((2, 3), np.float32), n_events=np.array(2))
    with pytest.raises(ArtifactError, match=r"test-z-00000\.npz: holds .* Delete it"):
        simulate_jets(tmp_path, SMALL)


def test_no_two_pythias_of_a_sample_share_a_seed():
    config = JetsConfig(n_train=100_000, n_test=50_000, seed=11, chunk_jets=100)
    tasks = list(config.tasks())
    seeds = [seed for task in tasks for seed in (task.seed, task.seed % MAX_SEED + 1)]
    assert len(seeds) == len(set(seeds)) == 2 * 1500
    assert all(1 <= seed <= MAX_SEED for seed in seeds)


def test_seeds_of_samples_differ():
    starts = {JetsConfig(seed=seed).pythia_seed("g", "train", 0) for seed in range(50)}
    assert len(starts) == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 4}, r"n_train must be at least 5 \(one jet of each class\), got 4"),
        ({"n_test": 0}, r"n_test must be at least 5"),
        ({"seed": -1}, r"seed must not be negative, got -1"),
        ({"chunk_jets": 0}, r"chunk_jets must be at least 1, got 0"),
        ({"n_train": 10**9, "chunk_jets": 1}, r"need more than the 900000000 seeds of Pythia"),
    ],
)
def test_impossible_sample_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        JetsConfig(**arguments)
