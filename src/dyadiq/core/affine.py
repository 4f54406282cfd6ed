"""Quantizer arithmetic in numpy float64: ranges to scales, values to codes and back. The oracle of all others.

Used by curvature, quant, lowering and tests; imports only core and numpy, knows no graph and no torch.

    codes  = clip(floor(x / step + 1/2) + zero_point, qmin, qmax)       (bipolar: +1 where x >= 0, else -1)
    values = (codes - zero_point) * step

``step`` is the scale of the tensor ``[1]``, of the channel ``[O]``, or two-level for groups:
``scale[o] * group_factor[o, g]`` with an integer factor in 1..255, which keeps per-group weights exact in
integers (factors are powers of two if scales are). A group is ``group_size`` consecutive weights of one
output channel in row-major order.

Rounding is half towards +infinity everywhere. Sources: docs/spec/integer-program.md "Types"; two-level scales:
VS-Quant (Dai et al. 2021), section 4.4; bipolar scale mean|x|: XNOR-Net (Rastegari et al. 2016), eq. (6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.clipping import least_squares_range, percentile_range, pow2_above, row_errors, scale_of_range
from dyadiq.core.errors import QuantError
from dyadiq.core.format import Format
from dyadiq.core.qtype import QType

__all__ = [
    "EMPTY_SCALE",
    "MAX_GROUP_FACTOR",
    "RELATIVE_SCALE_FLOOR",
    "AffineParams",
    "check_group_size",
    "dequantize",
    "fit_affine",
    "fit_range",
    "quantize",
]

Floats = NDArray[np.float64]

MAX_GROUP_FACTOR = 255
EMPTY_SCALE = 2.0**-10
"""Scale of a tensor without any non-zero value: fine enough for its biases, coarse enough for dyadic ratios."""
RELATIVE_SCALE_FLOOR = 2.0**-12
"""No channel's scale is smaller than this times the largest one: it would only lengthen biases and shifts."""
_TINY, _HUGE = 2.0**-100, 2.0**100


@dataclass(frozen=True, slots=True)
class AffineParams:
    """Scales and zero points of one tensor.

    Attributes:
        scale: float64, ``[1]`` (tensor) or ``[O]`` (channel; base scale of the groups of a channel).
        zero_point: int64, same shape; the code of 0.0.
        qtype: Code type.
        group_factor: int64 ``[O, G]`` in 1..255, or None.
        fmt: The wish it was made from.

    Raises:
        QuantError: Shapes that contradict each other, or a scale or factor that is not positive and finite.

    Example:
        >>> params = fit_range(-1.0, 1.0, Format(4, narrow=True, scale="pow2"), nonnegative=False)
        >>> params.scale, str(params.qtype)
        (array([0.25]), 'int4n')
    """

    scale: Floats
    zero_point: NDArray[np.int64]
    qtype: QType
    group_factor: NDArray[np.int64] | None
    fmt: Format

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            QuantError: Shapes that contradict each other, or illegal values.
        """
        if self.scale.ndim != 1 or self.scale.shape != self.zero_point.shape:
            raise QuantError(
                f"scale and zero_point must be vectors of one length, got {self.scale.shape} and "
                f"{self.zero_point.shape}."
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise QuantError(f"scales must be positive and finite, got {self.scale.min()} to {self.scale.max()}.")
        low, high = (0, 0) if self.qtype.bipolar else (self.qtype.qmin, self.qtype.qmax)
        if (self.zero_point < low).any() or (self.zero_point > high).any():
            raise QuantError(f"zero points of {self.qtype} must be in [{low}, {high}], got {self.zero_point}.")
        factor = self.group_factor
        if factor is not None and (
            factor.ndim != 2
            or factor.shape[0] != self.scale.shape[0]
            or factor.min() < 1
            or factor.max() > MAX_GROUP_FACTOR
        ):
            raise QuantError(
                f"group_factor must be [{self.scale.shape[0]}, G] in 1..{MAX_GROUP_FACTOR}, got shape {factor.shape}."
            )

    def steps(self, shape: tuple[int, ...]) -> Floats:
        """Return the step of every element, broadcastable against a tensor of this shape.

        Raises:
            QuantError: The tensor has another number of channels or groups.
        """
        return _per_element(self, self.scale, shape, with_groups=True)

    def zero_points(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return the zero points, broadcastable against a tensor of this shape.

        Raises:
            QuantError: The tensor has another number of channels.
        """
        return _per_element(self, self.zero_point, shape, with_groups=False).astype(np.int64)


def quantize(x: ArrayLike, params: AffineParams, *, name: str = "tensor") -> NDArray[np.int64]:
    """Map values to codes: ``clip(floor(x / step + 1/2) + zero_point, qmin, qmax)``, in float64.

    Raises:
        QuantError: A value is not finite, or the shape does not fit the parameters.

    Example:
        >>> params = fit_range(0.0, 15.0, Format(4), nonnegative=True)
        >>> quantize([0.4, 0.5, 99.0, -1.0], params)
        array([ 0,  1, 15,  0])
    """
    values = _finite(x, name)
    if params.qtype.bipolar:
        return np.where(values >= 0, 1, -1).astype(np.int64)
    codes = np.floor(values / params.steps(values.shape) + 0.5) + params.zero_points(values.shape)
    return np.clip(codes, params.qtype.qmin, params.qtype.qmax).astype(np.int64)


def dequantize(codes: NDArray[np.int64], params: AffineParams) -> Floats:
    """Map codes to values: ``(codes - zero_point) * step``.

    Raises:
        QuantError: The shape does not fit the parameters.

    Example:
        >>> dequantize(np.array([0, 15]), fit_range(0.0, 30.0, Format(4), nonnegative=True))
        array([ 0., 30.])
    """
    offset: NDArray[np.int64] = np.asarray(codes, dtype=np.int64) - params.zero_points(np.shape(codes))
    return np.asarray(offset * params.steps(np.shape(codes)), dtype=np.float64)


def fit_affine(
    values: ArrayLike, fmt: Format, *, nonnegative: bool | None = None, name: str = "tensor"
) -> AffineParams:
    """Choose scales and zero points for these values, by ``fmt.range_method``.

    ``minmax`` and ``moving_average`` (the same for a single tensor) clip nothing: every error is at most half a
    step. ``percentile`` keeps a fraction of each channel or group. ``mse`` searches the clipping range of least
    squared error. Bipolar scales are ``mean|x|`` whatever the method. No scale is below `RELATIVE_SCALE_FLOOR` times
    the largest. A channel of zeros takes the largest scale of the tensor (bipolar, which cannot say 0: that floor),
    a tensor of zeros `EMPTY_SCALE`.

    Args:
        values: Any shape; channels are axis 0.
        fmt: The wish.
        nonnegative: Whether unsigned codes suffice; None looks at the values.
        name: For messages.

    Raises:
        QuantError: No values, a value that is not finite, or a group size that does not divide a channel.

    Example:
        >>> weight = np.array([[0.7, -0.1], [0.0, 0.0]])
        >>> fmt = Format(4, signed=True, narrow=True, granularity="channel", range_method="minmax")
        >>> params = fit_affine(weight, fmt)
        >>> params.scale.round(3), quantize(weight, params)
        (array([0.1, 0.1]), array([[ 7, -1], [ 0,  0]]))
    """
    x = _finite(values, name)
    if x.size == 0:
        raise QuantError(f"{name}: cannot fit a range to an empty tensor of shape {x.shape}.")
    qtype = fmt.qtype(nonnegative=bool((x >= 0).all()) if nonnegative is None else nonnegative)
    channels = x.reshape(1, -1) if fmt.granularity == "tensor" or x.ndim == 0 else x.reshape(x.shape[0], -1)
    if fmt.granularity != "group":
        scale, zero_point = _fit_rows(channels, qtype, fmt, None)
        return AffineParams(_floored(scale, qtype), zero_point, qtype, None, fmt)
    return _fit_groups(channels, qtype, fmt, name)


def fit_range(low: ArrayLike, high: ArrayLike, fmt: Format, *, nonnegative: bool) -> AffineParams:
    """Choose scales and zero points for a clipping range, of a tensor (numbers) or per channel (vectors).

    The range is widened to include 0. Bipolar: half the larger end, which is mean|x| of uniform values.

    Raises:
        QuantError: A bound is not finite, ``low > high``, or the format is per group.

    Example:
        >>> params = fit_range(-1.0, 3.0, Format(2, scheme="asymmetric"), nonnegative=False)
        >>> params.scale.round(4), params.zero_point
        (array([1.3333]), array([1]))
    """
    lows, highs = (np.atleast_1d(_finite(v, "range")) for v in (low, high))
    if (lows > highs).any():
        raise QuantError(f"empty range: low {lows.max()} is above high {highs.min()}.")
    if fmt.granularity == "group":
        raise QuantError("a clipping range has no groups; got granularity 'group'. Use fit_affine on the values.")
    qtype = fmt.qtype(nonnegative=nonnegative)
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    if qtype.bipolar:
        scale = _bipolar_scale(np.maximum(-lows, highs) / 2, fmt)
        zero_point = np.zeros(scale.shape, dtype=np.int64)
    else:
        scale, zero_point = scale_of_range(lows, highs, qtype, fmt, None)
    return AffineParams(_floored(scale, qtype), zero_point, qtype, None, fmt)


def check_group_size(group_size: int, n_weights: int, *, name: str) -> None:
    """Refuse a group size that does not divide the weights of an output channel.

    Raises:
        QuantError: It does not; the legal sizes are listed.

    Example:
        >>> check_group_size(4, 6, name="fc.weight")
        Traceback (most recent call last):
        dyadiq.core.errors.QuantError: fc.weight: group_size must divide the 6 weights of an output channel, got 4.
        Legal sizes: 1, 2, 3, 6; or use granularity 'channel'.
    """
    if n_weights % group_size:
        legal = ", ".join(str(d) for d in range(1, n_weights + 1) if n_weights % d == 0)
        raise QuantError(
            f"{name}: group_size must divide the {n_weights} weights of an output channel, got {group_size}. "
            f"Legal sizes: {legal}; or use granularity 'channel'."
        )


def _finite(values: ArrayLike, name: str) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(x)))
    if bad:
        raise QuantError(
            f"{name}: {bad} of {x.size} values are NaN or infinite; only finite values can be quantized. "
            "Check the training run or the data that made them."
        )
    if x.size and max(x.max(), -x.min()) > _HUGE:
        raise QuantError(f"{name}: magnitude {max(x.max(), -x.min()):.3g} is above 2**100; rescale the tensor.")
    return x


def _per_element(
    params: AffineParams, vector: NDArray[np.float64] | NDArray[np.int64], shape: tuple[int, ...], *, with_groups: bool
) -> Floats:
    grouped = with_groups and params.group_factor is not None
    if vector.shape[0] == 1 and params.fmt.granularity == "tensor":
        return np.asarray(vector[0], dtype=np.float64)
    if not shape or shape[0] != vector.shape[0]:
        raise QuantError(f"parameters of {vector.shape[0]} channels do not fit a tensor of shape {shape}.")
    column = vector.reshape(-1, *([1] * (len(shape) - 1))).astype(np.float64)
    if not grouped or params.group_factor is None:
        return column
    n_groups, n_channel = params.group_factor.shape[1], math.prod(shape[1:])
    if n_channel % n_groups:
        raise QuantError(f"{n_groups} groups do not divide the {n_channel} weights of a channel of shape {shape}.")
    factor = np.repeat(params.group_factor, n_channel // n_groups, axis=1).reshape(shape)
    return np.asarray(column * factor, dtype=np.float64)


def _fit_rows(
    rows: Floats, qtype: QType, fmt: Format, zero_point: NDArray[np.int64] | None
) -> tuple[Floats, NDArray[np.int64]]:
    """Fit each row ``[R, n]`` on its own; scales are 0 for rows of zeros. A given zero point is kept."""
    if qtype.bipolar:
        return _bipolar_scale(np.abs(rows).mean(axis=1), fmt), np.zeros(rows.shape[0], dtype=np.int64)
    low, high = np.minimum(rows.min(axis=1), 0.0), np.maximum(rows.max(axis=1), 0.0)
    if fmt.range_method == "percentile":
        low, high = percentile_range(rows, low, high, qtype, fmt)
    if fmt.range_method == "mse":
        low, high = least_squares_range(rows, low, high, qtype, fmt, zero_point)
    return scale_of_range(low, high, qtype, fmt, zero_point)


def _fit_groups(channels: Floats, qtype: QType, fmt: Format, name: str) -> AffineParams:
    """Fit two-level scales: one base scale and zero point a channel, an integer factor a group.

    Raises:
        QuantError: The group size does not divide a channel.
    """
    size = fmt.group_size or 1
    n_channels, n_weights = channels.shape
    check_group_size(size, n_weights, name=name)
    _, zero_point = _fit_rows(channels, qtype, fmt, None)
    n_groups = n_weights // size
    groups, group_zero_point = channels.reshape(-1, size), np.repeat(zero_point, n_groups)
    per_group, _ = _fit_rows(groups, qtype, fmt, group_zero_point)
    wanted = per_group.reshape(n_channels, n_groups)
    largest = wanted.max(axis=1)
    top = _floored(largest, qtype)
    wanted = np.where(largest[:, None] < _TINY, top[:, None], wanted)
    if fmt.scale == "pow2":
        base = np.maximum(np.where(wanted > 0, wanted, np.inf).min(axis=1), top / 128)
        factor = np.maximum(wanted / base[:, None], 1.0)
    else:
        base = top / MAX_GROUP_FACTOR
        ratio = wanted / base[:, None]
        below, above = np.clip(np.floor(ratio), 1, MAX_GROUP_FACTOR), np.clip(np.ceil(ratio), 1, MAX_GROUP_FACTOR)
        if qtype.bipolar:
            factor = np.where(ratio - below < above - ratio, below, above)
        elif fmt.range_method == "mse":
            steps = [(base[:, None] * factor).reshape(-1) for factor in (below, above)]
            errors = [row_errors(groups, step, group_zero_point, qtype) for step in steps]
            factor = np.where((errors[0] < errors[1]).reshape(ratio.shape), below, above)
        else:
            factor = above  # Rounding up clips nothing more.
    factors = factor.astype(np.int64)
    shared = np.gcd.reduce(factors, axis=1)
    return AffineParams(base * shared, zero_point, qtype, factors // shared[:, None], fmt)


def _bipolar_scale(mean: Floats, fmt: Format) -> Floats:
    """Return the mean, or the power of two nearest to it (least squares: the error is quadratic around it)."""
    if fmt.scale == "float":
        return mean
    above = pow2_above(mean)
    return np.where(mean < 0.75 * above, above / 2, above)


def _floored(scale: Floats, qtype: QType) -> Floats:
    """Return scales with zeros replaced and a relative floor; see `fit_affine`."""
    largest = float(scale.max())
    if largest < _TINY:
        return np.full(scale.shape, EMPTY_SCALE)
    floor = largest * RELATIVE_SCALE_FLOOR
    return np.where(scale < _TINY, floor if qtype.bipolar else largest, np.maximum(scale, floor))
