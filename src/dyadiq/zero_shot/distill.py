"""Inputs without data: noise, changed until every batch norm sees the statistics it remembers from training.

Used by `analyze` and `quantize` where no batches are given, by the pipeline, and as `dyadiq.distill`. Reads a captured
graph with its batch norms; knows nothing of quantization.

Minimized, over groups of inputs x at a time, by Adam with a cosine schedule:

    sum over batch norms of mean over channels of KL(N(m(x), v(x)) || N(m, v))  +  the same for the network's input

with m(x), v(x) the mean and variance over the whole group of what the batch norm reads, and m, v its running ones.
Statistics are those of the group, not of each image, so images may differ as those of the training set do.
Source: Cai et al. 2020, ZeroQ, section 3.1; there each image matches alone, by squared distance, from white noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.ir.graph import Graph
from dyadiq.zero_shot.distilled import BATCH_SIZE, Distilled
from dyadiq.zero_shot.moments import channel_moments, gaussian_divergence
from dyadiq.zero_shot.norms import Remembered, find_remembered, statistics_graph
from dyadiq.zero_shot.start import starting_inputs

__all__ = ["N_IMAGES", "distill"]

N_IMAGES = 128
_BETAS = (0.9, 0.99)
_MEMORY_BYTES = 2 << 30  # about what the tensors of one step may take
_POOR_MATCH = 0.25  # of the mismatch at the start, left at the end


def distill(
    graph: Graph,
    n_images: int = N_IMAGES,
    *,
    steps: int = 40,
    learning_rate: float = 0.2,
    batch_size: int | None = None,
    input_mean: float | Sequence[float] = 0.0,
    input_std: float | Sequence[float] = 1.0,
    input_range: tuple[float, float] | None = None,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> Distilled:
    """Return inputs that the network's batch norms take for its training data: batches for `analyze` and `quantize`.

    Args:
        graph: As `capture` returned it, with one input; canonical graphs have no batch norms left.
        n_images: How many inputs.
        steps: Of the optimiser, for every group.
        learning_rate: At the start, in deviations of the input.
        batch_size: Inputs that are matched together; None for 64, or fewer where a step would take over 2 GiB.
        input_mean: Mean of the network's inputs as they enter it, one number or one a channel.
        input_std: Their deviation, likewise.
        input_range: Least and largest possible value of an input, if known; inputs are kept inside.
        seed: Of the noise.
        progress: Told of each step.

    Returns:
        The images, with how well each batch norm is matched; the same for the same seed and threads.

    Raises:
        ConfigError: A count, rate, mean, deviation or range out of its set, or one of a wrong length.
        DataError: Several inputs; or no batch norm that remembers anything (then says what to do instead).

    Example:
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> inputs = ("x", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        >>> values = {"bn.weight": [1.0], "bn.bias": [0.0], "bn.running_mean": [3.0], "bn.running_var": [4.0]}
        >>> graph = Graph("float", ("x",), ("bn",), (Node("bn", "batch_norm", inputs, "bn", {"eps": 1e-5}),),
        ...               dict.fromkeys(("x", "bn"), TensorInfo((1,))), {k: np.array(v) for k, v in values.items()})
        >>> made = distill(graph, 32, seed=1)
        >>> made.images.shape, round(float(made.images.mean()), 2), round(float(made.images.std()), 2)
        ((32, 1), 3.0, 2.0)
    """
    _check_counts(n_images, steps, learning_rate, batch_size)
    if len(graph.inputs) != 1:
        raise DataError(
            f"data-free calibration needs a network with one input, got {list(graph.inputs)}: batch norms do not "
            "remember which values of several inputs belong together. Give a few real samples as batches."
        )
    remembered = find_remembered(graph)
    matching = _Matching(graph, remembered, _prior(graph, remembered, input_mean, input_std), input_range)
    size = batch_size or _fitting_batch(matching.graph)
    generator = torch.Generator().manual_seed(seed)
    n_groups = -(-n_images // size)
    sizes = [n_images // n_groups + (i < n_images % n_groups) for i in range(n_groups)]
    groups: list[Tensor] = []
    histories: list[list[float]] = []
    progress.start("distill inputs", n_groups * steps)
    try:
        for n in sizes:
            x, values = _distill_group(matching, n, steps, learning_rate, generator, progress)
            groups.append(x)
            histories.append(values)
    finally:
        progress.finish()
    mismatch = matching.mismatch_of(groups)
    history = tuple(float(value) for value in np.mean(histories, axis=0))
    total = float(np.mean(list(mismatch.values())))
    notes: tuple[str, ...] = ()
    if total > _POOR_MATCH * history[0]:
        notes = (
            f"batch norms are matched poorly: {total:.2g} nats per channel, {history[0]:.2g} at the start; check that "
            "inputs have the mean and deviation given (input_mean, input_std), or use more steps",
        )
    return Distilled(torch.cat(groups).contiguous().numpy(), mismatch, history, seed, notes)


class _Matching:
    """The quantity to minimize, and the bounds of the inputs."""

    def __init__(
        self,
        graph: Graph,
        remembered: Sequence[Remembered],
        prior: tuple[Tensor, Tensor],
        input_range: tuple[float, float] | None,
    ) -> None:
        self.remembered = tuple(remembered)
        self.graph = statistics_graph(graph, self.remembered)
        self.shape = graph.tensors[graph.inputs[0]].shape
        self.mean, self.std = prior
        self.bounds = None if input_range is None else _checked_range(input_range)
        self._knows_input = any(graph.inputs[0] in one.tensors for one in self.remembered)
        self._params = {
            name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in graph_params(self.graph).items()
        }
        self._known = [
            tuple(torch.tensor(values, dtype=torch.float32) for values in (one.mean, one.var + one.eps))
            for one in self.remembered
        ]

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the noise of one group."""
        x = self.clip(starting_inputs(self.shape, n, self.mean, self.std, generator))
        return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

    def clip(self, x: Tensor) -> Tensor:
        """Return the inputs inside their range."""
        return x if self.bounds is None else x.clamp(*self.bounds)

    def divergences(self, x: Tensor) -> list[Tensor]:
        """Return the divergence of every batch norm in order, mean over channels; differentiable in ``x``."""
        tensors = dict(zip(self.graph.outputs, run_graph(self.graph, x, self._params), strict=True))
        found = {name: channel_moments(value) for name, value in tensors.items()}
        return self._compare([[found[name] for name in one.tensors] for one in self.remembered])

    def of_input(self, x: Tensor) -> Tensor | None:
        """Return the divergence of the inputs from what is assumed of them; None where a batch norm knows better."""
        if self._knows_input:
            return None
        mean, var = channel_moments(x)
        return gaussian_divergence(mean, var + 1e-6, self.mean, self.std.square() + 1e-6).mean()

    def mismatch_of(self, groups: Sequence[Tensor]) -> dict[str, float]:
        """Return the divergence of every batch norm, from the statistics of all groups together."""
        with torch.no_grad():
            parts = [run_graph(self.graph, x, self._params) for x in groups]
        weights = torch.tensor([float(len(x)) for x in groups]) / sum(map(len, groups))
        found = {}
        for name, values in zip(self.graph.outputs, zip(*parts, strict=True), strict=True):
            means, variances = (torch.stack(part) for part in zip(*map(channel_moments, values), strict=True))
            mean = weights @ means
            found[name] = (mean, weights @ (variances + (means - mean).square()))
        divergences = self._compare([[found[name] for name in one.tensors] for one in self.remembered])
        return {one.name: float(value) for one, value in zip(self.remembered, divergences, strict=True)}

    def _compare(self, moments: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> list[Tensor]:
        """Compare the moments at the places of each batch norm; at several, running statistics are their averages."""
        result = []
        for places, known, one in zip(moments, self._known, self.remembered, strict=True):
            mean, var = (torch.stack(part).mean(0) for part in zip(*places, strict=True))
            result.append(gaussian_divergence(mean, var + one.eps, *known).mean())
        return result


def _distill_group(
    matching: _Matching, n: int, steps: int, learning_rate: float, generator: torch.Generator, progress: Progress
) -> tuple[Tensor, list[float]]:
    """Return the inputs of one group, and the mean divergence before each step.

    Raises:
        DataError: It is NaN or infinite.
    """
    x = matching.start(n, generator).requires_grad_()
    rate = learning_rate * float(matching.std.mean())
    optimizer = torch.optim.Adam([x], lr=rate, betas=_BETAS)
    history = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.enable_grad():
            terms = matching.divergences(x)
            mean = torch.stack(terms).mean()
            of_input = matching.of_input(x)
            loss = mean if of_input is None else mean + of_input / len(terms)
            (x.grad,) = torch.autograd.grad(loss, [x])
        history.append(float(mean.detach()))
        if not math.isfinite(history[-1]):
            raise DataError(
                f"distillation: after {step} steps the statistics of the network's batch norms are NaN or infinite. "
                "Check its parameters, input_mean and input_std, or give batches."
            )
        optimizer.step()
        with torch.no_grad():
            x.copy_(matching.clip(x))
        progress.advance(note=f"mismatch {history[-1]:.2g} nats")
    return x.detach(), history


def _prior(
    graph: Graph, remembered: Sequence[Remembered], mean: float | Sequence[float], std: float | Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the network's input: from the batch norm that reads it, or as given.

    Raises:
        ConfigError: They are not finite, not positive, or not one number a channel.
    """
    name = graph.inputs[0]
    for one in remembered:
        if one.tensors == (name,):
            return (
                torch.tensor(one.mean, dtype=torch.float32),
                torch.tensor(one.var, dtype=torch.float32).sqrt(),
            )
    channels = graph.tensors[name].shape[0]
    result = []
    for what, given in (("input_mean", mean), ("input_std", std)):
        value = torch.tensor(given, dtype=torch.float32)
        if value.ndim > 1 or value.numel() not in (1, channels):
            raise ConfigError(
                f"distill: {what} must be one number, or one for each of the {channels} channels of input {name!r}, "
                f"got {value.numel()}."
            )
        if not torch.isfinite(value).all() or (what == "input_std" and not (value > 0).all()):
            legal = "positive and finite" if what == "input_std" else "finite"
            raise ConfigError(f"distill: {what} must be {legal}, got {given}.")
        result.append(value.flatten().expand(channels))
    return result[0], result[1]


def _check_counts(n_images: int, steps: int, learning_rate: float, batch_size: int | None) -> None:
    """Check the numbers.

    Raises:
        ConfigError: One is out of its set.
    """
    for name, value, least in (("n_images", n_images, 2), ("steps", steps, 1), ("batch_size", batch_size, 2)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"distill: {name} must be an integer of at least {least}, got {value!r}.")
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"distill: learning_rate must be positive, got {learning_rate!r}.")


def _checked_range(input_range: tuple[float, float]) -> tuple[float, float]:
    """Return the range of inputs.

    Raises:
        ConfigError: Not two finite numbers, the smaller one first.
    """
    if len(input_range) != 2 or not (math.isfinite(input_range[0]) and math.isfinite(input_range[1])):
        raise ConfigError(f"distill: input_range must be two finite numbers, got {input_range!r}.")
    if not input_range[0] < input_range[1]:
        raise ConfigError(f"distill: input_range must be (least, largest), got {input_range!r}.")
    return float(input_range[0]), float(input_range[1])


def _fitting_batch(graph: Graph) -> int:
    """Return how many inputs are matched together: 64, or what fits the memory of one step, at least 4."""
    numbers = sum(math.prod(info.shape) for info in graph.tensors.values())
    return max(4, min(BATCH_SIZE, _MEMORY_BYTES // (8 * numbers)))  # values and gradients of 4 bytes
