"""Simulating a whole sample of jets: chunks in parallel, kept as they finish, put together at the end.

Used by ``dyadiq data jets``. The physics is in `jets_physics` and `jets_simulation`.

A chunk is a fixed number of jets of one class and split, made from a seed of its own: a function of the sample's seed,
class, split and number, different for every chunk. So a sample does not depend on the number of workers or on
interruptions, no event reaches both splits, and a larger sample begins with the chunks of a smaller one.
Chunks lie in ``<folder>/chunks/<key>/``, where the key hashes everything that decides them, and are used again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.storage import atomic_write_bytes, make_folder
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_file import JetArrays, to_npz_bytes, write_jets
from dyadiq.zoo.jets_physics import MAX_SEED, SETTINGS, import_pythia
from dyadiq.zoo.jets_simulation import SELECTION, Chunk, import_fastjet, simulate_chunk
from dyadiq.zoo.jets_workers import in_processes
from dyadiq.zoo.npz_data import read_npz

__all__ = ["JetsConfig", "simulate_jets"]

_SPLITS = ("train", "test")
_SEEDS_PER_CHUNK = 2  # one for each Pythia of a class of bosons
_ARRAYS = ("x", "kinematics", "n_events")


@dataclass(frozen=True, slots=True)
class JetsConfig:
    """What sample to make.

    Attributes:
        n_train: Jets of the training split, in equal parts of each class.
        n_test: Jets of the test split.
        seed: Decides every jet.
        chunk_jets: Jets of one chunk: what an interruption can cost a worker; decides the jets too.

    Raises:
        ConfigError: A split without a jet of each class, a negative seed, or an empty chunk.

    Example:
        >>> JetsConfig(n_train=3)
        Traceback (most recent call last):
        dyadiq.core.errors.ConfigError: n_train must be at least 5 (one jet of each class), got 3.
    """

    n_train: int = 100_000
    n_test: int = 20_000
    seed: int = 0
    chunk_jets: int = 500

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: See the class.
        """
        for name, count in (("n_train", self.n_train), ("n_test", self.n_test)):
            if count < len(CLASSES):
                raise ConfigError(f"{name} must be at least {len(CLASSES)} (one jet of each class), got {count}.")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}.")
        if self.chunk_jets < 1:
            raise ConfigError(f"chunk_jets must be at least 1, got {self.chunk_jets}.")
        if max(self._n_chunks()) * len(_SPLITS) * len(CLASSES) * _SEEDS_PER_CHUNK > MAX_SEED:
            raise ConfigError(
                f"{max(self.n_train, self.n_test)} jets in chunks of {self.chunk_jets} need more than the {MAX_SEED} "
                "seeds of Pythia. Ask for fewer jets or larger chunks."
            )

    def share(self, split: str, jet_class: str) -> int:
        """Return the number of jets of a class: an equal part, the first classes one more if it does not divide."""
        total = self.n_train if split == "train" else self.n_test
        return total // len(CLASSES) + (CLASSES.index(jet_class) < total % len(CLASSES))

    def tasks(self) -> Iterator[ChunkTask]:
        """Yield the chunks of the sample; those of one number of all classes and splits follow each other."""
        for number in range(max(self._n_chunks())):
            for split, jet_class in itertools.product(_SPLITS, CLASSES):
                if number * self.chunk_jets < self.share(split, jet_class):
                    seed = self.pythia_seed(jet_class, split, number)
                    yield ChunkTask(jet_class, split, number, self.chunk_jets, seed)

    def pythia_seed(self, jet_class: str, split: str, number: int) -> int:
        """Return the seed of a chunk; no two chunks of a sample share one (an even stride from a hashed start)."""
        start = int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0]) % MAX_SEED
        place = (number * len(CLASSES) + CLASSES.index(jet_class)) * len(_SPLITS) + _SPLITS.index(split)
        return (start + place * _SEEDS_PER_CHUNK) % MAX_SEED + 1

    def _n_chunks(self) -> list[int]:
        return [-(-self.share(split, CLASSES[0]) // self.chunk_jets) for split in _SPLITS]


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """One chunk: its class, split, number, size and seed."""

    jet_class: str
    split: str
    number: int
    n_jets: int
    seed: int

    def __str__(self) -> str:
        """Name the chunk, also as a file."""
        return f"{self.split}-{self.jet_class}-{self.number:05d}"


def simulate_jets(
    folder: Path, config: JetsConfig, *, n_workers: int = 2, progress: Progress = NO_PROGRESS
) -> dict[str, Any]:
    """Simulate a sample into ``folder/jets.npz``, and return the document that is written beside it.

    What an earlier call of the same settings left unfinished is continued; the result is the same.

    Args:
        folder: Made if it is not there.
        config: What to simulate.
        n_workers: Processes; each takes one core.
        progress: Where to report.

    Raises:
        MissingDependencyError: Pythia or FastJet is not installed.
        ConfigError: ``n_workers`` below 1.
        StorageError: The disk is full or not writable; finished chunks are kept.
        ToolError: Pythia failed, or a process died; finished chunks are kept.
        ArtifactError: A chunk file is corrupt.
        DataError: A simulated feature is not finite.
    """
    import_pythia()
    import_fastjet()
    started = time.perf_counter()
    settings = _settings(config)
    place = make_folder(folder / "chunks" / _key(settings))
    tasks = list(config.tasks())
    missing = [task for task in tasks if not _file(place, task).is_file()]
    progress.start("jets", len(tasks) * config.chunk_jets)
    progress.advance((len(tasks) - len(missing)) * config.chunk_jets, note="kept from before")
    cpu_seconds: dict[str, list[float]] = {}
    for task, (chunk, seconds) in in_processes(_simulate, missing, n_workers):
        arrays = {"x": chunk.x, "kinematics": chunk.kinematics, "n_events": np.array(chunk.n_events)}
        atomic_write_bytes(_file(place, task), to_npz_bytes(arrays))
        cpu_seconds.setdefault(task.jet_class, []).append(seconds)
        progress.advance(config.chunk_jets, note=str(task))
    progress.finish()
    jets, n_events = _assemble(place, config)
    everything = [seconds for some in cpu_seconds.values() for seconds in some]
    return write_jets(
        folder,
        jets,
        {
            "source": "simulated",
            "settings": {"n_train": config.n_train, "n_test": config.n_test, **settings},
            "n_events": n_events,
            "chunks": {"folder": str(place), "kept": len(tasks) - len(missing), "new": len(missing)},
            "seconds": round(time.perf_counter() - started, 2),
            "n_workers": n_workers,
            "jets_per_cpu_second": _rate(everything, config),
            "jets_per_cpu_second_of_class": {name: _rate(some, config) for name, some in sorted(cpu_seconds.items())},
            "notes": ["train and test share no event", "features are raw; standardise with the training statistics"],
        },
    )


def _rate(seconds: list[float], config: JetsConfig) -> float | None:
    """Return jets per second of one core, over chunks that took these seconds; None without any."""
    return round(len(seconds) * config.chunk_jets / sum(seconds), 2) if seconds else None


def _simulate(task: ChunkTask) -> tuple[Chunk, float]:
    started = time.process_time()
    chunk = simulate_chunk(task.jet_class, task.n_jets, task.seed)
    return chunk, time.process_time() - started


def _settings(config: JetsConfig) -> dict[str, Any]:
    """Return everything that decides a chunk."""
    return {
        "seed": config.seed,
        "chunk_jets": config.chunk_jets,
        "versions": {name: metadata.version(name) for name in ("pythia8mc", "fastjet")},
        "pythia": {name: [list(settings) for settings in both] for name, both in SETTINGS.items()},
        "selection": SELECTION,
    }


def _key(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _file(place: Path, task: ChunkTask) -> Path:
    return place / f"{task}.npz"


def _read_chunk(file: Path, task: ChunkTask) -> dict[str, NDArray[Any]]:
    """Return the arrays of a chunk.

    Raises:
        ArtifactError: The file is corrupt, or is not this chunk.
    """
    arrays = read_npz(file, _ARRAYS)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {"x": (task.n_jets, len(FEATURES)), "kinematics": (task.n_jets, 3), "n_events": ()}:
        raise ArtifactError(
            f"{file}: holds {shapes}, expected {task.n_jets} jets. Delete it and run the command again."
        )
    return arrays


def _assemble(place: Path, config: JetsConfig) -> tuple[JetArrays, int]:
    """Return the jets of all chunks, shuffled within each split, and the number of events they took."""
    parts: dict[tuple[str, str], list[dict[str, NDArray[Any]]]] = {}
    for task in config.tasks():
        parts.setdefault((task.split, task.jet_class), []).append(_read_chunk(_file(place, task), task))
    found: dict[str, NDArray[Any]] = {}
    for split in _SPLITS:
        counts = [config.share(split, name) for name in CLASSES]
        order = np.random.default_rng([config.seed, _SPLITS.index(split)]).permutation(sum(counts))
        for name in ("x", "kinematics"):
            columns = [
                np.concatenate([part[name] for part in parts[split, jet_class]])[:count]
                for jet_class, count in zip(CLASSES, counts, strict=True)
            ]
            found[f"{name}_{split}"] = np.concatenate(columns)[order]
        found[f"y_{split}"] = np.repeat(np.arange(len(CLASSES), dtype=np.uint8), counts)[order]
    n_events = sum(int(part["n_events"]) for chunks in parts.values() for part in chunks)
    jets = JetArrays(
        x_train=found["x_train"],
        y_train=found["y_train"],
        x_test=found["x_test"],
        y_test=found["y_test"],
        kin_train=found["kinematics_train"].astype(np.float16),
        kin_test=found["kinematics_test"].astype(np.float16),
    )
    return jets, n_events
