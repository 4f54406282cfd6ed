"""One sensitivity measurement, checked and ready: what every method receives.

Made by `analyze`; read by the methods of this package. Holds data and checks, no mathematics.

Its samples were read and cut into chunks by `samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.affine import AffineParams
from dyadiq.core.errors import ConfigError, DataError, QuantError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.format import MAX_FORMAT_BITS
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.curvature.pieces import Piece, run_pieces
from dyadiq.ir.graph import Graph
from dyadiq.ir.sites import Sites

__all__ = ["DTYPES", "Loss", "Precision", "Problem", "check_parameters", "widths_to_measure"]

Loss = Literal["cross_entropy", "mse"]
Precision = Literal["float32", "float64"]

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Problem:
    """What to measure, and on what.

    Attributes:
        graph: Canonical float graph.
        facts: Its decisions.
        sites: Where its activations are quantized.
        batches: Chunks of samples in the chosen precision, one tensor ``[n, ...]`` for each input of the graph; none
            if there are no data.
        widths: Decision name to the widths to measure, ascending; decisions left out are absent.
        loss: ``cross_entropy`` or ``mse``.
        precision: Of forward and backward passes.
        seed: Of random probes, and of the values that ranges of activations are fitted to.
        n_probes: Random probes of the trace; None for the exact one.
        progress: Told of each step.
        candidates: Rounded weights by decision and bits, where others than nearest rounding will be used; biases that
            move with them, by parameter and the weight's bits.
        tolerance: Relative half width of the intervals that ``sampled_trace`` stops at.
        folder: Where pieces of the measurement are kept, so that an interrupted one goes on; None keeps none.
        ranges: Quantizers of activations by (decision, bits); None: fitted to the batches.
        labels: Labels of the chunks, ``[n, ...]`` each, for methods that need them; None if they were not asked for.
    """

    graph: Graph
    facts: NetworkFacts
    sites: Sites
    batches: tuple[tuple[Tensor, ...], ...]
    widths: Mapping[str, tuple[int, ...]]
    loss: Loss = "cross_entropy"
    precision: Precision = "float32"
    seed: int = 0
    n_probes: int | None = None
    progress: Progress = NO_PROGRESS
    labels: tuple[Tensor, ...] | None = None
    candidates: Mapping[tuple[str, int], NDArray[np.float64]] | None = None
    tolerance: float = 0.02
    folder: Path | None = None
    ranges: Mapping[tuple[str, int], AffineParams] | None = None

    def __post_init__(self) -> None:
        """Check what no method can work with.

        Raises:
            ConfigError: Unknown loss or precision, or a tolerance out of (0, 1).
        """
        for name, value, legal in (
            ("loss", self.loss, get_args(Loss)),
            ("precision", self.precision, get_args(Precision)),
        ):
            if value not in legal:
                raise ConfigError(f"analyze: {name} must be one of {', '.join(legal)}, got {value!r}.")
        if not 0.0 < self.tolerance < 1.0:
            raise ConfigError(f"analyze: tolerance must be in (0, 1), got {self.tolerance}.")

    @property
    def dtype(self) -> torch.dtype:
        """Torch type of forward and backward passes."""
        return DTYPES[self.precision]

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return sum(len(batch[0]) for batch in self.batches)

    @property
    def seed_used(self) -> int | None:
        """The seed, where it has a part in the result; else None."""
        return self.seed if self.activations or self.n_probes else None

    @property
    def weights(self) -> tuple[str, ...]:
        """Weights to measure, in order of execution."""
        return tuple(d.name for d in self.facts.decisions if d.kind == "weight" and d.name in self.widths)

    @property
    def activations(self) -> tuple[str, ...]:
        """Activations to measure, in order of execution."""
        return tuple(d.name for d in self.facts.decisions if d.kind == "activation" and d.name in self.widths)

    @property
    def index(self) -> tuple[tuple[str, int], ...]:
        """Every (decision, bits) to measure, in order of execution."""
        return tuple((name, bits) for name, widths in self.widths.items() for bits in widths)

    def chunks(self, label: str, make: Callable[[int], Piece]) -> dict[str, NDArray[np.float64]]:
        """Return the named arrays of all chunks of samples, joined along their last axis, in order."""
        made = run_pieces(label, len(self.batches), make, folder=self.folder, progress=self.progress)
        return {key: np.concatenate([piece[key] for piece in made], axis=-1) for key in made[0]}

    def each_decision(self, label: str, make: Callable[[int], Piece]) -> dict[str, Piece]:
        """Return the arrays of every decision to measure, by its name; ``make`` gets its number."""
        names = tuple(self.widths)
        made = run_pieces(label, len(names), make, folder=self.folder, progress=self.progress, notes=names)
        return dict(zip(names, made, strict=True))

    def require_one_output(self, method: str) -> None:
        """Check that there is one output for the loss to be computed from.

        Raises:
            ConfigError: A graph with several outputs.
        """
        if len(self.graph.outputs) != 1:
            raise ConfigError(
                f"analyze: method {method!r} needs a network with one output, got {list(self.graph.outputs)}. "
                "Wrap the model so that it returns the one the loss is computed from, or use method 'squared_error'."
            )

    def require_samples(self, method: str) -> None:
        """Check that there are data enough for a standard error.

        Raises:
            DataError: No data, or a single sample.
        """
        if not self.batches:
            raise DataError(f"method {method!r} needs calibration data, got batches=None. Give at least two samples.")
        if self.n_samples < 2:
            raise DataError(f"method {method!r} needs at least two samples for its standard errors, got 1.")


def widths_to_measure(
    facts: NetworkFacts, bits: Sequence[int], activation_bits: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Return the widths of each decision: the fixed one, or those asked for its kind; empty ones are left out.

    Raises:
        ConfigError: A width is no integer in 1 to 16, or nothing is left to measure.

    Example:
        >>> from dyadiq.core.facts import Decision
        >>> x, w = Decision("x", "activation", (4,), fixed_bits=8), Decision("w", "weight", (2, 4))
        >>> widths_to_measure(NetworkFacts((x, w), ()), (4, 2), (6,))
        {'x': (8,), 'w': (2, 4)}
    """
    for name, asked in (("bits", bits), ("activation_bits", activation_bits)):
        for width in asked:
            if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_FORMAT_BITS:
                raise ConfigError(f"analyze: {name} must be integers in [1, {MAX_FORMAT_BITS}], got {width!r}.")
    widths: dict[str, tuple[int, ...]] = {}
    for decision in facts.decisions:
        asked = bits if decision.kind == "weight" else activation_bits
        if asked:
            widths[decision.name] = tuple(sorted(set(asked))) if decision.fixed_bits is None else (decision.fixed_bits,)
    if not widths:
        raise ConfigError("analyze: nothing to measure; bits and activation_bits are empty. Give at least one width.")
    return widths


def check_parameters(graph: Graph) -> None:
    """Check that all parameters are finite.

    Raises:
        QuantError: NaN or infinity in a parameter, named.
    """
    for name, value in graph.params.items():
        n_bad = int(np.size(value) - np.isfinite(value).sum())
        if n_bad:
            raise QuantError(
                f"{name}: {n_bad} of {np.size(value)} values are NaN or infinite; sensitivities would mean nothing. "
                "Repair or retrain the model."
            )
