"""One layer rounded: steps and codes together, by the error of its outputs.

Used by `quant.gptq` and by sensitivity methods. For every candidate step of a channel, GPTQ rounds the whole row; the
step whose *rounded* row errs least is kept (not the step of least nearest-rounding error: at 3 bits and fewer they
differ). Then codes and steps improve in turn (`rounding.descent`), which never makes a row worse.

Sources: see the files of this package. Searching the step through GPTQ's own error: the reason is in
docs/howto/post-training.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.affine import RELATIVE_SCALE_FLOOR, AffineParams
from dyadiq.core.errors import ConfigError, DataError, QuantError
from dyadiq.rounding.descent import descend, fitted_factor
from dyadiq.rounding.gptq import gptq_codes, row_errors
from dyadiq.rounding.grid import Grid
from dyadiq.rounding.moments import Moments, damped

__all__ = ["RoundedWeight", "RoundingConfig", "round_weight"]

Floats = NDArray[np.float64]

_COARSE = tuple(2.0 ** (k / 8) for k in range(-8, 5))
_FINE = tuple(2.0 ** (k / 40) for k in range(-4, 5) if k)
_POW2 = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class RoundingConfig:
    """How a layer is rounded.

    Attributes:
        damping: Share of the mean second moment added to the diagonal; more trusts the data less.
        search_steps: Whether steps are searched; False keeps those given.
        sweeps: Rounds of coordinate descent after GPTQ, each with a fit of the steps; 0 leaves GPTQ's codes.
        asymmetric: Whether to imitate the float layer on float inputs (`Moments.target`), not on quantized ones.

    Raises:
        ConfigError: A value out of range.
    """

    damping: float = 0.01
    search_steps: bool = True
    sweeps: int = 4
    asymmetric: bool = True

    def __post_init__(self) -> None:
        """Check values.

        Raises:
            ConfigError: A value out of range.
        """
        if not 0 < self.damping <= 1:
            raise ConfigError(f"rounding: damping must be in (0, 1], got {self.damping}.")
        if self.sweeps < 0:
            raise ConfigError(f"rounding: sweeps must not be negative, got {self.sweeps}.")


@dataclass(frozen=True, slots=True)
class RoundedWeight:
    """Codes and scales of one weight.

    Attributes:
        codes: int64, of the weight's shape, within the range of the type.
        params: Scales (float32 values) and zero points; `core.affine.dequantize` gives the values.
        bias_shift: What the bias must gain ``[O]``; zeros if it cannot move.
        error: ``E |W* x - V x|^2`` summed over channels: what rounding added to the outputs, second moments.
        nearest_error: The same for nearest rounding of W with the parameters given.
    """

    codes: NDArray[np.int64]
    params: AffineParams
    bias_shift: Floats
    error: float
    nearest_error: float


def round_weight(
    weight: ArrayLike,
    params: AffineParams,
    moments: Moments,
    *,
    with_bias: bool = False,
    config: RoundingConfig | None = None,
    name: str = "weight",
) -> RoundedWeight:
    """Return the codes, scales and bias shift of a layer that imitate it best on its inputs.

    Args:
        weight: ``[O, ...]``: linear ``[O, I]``, convolution ``[O, I / groups, KH, KW]``.
        params: Where the search of steps starts, from `core.affine.fit_affine`; zero points and group factors stay.
        moments: Of the layer's inputs, ``K`` elements a row in the order of ``weight[0].reshape(-1)``.
        with_bias: Whether the layer has a bias that may move.
        config: How to round.
        name: For messages.

    Raises:
        DataError: Moments of another shape than the weight's rows.
        QuantError: The weight is not finite, or the parameters do not fit it.

    Example:
        >>> from dyadiq.core.affine import fit_affine
        >>> from dyadiq.core.format import Format
        >>> rng = np.random.default_rng(0)
        >>> weight, x = rng.normal(size=(4, 8)), rng.normal(size=(64, 8)) @ rng.normal(size=(8, 8))
        >>> params = fit_affine(weight, Format(3, signed=True, narrow=True, granularity="channel"))
        >>> rounded = round_weight(weight, params, Moments.of_rows(x))
        >>> rounded.error < 0.8 * rounded.nearest_error
        True
    """
    config = config or RoundingConfig()
    values = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(values).all():
        raise QuantError(f"{name}: NaN or infinity among the values; only finite ones can be rounded.")
    n_groups, n_columns = moments.mean.shape
    if values.ndim < 2 or values[0].size != n_columns or values.shape[0] % n_groups:
        raise DataError(
            f"{name}: moments of {n_groups} groups of {n_columns} inputs do not fit a weight of shape "
            f"{list(values.shape)}."
        )
    rows = values.reshape(n_groups, values.shape[0] // n_groups, n_columns)
    grid = Grid.of(params, values.shape[0], n_columns, n_groups)
    second, _ = moments.central(with_bias=with_bias)
    hessian = damped(second, config.damping)
    target = moments.target(rows, with_bias=with_bias, damping=config.damping) if config.asymmetric else rows
    nearest = grid.codes(rows) * grid.step
    factor = np.ones((*rows.shape[:2], 1))
    if config.search_steps:
        factor = _searched(target, hessian, grid, params)
    codes = gptq_codes(target, hessian, grid.times(factor))
    refit = config.search_steps and params.fmt.scale == "float"
    for _ in range(config.sweeps):
        before = codes
        codes = descend(codes, target, hessian, grid.times(factor), sweeps=1)
        if refit:
            factor = factor * _fitted(codes, target, hessian, grid.times(factor), params)
        elif (codes == before).all():
            break
    per_row = factor.reshape(-1) if params.scale.size > 1 else factor.reshape(-1)[:1]
    scale = (params.scale * per_row).astype(np.float32)  # as quantizers keep it
    floor = float(scale.max()) * RELATIVE_SCALE_FLOOR
    found = replace(params, scale=np.maximum(scale.astype(np.float64), floor))
    final = Grid.of(found, values.shape[0], n_columns, n_groups)
    if config.sweeps:  # the step was rounded to float32, and moved after the last sweep
        codes = descend(codes, target, hessian, final, sweeps=1)
    rounded = codes * final.step
    shift = moments.bias_shift(rows, rounded) if with_bias else np.zeros(rows.shape[:2])
    integers = codes.reshape(values.shape).astype(np.int64) + params.zero_points(values.shape)
    return RoundedWeight(
        codes=integers,
        params=found,
        bias_shift=shift.reshape(-1),
        error=float(row_errors(rounded - target, second).sum()),
        nearest_error=float(row_errors(nearest - target, second).sum()),
    )


def _searched(target: Floats, hessian: Floats, grid: Grid, params: AffineParams) -> Floats:
    """Return the factor of every row ``[G, R, 1]`` whose GPTQ codes err least."""
    if params.fmt.scale == "pow2":
        return _best(_POW2, np.ones((*target.shape[:2], 1)), target, hessian, grid, params)
    coarse = _best(_COARSE, np.ones((*target.shape[:2], 1)), target, hessian, grid, params)
    return _best((1.0, *_FINE), coarse, target, hessian, grid, params)


def _best(
    ratios: tuple[float, ...], start: Floats, target: Floats, hessian: Floats, grid: Grid, params: AffineParams
) -> Floats:
    factors = np.stack([start * ratio for ratio in ratios])
    n_rows = target.shape[1]
    per_pass = max(1, 4096 // max(1, n_rows))  # candidates at once, for memory
    errors = []
    for first in range(0, len(ratios), per_pass):
        part = factors[first : first + per_pass]
        stacked, wanted = grid.stacked(part), np.tile(target, (1, len(part), 1))
        found = gptq_codes(wanted, hessian, stacked) * stacked.step
        errors.append(row_errors(found - wanted, hessian).reshape(target.shape[0], len(part), n_rows))
    table = np.concatenate(errors, axis=1)  # [G, C, R]
    if params.scale.size == 1:
        table = np.broadcast_to(table.sum(axis=(0, 2), keepdims=True), table.shape)
    chosen = table.argmin(axis=1)  # the first of equals
    return np.asarray(np.take_along_axis(np.moveaxis(factors[..., 0], 0, 1), chosen[:, None, :], axis=1)[:, 0, :, None])


def _fitted(codes: Floats, target: Floats, hessian: Floats, grid: Grid, params: AffineParams) -> Floats:
    """Return the fitted factors ``[G, R, 1]``; one for all rows where they share a scale."""
    if params.scale.size > 1:
        return fitted_factor(codes, target, hessian, grid)[:, :, None]
    values = codes * grid.step
    through = values @ hessian
    above, below = float((through * target).sum()), float((through * values).sum())
    return np.full((*codes.shape[:2], 1), above / below if above > 0 and below > 0 else 1.0)
