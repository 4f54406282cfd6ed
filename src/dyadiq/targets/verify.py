"""Compares executors with the reference on whole data sets, integer for integer.

Used by the pipeline, the CLI and users. Each target writes the program, runs what it wrote, and every output code
is compared; there is no tolerance. A target that is not exact by nature (`Target.exact` is False) is counted and
reported, never hidden, and never raises. A target that promises equality but is not proven for the program at hand
(`Target.unproven`) is no pass, even where all compared integers are equal: other inputs might differ.

Targets that compute in float32 (`Target.on_grid`) start from on-grid inputs, ``(code - zero_point) * scale`` of the
reference's own input codes, since rounding raw data to float32 happens outside the program. Their input quantizer is
compared on the raw data under the name ``<target>:input``; there a value within float32 rounding of a step's edge may
fall on the other side, so that comparison is counted and reported only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError, VerificationError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.reference import named_inputs, run_reference
from dyadiq.targets import get_target
from dyadiq.targets.base import Codes, Target

__all__ = ["Difference", "VerifyResult", "verify"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One integer that differs.

    Attributes:
        sample: Index into the inputs.
        output: Name of the output tensor.
        index: Position inside the sample.
        got: What the executor said.
        expected: What the reference says.
    """

    sample: int
    output: str
    index: tuple[int, ...]
    got: int
    expected: int

    def __str__(self) -> str:
        """Say where, got and expected in one line."""
        return f"sample {self.sample}, output {self.output!r} at {self.index}: got {self.got}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What the comparison of one executor found.

    Attributes:
        executor: Target name, or ``<target>:input`` for an input quantizer on raw data.
        compared: Number of integers compared.
        samples: Number of samples.
        mismatches: Number of integers that differ.
        max_abs_diff: Largest difference; 0 when all are equal.
        first: The first difference, or None.
        exact: Whether the executor promises equality.
        proven: Whether that promise is proven for this program, whatever the inputs.
        note: What `check` had to say.
        missing: What this machine lacks to run it; then nothing was compared.
    """

    executor: str
    compared: int = 0
    samples: int = 0
    mismatches: int = 0
    max_abs_diff: int = 0
    first: Difference | None = None
    exact: bool = True
    proven: bool = True
    note: str = ""
    missing: str = ""

    @property
    def kind(self) -> str:
        """What is asked of the executor, in a few words for tables."""
        if self.missing:
            return f"not compared: {self.missing}"
        if not self.exact:
            return "not exact by nature; reported"
        return "must be equal" if self.proven else "must be equal; not proven for this program"

    @property
    def refusal(self) -> str:
        """Why the executor is refused and what to do, or an empty text."""
        if not self.exact or (self.proven and not self.mismatches):
            return ""
        advice = (
            "Set quant.product_bits = 24, use power-of-two scales or fewer bits, or do not compare with it."
            if not self.proven
            else "The program's meaning is the reference's: report this as a fault of the executor."
        )
        if self.mismatches:
            counts = f"{self.mismatches} of {self.compared} integers; first at {self.first}"
            return f"{self.executor} differs from the reference in {counts}. {advice}"
        return (
            f"{self.executor} is not proven for this program, though all {self.compared} integers compared are "
            f"equal: other inputs might differ. {advice}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "executor": self.executor,
            "compared": self.compared,
            "samples": self.samples,
            "mismatches": self.mismatches,
            "max_abs_diff": self.max_abs_diff,
            "first": None if self.first is None else str(self.first),
            "exact": self.exact,
            "proven": self.proven,
            "kind": self.kind,
            "refusal": self.refusal,
            "note": self.note,
            "missing": self.missing,
        }

    def including(self, got: Codes, expected: Codes, start: int) -> VerifyResult:
        """Return the result with one more chunk compared; ``start`` is the index of its first sample.

        Raises:
            VerificationError: An output is missing or has another shape.
        """
        result = replace(self, samples=self.samples + len(next(iter(expected.values()))))
        for name, want in expected.items():
            if name not in got or got[name].shape != want.shape:
                have = got[name].shape if name in got else f"outputs {sorted(got)}"
                raise VerificationError(
                    f"{self.executor}: output {name!r} must have shape {want.shape}, got {have}. This is a fault of "
                    "the target, not of the program."
                )
            differs = got[name] != want
            count = int(differs.sum())
            result = replace(result, compared=result.compared + want.size, mismatches=result.mismatches + count)
            if count:
                gap = int(np.abs(got[name] - want).max())
                at = tuple(int(i) for i in np.argwhere(differs)[0])
                here = Difference(start + at[0], name, at[1:], int(got[name][at]), int(want[at]))
                result = replace(result, max_abs_diff=max(result.max_abs_diff, gap), first=result.first or here)
        return result


def verify(
    program: IntegerProgram,
    inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
    against: str | Iterable[str | Target] = ("exact", "onnx"),
    *,
    raise_on_mismatch: bool = True,
    chunk: int = 1024,
    workdir: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> dict[str, VerifyResult]:
    """Run a program on every executor named and compare all output codes with the reference.

    Args:
        program: The program.
        inputs: Real inputs ``[N, ...]`` by name; a bare array if there is one input.
        against: Names in `TARGETS`, or one name; targets themselves where they shall have options.
        raise_on_mismatch: Raise if an executor cannot be proven exact for this program, and at the end if one
            differs anywhere. If False, both are for the caller to look at: `VerifyResult.refusal`.
        chunk: Samples compared at a time; bounds memory, changes no result.
        workdir: Where artifacts are written, one folder per target; a temporary folder if None.
        progress: Told of finished samples.

    Returns:
        Executor name to result, in the order asked for; ``<target>:input`` follows an on-grid target.

    Raises:
        VerificationError: An exact executor differs; names the first difference of each, and the counts.
        ExportError: A target cannot express the program, or not provably exactly.
        ConfigError: ``against`` is empty.
        UnknownNameError: No such target.
        DataError: Inputs missing, of the wrong shape, or not finite.
        MissingDependencyError: An optional package is absent.
    """
    names = [against] if isinstance(against, str) else list(dict.fromkeys(against))
    if not names:
        raise ConfigError("verify: nothing to compare: `against` is empty. Name at least one target, such as 'exact'.")
    targets = [get_target(name) if isinstance(name, str) else name for name in names]
    arrays = named_inputs(program.graph, inputs)
    n_samples = len(next(iter(arrays.values())))
    with tempfile.TemporaryDirectory() if workdir is None else nullcontext(workdir) as folder:
        results: dict[str, VerifyResult] = {}
        for target in targets:
            notes = target.check(program)
            unproven = target.unproven(program)
            if raise_on_mismatch:
                unproven.raise_if_any("Lower with product_bits=24, use fewer bits, or verify without raising.")
            target.write(program, Path(folder) / target.name)
            results[target.name] = VerifyResult(
                target.name, exact=target.exact, proven=target.exact and not unproven, note="; ".join(notes)
            )
        progress.start("verify", n_samples)
        for start in range(0, n_samples, chunk):
            raw = {name: array[start : start + chunk] for name, array in arrays.items()}
            _compare_chunk(program, targets, Path(folder), raw, start, results)
            progress.advance(len(next(iter(raw.values()))))
        progress.finish()
    if raise_on_mismatch:
        _raise_on_mismatch(results)
    return {key: results[key] for target in targets for key in (target.name, _input_key(target)) if key in results}


def _input_key(target: Target) -> str:
    return f"{target.name}:input"


def _quantizers(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "quantize"]


def _compare_chunk(
    program: IntegerProgram,
    targets: list[Target],
    folder: Path,
    raw: Mapping[str, NDArray[np.float64]],
    start: int,
    results: dict[str, VerifyResult],
) -> None:
    graph = program.graph
    taps = [node.output for node in _quantizers(graph)]
    values = run_reference(program, raw, taps=taps)
    expected = {name: values[name] for name in graph.outputs}
    codes = {node.inputs[0]: values[node.output] for node in _quantizers(graph)}
    for target in targets:
        path = folder / target.name
        fed = _on_grid(graph, codes) if target.on_grid else raw
        results[target.name] = results[target.name].including(target.emulate(path, fed), expected, start)
        if target.on_grid:
            key = _input_key(target)
            note = "input quantizer on raw data in float32; values at the edge of a step may differ"
            before = results.get(key, VerifyResult(key, exact=False, proven=False, note=note))
            results[key] = before.including(target.input_codes(path, raw), codes, start)


def _on_grid(graph: Graph, codes: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """Return ``(code - zero_point) * scale`` for every input, in float64."""
    real = {}
    for node in _quantizers(graph):
        scale, zero_point = float(graph.params[node.inputs[1]]), int(graph.params[node.inputs[2]])
        real[node.inputs[0]] = np.asarray((codes[node.inputs[0]] - zero_point) * scale, dtype=np.float64)
    return real


def _raise_on_mismatch(results: Mapping[str, VerifyResult]) -> None:
    wrong = [r for r in results.values() if r.exact and r.mismatches]
    if wrong:
        lines = "".join(
            f"\n  {r.executor}: {r.mismatches} of {r.compared} integers differ over {r.samples} samples, by at most "
            f"{r.max_abs_diff}; first at {r.first}"
            for r in wrong
        )
        raise VerificationError(
            f"executors disagree with the reference:{lines}\nThe program's meaning is the reference's; report this as "
            "a fault of the executor."
        )
