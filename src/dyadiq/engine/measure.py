"""Which algorithm runs each layer fastest on this machine: all that can run it, timed where the layer stands.

Used by target `engine` with option ``algorithms = "measured"``. The network is compiled once for every number of
choices; their steps are timed in turns, so that each finds its inputs and weights where they will be found in use
(weights of others have driven its own from the nearest caches), and once more at once, when all is near. The first is
what counts. Least times are taken, since a busy machine only adds.

`time_plans` is the timing alone, for whoever compares compiled programs, step by step or as wholes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq.engine.compile import compile_program
from dyadiq.engine.file import write_engine_file
from dyadiq.engine.plan import EnginePlan
from dyadiq.engine.runtime import EngineProgram, StepProfile, chosen_isa
from dyadiq.ir.integer import IntegerProgram

__all__ = ["MeasuredAlgorithms", "PlanTimes", "compile_measured", "measure_algorithms", "time_plans"]

_AGAIN, _SEED, _MOST_SAMPLES = 2, 0, 1024
_WORTH_IT = 0.98  # of the time of the choice before: less is noise


@dataclass(frozen=True)
class MeasuredAlgorithms:
    """What every algorithm of every layer takes on one machine.

    Attributes:
        isa: Instruction set of the kernels.
        threads: That shared each step.
        times_us: By layer and algorithm: where it stands, and again at once.
    """

    isa: str
    threads: int
    times_us: Mapping[str, Mapping[str, tuple[float, float]]]

    @property
    def fastest(self) -> dict[str, str]:
        """The algorithm of every layer; of two within 2 %, the one that comes first in `weights.ALGORITHMS`.

        Example:
            >>> MeasuredAlgorithms("portable", 1, {"a": {"direct": (9.0, 7.0), "winograd": (8.9, 5.0)}}).fastest
            {'a': 'direct'}
        """
        found = {}
        for layer, times in self.times_us.items():
            best, *others = times
            for name in others:
                best = name if times[name][0] < _WORTH_IT * times[best][0] else best
            found[layer] = best
        return found


@dataclass(frozen=True)
class PlanTimes:
    """What a compiled program takes.

    Attributes:
        steps: Least times of all its steps.
        whole_us: Least time of a sample, without timers inside.
    """

    steps: tuple[StepProfile, ...]
    whole_us: float


def time_plans(
    plans: Sequence[EnginePlan],
    *,
    isa: str | None = None,
    threads: int = 1,
    rounds: int = 10,
    turn_us: float = 0.0,
) -> list[PlanTimes]:
    """Return the least times of several compiled programs, run in turns on random inputs.

    Args:
        plans: Of one network or several.
        isa: Of `available_isas`; None: the best.
        threads: That share every step.
        rounds: How often each is run, step by step and as a whole.
        turn_us: How long either lasts at least, in samples one behind the other: what small networks find in the caches
            is then their own.

    Raises:
        ConfigError: This machine has no such kernels, or a number of threads that means nothing.
        MissingToolError: The native module was not built.
        StorageError: There is no room for temporary files.
        UnknownNameError: No kernels are called that.
    """
    with tempfile.TemporaryDirectory() as folder:
        opened = _opened(plans, Path(folder), isa, threads, turn_us)
        steps = [engine.profile(feeds, repeats=1, again=_AGAIN) for engine, feeds in opened]
        wholes = [engine.time_us(feeds) for engine, feeds in opened]
        for _ in range(rounds - 1):
            for at, (engine, feeds) in enumerate(opened):
                steps[at] = tuple(map(_least, steps[at], engine.profile(feeds, repeats=1, again=_AGAIN)))
                wholes[at] = min(wholes[at], engine.time_us(feeds))
    return [PlanTimes(*both) for both in zip(steps, wholes, strict=True)]


def _opened(
    plans: Sequence[EnginePlan], folder: Path, isa: str | None, threads: int, turn_us: float
) -> list[tuple[EngineProgram, dict[str, NDArray[np.float32]]]]:
    """Return the programs with random inputs, as many samples as a turn needs."""
    opened = []
    for at, plan in enumerate(plans):
        path = folder / f"{at}.dyqe"
        write_engine_file(plan, path)
        engine, rng = EngineProgram(path, isa=isa, threads=threads), np.random.default_rng(_SEED)
        feeds = {name: rng.normal(size=(1, *shape)).astype("float32") for name, shape in engine.inputs.items()}
        n_samples = min(_MOST_SAMPLES, 1 + int(turn_us / max(engine.time_us(feeds), 0.1))) if turn_us else 1
        opened.append((engine, {name: np.repeat(x, n_samples, axis=0) for name, x in feeds.items()}))
    return opened


def measure_algorithms(
    program: IntegerProgram, *, isa: str | None = None, threads: int = 1, rounds: int = 10
) -> MeasuredAlgorithms:
    """Return what every algorithm that can run a layer takes here.

    Args:
        program: That `find_uncompilable` has nothing against.
        isa: Of `available_isas`; None: the best.
        threads: That share every step.
        rounds: How often each is run.

    Raises:
        ConfigError: As `time_plans`.
        MissingToolError: As `time_plans`.
        ProofError: A tensor may leave its declared type.
        StorageError: As `time_plans`.
        UnknownNameError: As `time_plans`.
    """
    first = compile_program(program)
    choices = {step.layer: step.choices for step in first.steps if step.layer is not None}
    n_plans = max(map(len, choices.values()), default=0)
    plans = [
        compile_program(program, algorithms={layer: all_of[i] for layer, all_of in choices.items() if i < len(all_of)})
        for i in range(n_plans)
    ]
    times: dict[str, dict[str, tuple[float, float]]] = {layer: {} for layer in choices}
    for i, timed in enumerate(time_plans(plans, isa=isa, threads=threads, rounds=rounds)):
        for step in timed.steps:
            if step.layer is not None and step.algorithm is not None and i < len(choices[step.layer]):
                before = times[step.layer].get(step.algorithm, (0.0, 0.0))  # of a step that prepares its input
                times[step.layer][step.algorithm] = (before[0] + step.time_us, before[1] + (step.warm_us or 0.0))
    return MeasuredAlgorithms(chosen_isa(isa), threads, times)


def compile_measured(program: IntegerProgram, *, isa: str | None = None, threads: int = 1) -> EnginePlan:
    """Return the plan of a program with the fastest algorithms of this machine, and their times in it.

    Args:
        program: That `find_uncompilable` has nothing against.
        isa: Of `available_isas`; None: the best.
        threads: That will share every step.

    Raises:
        ConfigError: As `time_plans`.
        MissingToolError: As `time_plans`.
        ProofError: A tensor may leave its declared type.
        StorageError: As `time_plans`.
        UnknownNameError: As `time_plans`.
    """
    found = measure_algorithms(program, isa=isa, threads=threads)
    plan = compile_program(program, algorithms=found.fastest)
    layers = {
        layer: {name: [round(t, 3) for t in both] for name, both in times.items()}
        for layer, times in found.times_us.items()
    }
    plan.measured = {"isa": found.isa, "threads": found.threads, "layers": layers}
    return plan


def _least(a: StepProfile, b: StepProfile) -> StepProfile:
    warm = min(t for t in (a.warm_us, b.warm_us) if t is not None)
    return replace(a if a.time_us <= b.time_us else b, warm_us=warm)
