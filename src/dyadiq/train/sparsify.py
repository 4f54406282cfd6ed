"""Weights of few signed digits, gradually, while training: pruning and per-weight precision in one.

Used by `finetune`. A constant multiplication takes as many adders as its weight has nonzero digits (less one for the
sum); 0 digits is a pruned weight, one a shift. At some epochs every weight is given a limit, so that all limits
together cost what the schedule allows then, at the least expected loss:

    minimise  sum_i F_i (w_i - q_i(n_i))^2    subject to  sum_i n_i c_i <= budget(epoch)

with F the Fisher diagonal (`curvature.fisher_diagonal`), or 1 over the layer's mean square (magnitude pruning), q(n)
the nearest code of n digits, and c the width of the layer's adders times its positions. Between these epochs codes are
rounded within their limits, straight-through, so that pruned weights keep learning and may come back at the next.

Where it is asked for, the channels of the network's inputs are given grids of their own after each choice
(`quant.grids`): a bit of a channel costs as many adder bits as its weights have digits, at the price of a digit now.

The budget falls geometrically, fast at first: ``target (full / target)^((1 - r)^2)`` over the updates. Where it is
given in LUTs, each update traces the network's own circuit and corrects what a digit costs. Sources: LeCun et al. 1990
(OBD saliency); Zhu and Gupta 2017 (gradual schedule); Guo et al. 2016 (pruned weights may come back).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dyadiq.allocation.digits import allocate_digits
from dyadiq.core.errors import InfeasibleError, QuantError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.signed_digits import count_digits, nearest_codes
from dyadiq.cost.facts import network_facts
from dyadiq.curvature.fisher_diagonal import fisher_diagonal
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.quant.grids import refine_grids_
from dyadiq.quant.lower import lower
from dyadiq.quant.module import QuantModule
from dyadiq.train.circuit import trim_circuit_
from dyadiq.train.evaluate import device_of, single_output
from dyadiq.train.polish import PolishResult, exchange_digits_, polish_codes_
from dyadiq.train.probes import weight_probes
from dyadiq.train.sparsify_config import SparsifyConfig
from dyadiq.zoo.data import Split

__all__ = ["DigitSchedule"]

_GROWTH_BITS = 2  # an adder is wider than its input by about so much
_FINAL_ROUNDS = 4  # of the last update, each corrected by a trace; up to twice as many while the budget is missed
_TOLERANCE = 1.03  # a circuit larger than the budget by more is refused
_MICRO_BATCH = 32  # samples of one gradient
_GRID_SAMPLES = 2048  # that grids are compared on
_GRID_SWEEPS = 2  # over all channels at each update
_UNTRIMMED = 1.1  # of the budget is what limits leave where the circuit is trimmed afterwards
_MARGIN = 0.985  # of a LUT budget is aimed at: codes move a little after the last update


class DigitSchedule:
    """Sets the limits of a module's weights before some epochs; a function of epoch, weights and seed only.

    Attributes:
        final_epoch: From this epoch on, limits are final: only later weights may be kept as the best.
    """

    def __init__(self, module: QuantModule, split: Split, config: SparsifyConfig, n_epochs: int, seed: int) -> None:
        """Prepare; nothing is limited yet.

        Raises:
            QuantError: Digits cannot be limited in the format of a weight.
        """
        for name, quantizer in module.weight_quantizers().items():
            try:
                quantizer.check_digits()
            except QuantError as err:
                raise QuantError(f"sparsify: {name}: {err}") from err
        epochs = np.linspace(config.start_frac * n_epochs, config.end_frac * n_epochs, config.n_updates)
        self._updates = sorted({int(epoch) for epoch in epochs})
        self.final_epoch = self._updates[-1]
        self._module, self._config, self._seed = module, config, seed
        self._aim = config.lut if config.lut is None or not config.trims else round(config.lut * _UNTRIMMED)
        index = np.random.default_rng(seed).permutation(len(split))[: config.n_samples]
        self._samples = torch.as_tensor(split.x[np.sort(index)], device=device_of(module))
        facts = network_facts(canonicalize(module.graph), module.config, fixed_size_bytes=0)
        self._layers = facts.layers
        self._unit = self._unit_costs()
        self._price = 0.0  # of a unit of cost, by the last choice of limits
        for name in self._grid_inputs():
            try:
                self._input_quantizer(name).check_grid()
            except QuantError as err:
                raise QuantError(f"sparsify: {name}: {err}") from err

    def __call__(self, epoch: int) -> dict[str, Any]:
        """Choose new limits, if this epoch is one of those; return what they are: ``digits_per_weight``, ``lut``.

        Raises:
            InfeasibleError: The last limits miss the budget, or leave no weight.
        """
        if epoch not in self._updates:
            return {}
        shapes = {name: weight.shape for name, weight in self._weights().items()}
        for name, quantizer in self._module.weight_quantizers().items():
            if quantizer.max_digits is None:
                quantizer.limit_digits_(torch.full(shapes[name], self._config.max_digits))
        number = self._updates.index(epoch) + 1
        saliency = self._saliency(epoch)
        luts = self._luts()
        self._limit(saliency, (1 - number / len(self._updates)) ** 2, luts)
        found = self._refine_grids() if self._config.input_grids else {}
        if number < len(self._updates):
            return {"digits_per_weight": self._digits_per_weight(), **found}
        if luts is not None:
            luts = self._final_luts(saliency)
        mean = self._digits_per_weight()
        self._check(mean, luts, self._aim)
        return {"digits_per_weight": mean, **found} | ({} if luts is None else {"lut": luts})

    def polish(
        self, split: Split, progress: Progress = NO_PROGRESS, train: Callable[[int], None] | None = None
    ) -> PolishResult:
        """Choose codes once more and exchange digits, after training, within the budget (`train.polish`); then trim.

        Args:
            split: Training samples.
            progress: One step a layer, or a pass.
            train: Called between passes of trimming with their number, limits being those of the codes.
        """
        config, seed = self._config, self._seed
        first = polish_codes_(self._module, split, n_samples=config.polish_samples, seed=seed, progress=progress)
        result = first
        tried, kept = result.n_tried, result.n_kept
        for number in range(1, config.exchanges + 1):
            self._tighten()
            result = exchange_digits_(
                self._module,
                split,
                self._digit_costs,
                self._spare(),
                n_samples=config.polish_samples,
                seed=seed + number,
                progress=progress,
            )
            tried, kept = tried + result.n_tried, kept + result.n_kept
        if config.trims and config.lut is not None:

            def between(number: int) -> None:
                self._tighten()
                if train is not None:
                    train(number)

            result = trim_circuit_(
                self._module,
                split,
                self._counted,
                config.lut,
                passes=config.trims,
                between=between,
                n_samples=config.polish_samples,
                seed=seed + config.exchanges + 1,
                progress=progress,
            )
            tried, kept = tried + result.n_tried, kept + result.n_kept
            self._check(self._digits_per_weight(), self._counted(), config.lut)
        return PolishResult(first.loss_before, result.loss_after, tried, kept)

    def _counted(self) -> int:
        from dyadiq.fpga.estimate import count_luts

        return count_luts(lower(self._module))

    def _tighten(self) -> None:
        """Make every limit what the code has: digits that are allowed and not used can be spent elsewhere."""
        for name, quant in self._module.weight_quants().items():
            self._module.weight_quantizers()[name].limit_digits_(torch.as_tensor(count_digits(quant.codes)))

    def _spare(self) -> float:
        """Return what of the budget of LUTs is not spent, in units of digits' costs; 0 without one."""
        luts = self._luts()
        if luts is None or self._aim is None:
            return 0.0
        spent = 0.0
        for name, quantizer in self._module.weight_quantizers().items():
            assert quantizer.max_digits is not None  # set by __call__
            limits = quantizer.max_digits.double().cpu().numpy()
            spent += float((limits * self._digit_costs(name, limits.shape)).sum())
        return (self._aim / max(1, luts) - 1.0) * spent

    def _final_luts(self, saliency: Mapping[str, np.ndarray[Any, Any]]) -> int | None:
        """Correct the last limits until the circuit fits; return its LUTs."""
        luts = self._luts()
        for done in range(1, 2 * _FINAL_ROUNDS):
            if done >= _FINAL_ROUNDS and not _misses(luts, self._aim):
                break
            self._limit(saliency, 0.0, luts)
            luts = self._luts()
        return luts

    def _check(self, mean: float, luts: int | None, most: int | None) -> None:
        if mean > 0 and not _misses(luts, most):
            return
        for quantizer in self._module.weight_quantizers().values():
            assert quantizer.max_digits is not None  # set by __call__
            quantizer.limit_digits_(torch.zeros_like(quantizer.max_digits))
        if most is None:
            raise InfeasibleError(
                f"sparsify: digits_per_weight = {self._config.digits_per_weight} leaves no weight at all. Raise it."
            )
        least = self._luts()
        raise InfeasibleError(
            f"sparsify: after the last update the circuit takes {luts:,} LUT with {mean:.3g} signed digits per weight, "
            f"expected at most {most:,} with more than 0; without any weight {least:,} remain. Raise lut, "
            "or choose fewer activation bits.",
            {"lut": float(least or 0)},
        )

    def _digits_per_weight(self) -> float:
        limits = [q.max_digits for q in self._module.weight_quantizers().values() if q.max_digits is not None]
        return float(sum(x.double().sum() for x in limits)) / max(1, sum(x.numel() for x in limits))

    def _unit_costs(self) -> dict[str, float]:
        """Return the cost of one digit by weight: widths of adders times positions, or 1."""
        names = self._module.weight_quantizers()
        if self._config.lut is None:
            return dict.fromkeys(names, 1.0)
        quantizers = self._module.quantizers_by_name()
        unit = dict.fromkeys(names, 0.0)
        for layer in self._layers:
            unit[layer.weight] += float((quantizers[layer.input].qtype.bits + _GROWTH_BITS) * layer.n_positions)
        return unit

    def _saliency(self, epoch: int) -> dict[str, np.ndarray[Any, Any]]:
        weights = self._weights()
        if self._config.saliency == "magnitude":
            return {name: np.full(w.shape, 1.0 / max(float((w**2).mean()), 1e-30)) for name, w in weights.items()}
        training = self._module.training
        self._module.eval()
        try:
            with weight_probes(self._module) as probes:
                found = fisher_diagonal(
                    lambda x: single_output(self._module, x),
                    probes,
                    self._samples,
                    micro_batch=min(_MICRO_BATCH, len(self._samples)),
                    seed=self._seed + epoch,
                )
        finally:
            self._module.train(training)
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _limit(self, saliency: Mapping[str, np.ndarray[Any, Any]], remaining: float, luts: int | None) -> None:
        """Give every weight its limit; ``remaining`` falls from 1 to 0 over the schedule, ``luts`` are those now."""
        weights, quants = self._weights(), self._module.weight_quants()
        options = range(self._config.max_digits + 1)
        errors, costs, spent = [], [], 0.0
        for name, weight in weights.items():
            scale = quants[name].scale.reshape(-1, *([1] * (weight.ndim - 1)))
            low, high = quants[name].qtype.qmin, quants[name].qtype.qmax
            codes = np.stack([nearest_codes(weight / scale, n, low, high) for n in options])
            errors.append((saliency[name] * (codes * scale - weight) ** 2).reshape(len(options), -1))
            unit = self._digit_costs(name, weight.shape)
            costs.append(unit.ravel())
            limits = self._module.weight_quantizers()[name].max_digits
            assert limits is not None  # set by __call__
            spent += float((limits.double().numpy() * unit).sum())
        cost = np.concatenate(costs)
        if self._aim is None or luts is None:
            assert self._config.digits_per_weight is not None  # checked by SparsifyConfig
            target = self._config.digits_per_weight * float(cost.sum())
        else:
            target = self._aim * _MARGIN * spent / max(1, luts)
        full = float(cost.sum()) * self._config.max_digits
        budget = min(target, full) ** (1 - remaining) * full**remaining
        chosen = allocate_digits(np.concatenate(errors, axis=1), cost, budget)
        self._price = chosen.price
        start = 0
        for name, weight in weights.items():
            limits = torch.as_tensor(chosen.digits[start : start + weight.size].reshape(weight.shape))
            self._module.weight_quantizers()[name].limit_digits_(limits)
            start += weight.size

    def _luts(self) -> int | None:
        """Return the LUTs of the circuit as it is now, where they are the budget."""
        return None if self._aim is None else self._counted()

    def _digit_costs(self, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Return the cost of a digit of every weight; digits that read a narrow channel are cheap."""
        cost = np.full(shape, self._unit[name])
        for layer in self._layers:
            if layer.weight != name or layer.input not in self._grid_inputs():
                continue
            grid = self._input_quantizer(layer.input).channel_grid()
            if grid is not None:
                bits = grid.bits()[_channels_read(shape, len(grid.shift))]
                cost[:] = ((bits + _GROWTH_BITS) * layer.n_positions).reshape(*bits.shape, *([1] * (len(shape) - 2)))
        return cost

    def _grid_inputs(self) -> list[str]:
        """Return the network inputs that dot products read, where their channels are to have grids."""
        read = {layer.input for layer in self._layers} if self._config.input_grids else set()
        return [name for name in self._module.graph.inputs if name in read]

    def _input_quantizer(self, name: str) -> ActivationQuantizer:
        quantizer = self._module.quantizers_by_name()[name]
        assert isinstance(quantizer, ActivationQuantizer)  # our own bug otherwise
        return quantizer

    def _refine_grids(self) -> dict[str, Any]:
        """Choose the grids of the inputs' channels at the price of a digit now; return their bits."""
        prices = {}
        for name in self._grid_inputs():
            digits = np.zeros(self._module.graph.tensors[name].shape[0])
            for layer in self._layers:
                if layer.input == name:
                    limits = self._module.weight_quantizers()[layer.weight].max_digits
                    assert limits is not None  # set by __call__
                    own = limits.double().cpu().numpy()
                    own = own.reshape(*own.shape[:2], -1).sum(2) * layer.n_positions
                    np.add.at(digits, _channels_read(own.shape, len(digits)), own)
            # Errors of limits are F d^2; the loss that they stand for is half of it.
            prices[name] = 0.5 * self._price * digits
        grids = refine_grids_(self._module, self._samples[:_GRID_SAMPLES], prices, sweeps=_GRID_SWEEPS)
        return {"input_bits": {name: grid.bits().tolist() for name, grid in grids.items()}}

    def _weights(self) -> dict[str, np.ndarray[Any, Any]]:
        params = self._module.folded_graph().params
        return {name: params[name] for name in self._module.weight_quantizers()}


def _misses(luts: int | None, most: int | None) -> bool:
    return luts is not None and most is not None and luts > most * _TOLERANCE


def _channels_read(shape: tuple[int, ...], n_channels: int) -> np.ndarray[Any, Any]:
    """Return the input channel that each ``[O, I / groups]`` of a weight reads."""
    n_out, n_in = shape[:2]
    per_group = n_out * n_in // n_channels
    return np.arange(n_out)[:, None] // per_group * n_in + np.arange(n_in)
