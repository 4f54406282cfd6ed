"""Ranges of activations by what they do to the outputs, not to the tensor: a few candidates each, measured.

Used by the pipeline after calibration (``[calibrate] refine = true``). Squared error of a tensor is a poor guide where
tails matter little or a narrow peak matters much: on the jet features, half the range that it asks for loses less.

Coordinate descent: for every activation decision in turn, the scale times each factor; kept is the one with the least
divergence of the outputs from those of the float network, KL(softmax float || softmax quantized) for logits, squared
error otherwise. Source of the measured divergence: Cai et al. 2020, ZeroQ, eq. (6).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.ranges import HEADROOM_BITS
from dyadiq.ir.execute import Batch, NamedInputs, iterate_batches
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.quant.module import QuantModule

__all__ = ["refine_ranges_"]

_FACTORS = (0.25, 0.5, 1.0, 2.0)  # powers of two, so that power-of-two scales stay such
_SWEEPS = 2


@torch.no_grad()
def refine_ranges_(
    module: QuantModule,
    batches: Iterable[Batch],
    *,
    factors: Sequence[float] = _FACTORS,
    sweeps: int = _SWEEPS,
    progress: Progress = NO_PROGRESS,
) -> dict[str, float]:
    """Choose scales of activations in place; return the factor of every decision.

    Args:
        module: Calibrated; its mode is left as it was.
        batches: What divergence is measured on.
        factors: Candidates; 1 is added if it is missing.
        sweeps: Most rounds over all decisions; fewer if one changes nothing.
        progress: One step a measurement.

    Raises:
        ConfigError: A factor is not positive, or no power of two where a scale is one.
        DataError: No batch, or one is unusable.
    """
    pow2 = any(quantizer.fmt.scale == "pow2" for quantizer in _quantizers(module).values())
    if not all(0 < factor < math.inf and (not pow2 or math.frexp(factor)[0] == 0.5) for factor in factors):
        kind = "powers of two, as the scales are" if pow2 else "positive"
        raise ConfigError(f"refine: factors must be {kind}; got {list(factors)}.")
    inputs = [_arguments(module, batch) for batch in iterate_batches(batches)]
    mode, training = module.mode, module.training
    module.eval()
    try:
        wanted = [_outputs(module.set_mode_("float"), x) for x in inputs]
        module.set_mode_("fake")
        return _descend(module, inputs, wanted, sorted({*factors, 1.0}), sweeps, progress)
    finally:
        module.set_mode_(mode).train(training)


def _descend(
    module: QuantModule,
    inputs: list[tuple[Tensor, ...]],
    wanted: list[list[Tensor]],
    factors: list[float],
    sweeps: int,
    progress: Progress,
) -> dict[str, float]:
    quantizers = _quantizers(module)
    chosen = dict.fromkeys(quantizers, 1.0)
    progress.start("refine ranges", sweeps * len(quantizers) * len(factors))
    try:
        for _ in range(sweeps):
            before = dict(chosen)
            for name, quantizer in quantizers.items():
                start, best = quantizer.scale.clone(), (float("inf"), 1.0)
                least = 1.0 if name in module.sites.outputs and quantizer.fmt.bits >= HEADROOM_BITS else 0.0
                for factor in sorted(factors, key=lambda f: (f != 1.0, f)):  # ties keep the scale
                    if factor * chosen[name] < least:
                        continue
                    quantizer.scale.copy_(start * factor)
                    best = min(best, (_divergence(module, inputs, wanted), factor), key=lambda pair: pair[0])
                    progress.advance(1, name)
                quantizer.scale.copy_(start * best[1])
                chosen[name] *= best[1]
            if chosen == before:
                break
    finally:
        progress.finish()
    return chosen


def _quantizers(module: QuantModule) -> dict[str, ActivationQuantizer]:
    return {n: q for n, q in module.quantizers_by_name().items() if isinstance(q, ActivationQuantizer)}


def _divergence(module: QuantModule, inputs: list[tuple[Tensor, ...]], wanted: list[list[Tensor]]) -> float:
    total = 0.0
    for x, targets in zip(inputs, wanted, strict=True):
        for got, target in zip(_outputs(module, x), targets, strict=True):
            if got.ndim == 2 and got.shape[1] > 1:
                total += float(F.kl_div(got.log_softmax(1), target.log_softmax(1), reduction="sum", log_target=True))
            else:
                total += float((got - target).double().square().sum())
    return total


def _arguments(module: QuantModule, batch: Tensor | NamedInputs) -> tuple[Tensor, ...]:
    return (batch,) if isinstance(batch, Tensor) else tuple(batch[name] for name in module.graph.inputs)


def _outputs(module: QuantModule, arguments: tuple[Tensor, ...]) -> list[Tensor]:
    result = module(*arguments)
    return [result] if isinstance(result, Tensor) else list(result)
