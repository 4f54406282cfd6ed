"""Runs compiled programs: the Python face of native/engine. One sample after another, each in one thread or several.

Used by target `engine`. Needs the native module; says so where it was not built. `DYADIQ_ISA` forces kernels.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.container import map_container, read_container
from dyadiq.core.errors import ArtifactError, ConfigError, DataError, MissingToolError, UnknownNameError
from dyadiq.core.native import native_state

__all__ = ["ISAS", "EngineProgram", "StepProfile", "available_isas", "chosen_isa"]

# Every instruction set with kernels of its own (native/engine/kernels), on any machine; the best of a family last.
ISAS = ("portable", "avx2", "avxvnni", "avx512vnni256", "avx512vnni", "neon", "neondot")

_MAX_THREADS = 256


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets whose kernels this machine runs, the best last; none without the native module."""
    module = native_state().module
    return () if module is None else tuple(module.engine_isas())


def chosen_isa(isa: str | None = None) -> str:
    """Return the instruction set that programs run with: the one named, that of ``DYADIQ_ISA``, or the machine's best.

    Args:
        isa: Of `available_isas`; None: not named.

    Raises:
        ConfigError: This machine has no such instructions, or kernels for them were not built.
        MissingToolError: The native module was not built.
        UnknownNameError: No kernels are called that.
    """
    state = native_state()
    if state.module is None:
        raise MissingToolError(f"native code of dyadiq ({state.found})", "pip install . (needs a C++ compiler)")
    wanted, available = isa or os.environ.get("DYADIQ_ISA", ""), available_isas()
    if wanted and wanted not in ISAS:
        raise UnknownNameError("instruction set", wanted, ISAS)
    if wanted and wanted not in available:
        raise ConfigError(
            f"instruction set {wanted!r}: this machine has none of its kernels; expected one of "
            f"{', '.join(available)}. Name one of these, or none for the best."
        )
    return wanted or available[-1]


@dataclass(frozen=True, slots=True)
class StepProfile:
    """What one step of a program takes.

    Attributes:
        op: What it is, as in docs/spec/engine.md.
        name: Node of the program that it ends with.
        time_us: Least time of one run, with weights and inputs where the steps before leave them.
        macs: Products; 0 where it is no convolution.
        peak_frac: Share of the products that the machine makes in that time at most, in one thread; above 1 where an
            algorithm needs fewer than `macs`; None where there are no products, or the kernels have no such limit.
        layer: Convolution or linear layer in it; None where there is none.
        algorithm: Of that, of `weights.ALGORITHMS` or `lowering.BASELINES`.
        warm_us: Least time when the step is run again at once; None where that was not asked for.
    """

    op: str
    name: str
    time_us: float
    macs: int
    peak_frac: float | None
    layer: str | None = None
    algorithm: str | None = None
    warm_us: float | None = None


class EngineProgram:
    """A compiled program, mapped into memory and ready to run.

    Attributes:
        inputs: Shape of every input by name.
        outputs: Shape of every output by name.
        isa: Instruction set of its kernels.
        threads: That share the work of a sample.
        arena_bytes: Memory it works in, beside the mapped file.
    """

    def __init__(self, path: str | os.PathLike[str], *, isa: str | None = None, threads: int = 1) -> None:
        """Map and check a file.

        Args:
            path: What `write_engine_file` wrote.
            isa: Of `available_isas`; None: the best, or that of ``DYADIQ_ISA``.
            threads: That share the work of every step, the caller's among them; the integers do not depend on it.
                The others sleep between runs.

        Raises:
            ArtifactError: Missing, damaged or newer file, or one that holds no compiled program.
            ConfigError: This machine has no such kernels, or a number of threads below 1 or above 256.
            MissingToolError: The native module was not built.
            UnknownNameError: No kernels are called that.
        """
        wanted = chosen_isa(isa)
        if not 1 <= threads <= _MAX_THREADS:
            raise ConfigError(
                f"threads: got {threads}, expected 1 to {_MAX_THREADS}. Take the number of cores at most."
            )
        data = map_container(path)
        try:
            self._native = native_state().module.Engine(data, wanted, threads)
            structure = json.loads(self._native.structure)
            self.inputs = {str(name): tuple(int(d) for d in shape) for name, shape in structure["inputs"]}
            self.outputs = {str(name): tuple(int(d) for d in shape) for name, shape in structure["outputs"]}
            self._output_sizes = [math.prod(shape) for shape in self.outputs.values()]
            self._steps = [(str(op), str(name)) for op, name, *_ in structure["steps"]]
            self._dots = [(str(step[2]), str(step[3])) if len(step) > 2 else None for step in structure["steps"]]
        except (ValueError, LookupError, TypeError) as err:
            read_container(path)  # which says more, where the file is damaged
            raise ArtifactError(f"{path}: holds no compiled program: {err}. Export the program again.") from err
        except MemoryError as err:
            raise ArtifactError(f"{path}: asks for more memory than there is. Export the program again.") from err
        self.path, self.threads = Path(path), threads
        self.isa: str = self._native.isa
        self.arena_bytes: int = self._native.arena_bytes

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        """Return output codes for real inputs ``[N, ...]`` by name.

        Raises:
            DataError: Inputs missing, of the wrong shape, or not finite.
        """
        feeds = self._feeds(inputs)
        n, codes = len(feeds[0]), self._outputs(inputs)
        try:
            self._native.run(feeds, codes)
        except ValueError as err:
            raise DataError(f"{self.path}: {err}. Clean the data first.") from err
        return {
            name: part.reshape(n, *shape).astype(np.int64)
            for (name, shape), part in zip(self.outputs.items(), codes, strict=True)
        }

    def time_us(self, inputs: Mapping[str, NDArray[Any]]) -> float:
        """Run once and return the mean time of a sample: whole runs, without what Python does around them.

        In one thread it is the time of the processor, which other work on the machine does not lengthen by waiting.

        Args:
            inputs: As of `run`; several samples, where one takes little.

        Raises:
            DataError: As of `run`.
        """
        feeds, codes = self._feeds(inputs), self._outputs(inputs)
        clock = time.thread_time_ns if self.threads == 1 else time.perf_counter_ns
        start = clock()
        try:
            self._native.run(feeds, codes)
        except ValueError as err:
            raise DataError(f"{self.path}: {err}. Clean the data first.") from err
        return (clock() - start) / (1000 * len(feeds[0]))

    def profile(
        self, inputs: Mapping[str, NDArray[Any]], repeats: int = 10, *, again: int = 0
    ) -> tuple[StepProfile, ...]:
        """Run and return what every step took: the least of all samples and repeats, since a busy machine only adds.

        Args:
            inputs: As of `run`.
            repeats: How often.
            again: How often every step is then run again at once, for `StepProfile.warm_us`.

        Raises:
            DataError: As of `run`.
        """
        feeds, codes, n = self._feeds(inputs), self._outputs(inputs), 1 + max(0, again)
        try:
            times = np.array([self._native.profile(feeds, codes, n) for _ in range(max(1, repeats))])
        except ValueError as err:
            raise DataError(f"{self.path}: {err}. Clean the data first.") from err
        us = times.reshape(-1, len(self._steps), n).min(axis=0) / 1000
        macs, peak = self._native.macs(), self._native.measure_peak() / 1e6
        found = []
        for (op, name), of_dot, all_us, n_macs in zip(self._steps, self._dots, us.tolist(), macs, strict=True):
            layer, algorithm = of_dot or (None, None)
            share = n_macs / (all_us[0] * peak) if n_macs and peak and all_us[0] else None
            warm_us = min(all_us[1:], default=None)
            found.append(StepProfile(op, name, all_us[0], n_macs, share, layer, algorithm, warm_us))
        return tuple(found)

    def tensors(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[tuple[str, str, NDArray[np.int32]], ...]:
        """Run and return what every step made, to find where two executors part.

        Args:
            inputs: As of `run`.

        Returns:
            Operator, node and codes ``[N, C * H * W]`` of every step in order; no codes where it fills margins only.

        Raises:
            DataError: As of `run`.
        """
        feeds, codes = self._feeds(inputs), self._outputs(inputs)
        try:
            dumps = self._native.dump(feeds, codes)
        except ValueError as err:
            raise DataError(f"{self.path}: {err}. Clean the data first.") from err
        steps = zip(self._steps, zip(*dumps, strict=True), strict=True)
        return tuple((op, name, np.array(samples, dtype=np.int32)) for (op, name), samples in steps)

    def _outputs(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.int32]]:
        n = len(next(iter(inputs.values())))
        return [np.empty((n, size), dtype=np.int32) for size in self._output_sizes]

    def _feeds(self, inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return inputs in order, flat; float32 stays, everything else becomes float64.

        Raises:
            DataError: Names, shapes or numbers of samples are wrong.
        """
        if set(inputs) != set(self.inputs):
            raise DataError(f"{self.path}: inputs must be named {sorted(self.inputs)}, got {sorted(inputs)}.")
        feeds = []
        for name, shape in self.inputs.items():
            array = np.asarray(inputs[name])
            if array.ndim == 0 or array.shape[1:] != shape or len(array) == 0:
                expected = ", ".join(str(size) for size in ("N", *shape))
                raise DataError(f"input {name!r}: got shape {list(array.shape)}, expected [{expected}] with N >= 1.")
            array = array if array.dtype == np.float32 else array.astype(np.float64)
            feeds.append(np.ascontiguousarray(array.reshape(len(array), -1)))
        if len({len(feed) for feed in feeds}) != 1:
            raise DataError(f"{self.path}: inputs have different numbers of samples.")
        return feeds
