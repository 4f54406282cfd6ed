"""Quantizers of weights and activations as modules: they hold scales, and round by `quant.rounding_gradient`.

Used by `quant.module`; knows no graph. The integers come from `core.affine` only. What differs between training
estimators is in `quant.estimators`; these classes are those of the default.

Learnable scales are ``scale * 2^log2_gain``: the buffer is the calibrated scale, the parameter starts at 0. So a
scale stays positive under any optimiser, weight decay pulls towards the calibrated value, and steps are relative
(a raw scale of 0.004 would be destroyed by one Adam step of 0.01). Power-of-two scales round the gain.

The gradient of a step is LSQ's, times ``1/sqrt(n qmax)``. Sources: Esser et al. 2020, LSQ, section 2.2; Jain et al.
2020, TQT (scales in the log domain, power-of-two scales).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dyadiq.core.affine import AffineParams, quantize
from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.errors import QuantError
from dyadiq.core.signed_digits import MAX_DIGITS, digit_grids, nearest_codes
from dyadiq.quant.rounding_gradient import fake_quantize, quantize_between, round_to_grid

__all__ = ["ActivationQuantizer", "Quantizer", "WeightQuantizer"]


class Quantizer(nn.Module):
    """Holds the scale and zero point of one tensor.

    Attributes:
        scale: Buffer ``[1]`` or ``[O]``, the calibrated scale.
        log2_gain: Parameter of the same shape, or None where the scale is not learned.
        zero_point: Buffer, int64, same shape.
        group_factor: Buffer, int64 ``[O, G]``, or None.
        enabled: False passes values through.

    Args:
        params: From `core.affine` or `core.ranges`.
        learn_scale: Whether the scale is a parameter.
    """

    scale: Tensor
    zero_point: Tensor
    group_factor: Tensor | None

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Take over calibrated parameters; scales are kept in float32."""
        super().__init__()
        self.fmt, self.qtype, self.enabled = params.fmt, params.qtype, True
        self.register_buffer("scale", torch.tensor(params.scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(params.zero_point))
        factor = params.group_factor
        self.register_buffer("group_factor", None if factor is None else torch.tensor(factor))
        self.log2_gain = nn.Parameter(torch.zeros_like(self.scale)) if learn_scale else None

    def current_scale(self) -> Tensor:
        """Return the scale now, ``[1]`` or ``[O]``, differentiable in the gain."""
        if self.log2_gain is None:
            return self.scale
        gain: Tensor = self.log2_gain
        if self.fmt.scale == "pow2":
            gain = round_to_grid(gain, torch.ones_like(gain))
        return self.scale * torch.exp2(gain)

    def current_zero_point(self) -> Tensor:
        """Return the code of 0.0 now, int64, same shape as the scale."""
        return self.zero_point

    def affine_params(self) -> AffineParams:
        """Return the scale and zero point now, as float64 of what the forward pass uses."""
        scale = self.current_scale().detach().double().cpu().numpy()
        factor = None if self.group_factor is None else self.group_factor.cpu().numpy()
        return AffineParams(scale, self.current_zero_point().cpu().numpy(), self.qtype, factor, self.fmt)

    def codes(self, values: NDArray[np.float64], *, name: str) -> NDArray[np.int64]:
        """Return integer codes, by `core.affine`.

        Raises:
            QuantError: A value is NaN or infinite.
        """
        return quantize(values, self.affine_params(), name=name)

    def extra_repr(self) -> str:
        """Say the code type and whether the scale is learned."""
        return f"{self.qtype}, learn_scale={self.log2_gain is not None}"

    def _gradient_scale(self, n_values: int) -> float:
        """Return LSQ's ``1/sqrt(n qmax)`` for ``n`` values that share a scale."""
        return 1.0 / math.sqrt(max(1, n_values) * self.qtype.qmax) if self.qtype.qmax else 1.0


class WeightQuantizer(Quantizer):
    """Quantizes a weight ``[O, ...]`` per tensor, channel or group.

    Attributes:
        max_digits: Buffer, int8, of the weight's shape: most signed digits of every code (0: pruned); None: no limits.
    """

    max_digits: Tensor | None

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Take over calibrated parameters; no code is limited."""
        super().__init__(params, learn_scale=learn_scale)
        self.register_buffer("max_digits", None)

    def limit_digits_(self, limits: Tensor | None) -> WeightQuantizer:
        """Allow every code so many signed digits from now on (`core.signed_digits`); None: any.

        A limited weight is straight-through everywhere and its scale is not learned: otherwise pruned weights, which
        are far from their code, would decide the scale.

        Raises:
            QuantError: 0 is not the code of 0.0, there are groups, or a limit is negative.
        """
        if limits is not None:
            self.check_digits()
            if bool((limits < 0).any()):
                raise QuantError(f"limits of signed digits must be 0 (pruned) or more, got {int(limits.min())}.")
            limits = limits.detach().clamp(max=MAX_DIGITS).to(device=self.scale.device, dtype=torch.int8)
        self.max_digits = limits
        return self

    def check_digits(self) -> None:
        """Check that signed digits can be limited in this format.

        Raises:
            QuantError: 0 is not the code of 0.0, or there are groups.
        """
        if self.qtype.bipolar or self.group_factor is not None or bool((self.zero_point != 0).any()):
            groups = ", in groups" if self.group_factor is not None else ""
            raise QuantError(
                f"signed digits can be limited for symmetric codes without groups, got {self.qtype} "
                f"with zero points {sorted(set(self.zero_point.tolist()))}{groups}. Use scheme 'symmetric', bits >= 2 "
                "and granularity 'tensor' or 'channel'."
            )

    def forward(self, weight: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the fake-quantized weight.

        Args:
            weight: ``[O, ...]``.
            scale: In place of `current_scale`.
        """
        if not self.enabled:
            return weight
        scale = self.current_scale() if scale is None else scale
        step, zero_point = self._step(weight, scale), self._per_channel(self.zero_point, weight)
        if self.max_digits is not None:
            codes = self._limited(weight.detach().double() / step.detach())
            # The sum is on the grid to the last bit: its second term is 0, with a gradient of 1.
            return (codes * step.detach()).to(weight.dtype) + (weight - weight.detach())
        # In float64, so that codes are those of `core.affine` on ties too.
        share = self._gradient_scale(weight.numel() // scale.numel())
        return fake_quantize(weight.double(), step, zero_point, self.qtype, gradient_scale=share).to(weight.dtype)

    def effective_codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return ``(codes - zero_point) * group_factor`` under a scale, as float64."""
        step, zero_point = self._step(weight, scale), self._per_channel(self.zero_point, weight)
        unit_step = self._step(weight, torch.ones_like(scale))
        if self.qtype.bipolar:
            return torch.where(weight >= 0, unit_step, -unit_step)
        if self.max_digits is not None:
            return self._limited(weight.double() / step)
        codes = torch.floor(weight.double() / step + 0.5)
        return codes.clamp(self.qtype.qmin - zero_point, self.qtype.qmax - zero_point) * unit_step

    def codes(
        self, values: NDArray[np.float64], *, name: str, scale: NDArray[np.float64] | None = None
    ) -> NDArray[np.int64]:
        """Return integer codes within their limits.

        Args:
            values: Weight ``[O, ...]``.
            name: For messages.
            scale: In place of `current_scale`.

        Raises:
            QuantError: A value is NaN or infinite, or limits have another shape than the weight.
        """
        params = self.affine_params() if scale is None else replace(self.affine_params(), scale=scale)
        codes = quantize(values, params, name=name)
        if self.max_digits is None:
            return codes
        self._check_shape(values.shape)
        ratios = values / params.scale.reshape(-1, *([1] * (values.ndim - 1)))
        return nearest_codes(ratios, self.max_digits.cpu().numpy(), self.qtype.qmin, self.qtype.qmax)

    def _limited(self, ratios: Tensor) -> Tensor:
        """Return `nearest_codes` of float64 ratios, as float64.

        Raises:
            QuantError: The limits have another shape than the weight.
        """
        assert self.max_digits is not None  # our own bug otherwise
        self._check_shape(ratios.shape)
        grids = digit_grids(self.qtype.qmin, self.qtype.qmax)
        limits = self.max_digits.clamp(max=len(grids) - 1)
        codes = torch.zeros_like(ratios)
        for n, grid in enumerate(grids[1:], 1):
            limited = limits == n
            own = ratios[limited]  # most weights of a sparse network have no digit at all
            if len(own):
                points = torch.as_tensor(grid, device=ratios.device)
                codes[limited] = points[torch.bucketize(own, (points[1:] + points[:-1]) / 2, right=True)]
        return codes

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Take limits as the state has them, also None; a state without this quantizer leaves them.

        Raises:
            QuantError: The state has limits that this format cannot have.
        """
        limits = state.get(f"{prefix}max_digits")
        if f"{prefix}scale" in state or limits is not None:
            self.max_digits = None if limits is None else torch.empty_like(limits, device=self.scale.device)
        super()._load_from_state_dict(state, prefix, *rest)
        self.limit_digits_(self.max_digits)

    def _check_shape(self, shape: Sequence[int]) -> None:
        assert self.max_digits is not None  # our own bug otherwise
        if self.max_digits.shape != tuple(shape):
            raise QuantError(
                f"limits of signed digits: got shape {list(self.max_digits.shape)}, expected that of the weight, "
                f"{list(shape)}."
            )

    def _per_channel(self, vector: Tensor, weight: Tensor) -> Tensor:
        return vector.reshape(-1, *([1] * (weight.ndim - 1)))

    def _step(self, weight: Tensor, scale: Tensor) -> Tensor:
        step = self._per_channel(scale.double(), weight)
        if self.group_factor is None:
            return step
        n_channel = weight[0].numel()
        factor = self.group_factor.repeat_interleave(n_channel // self.group_factor.shape[1], dim=1)
        return step * factor.reshape(weight.shape)


class ActivationQuantizer(Quantizer):
    """Quantizes an activation ``[N, ...]`` per tensor; a network input also with a grid per channel.

    Attributes:
        grid: Buffer, int64 ``[3, C]``: shifts, low and high ends (`core.channel_grid`), or None.
    """

    grid: Tensor | None

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Take over calibrated parameters; channels have no grids of their own."""
        super().__init__(params, learn_scale=learn_scale)
        self.register_buffer("grid", None)

    def set_grid_(self, grid: ChannelGrid | None) -> ActivationQuantizer:
        """Give every channel a grid of its own, within the type; None: the type's, for all.

        Raises:
            QuantError: The zero point is not 0, or the grid leaves the type.
        """
        if grid is None:
            self.grid = None
            return self
        self.check_grid()
        grid.check_within(self.qtype, len(grid.shift))
        self.grid = torch.tensor(np.stack([grid.shift, grid.low, grid.high]), device=self.scale.device)
        return self

    def check_grid(self) -> None:
        """Check that channels can have grids of their own in this format.

        Raises:
            QuantError: Codes are bipolar, or the zero point is not 0.
        """
        if self.qtype.bipolar or bool((self.zero_point != 0).any()):
            raise QuantError(
                f"channels can have grids of their own where 0 is the code of 0.0, got {self.qtype} with zero point "
                f"{self.zero_point.tolist()}. Use scheme 'symmetric' and bits >= 2."
            )

    def channel_grid(self) -> ChannelGrid | None:
        """Return the grid of every channel, or None."""
        return None if self.grid is None else ChannelGrid(*self.grid.cpu().numpy())

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Take grids as the state has them, also None; a state without this quantizer leaves them.

        Raises:
            QuantError: The state has grids that this format cannot have.
        """
        grid = state.get(f"{prefix}grid")
        if f"{prefix}scale" in state or grid is not None:
            self.grid = None if grid is None else torch.empty_like(grid, device=self.scale.device)
        super()._load_from_state_dict(state, prefix, *rest)
        self.set_grid_(self.channel_grid())

    def forward(self, x: Tensor) -> Tensor:
        """Return the fake-quantized activation."""
        if not self.enabled:
            return x
        step, scale = self._step(x), self._gradient_scale(x[0].numel())
        if self.grid is not None:
            shift, low, high = self.grid.reshape(3, 1, -1, *([1] * (x.ndim - 2))).to(step.dtype)
            return quantize_between(x, step * torch.exp2(shift), low, high, scale)
        return fake_quantize(x, step, self.zero_point.reshape(()), self.qtype, gradient_scale=scale)

    def round(self, x: Tensor) -> Tensor:
        """Return ``x`` on this quantizer's grid but not clipped: a branch of a join, before the sum."""
        if not self.enabled:
            return x
        step, scale = self._step(x), self._gradient_scale(x[0].numel())
        return round_to_grid(x, step, gradient_scale=scale)

    def _step(self, x: Tensor) -> Tensor:
        """Return the scale, without axes, in the precision that codes of ``x`` are computed in."""
        return self.current_scale().to(torch.promote_types(x.dtype, torch.float32)).reshape(())
