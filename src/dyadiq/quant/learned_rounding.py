"""Methods ``adaround``, ``brecq`` and ``qdrop``: rounding up or down learned by gradient descent on outputs.

Used by `quant.reconstruct`. Every weight of a part lies between two codes f and f + 1; a variable v moves it by

    w = s clip(f + h(v), low, high)      h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)

to the least squared error of the part's outputs, on inputs from the quantized network before it, against the float
network's; a term ``1 - |2 h - 1|^beta`` drives h to 0 or 1. ``adaround``: parts are layers. ``brecq``: parts are
blocks (`quant.blocks`). ``qdrop``: blocks, and while learning each activation stays real with probability 1/2.
Variables start from the codes there are, so the methods may follow ``gptq``. A part that did not improve on the
samples is put back.
Sources: Nagel et al. 2020, AdaRound, eqs. (21) to (25); Li et al. 2021, BRECQ, section 3; Wei et al. 2022, QDrop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import Node
from dyadiq.quant.blocks import find_blocks
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.quant.fold import Layer, fold
from dyadiq.quant.reconstruction import Reconstruction
from dyadiq.quant.walk import Walk
from dyadiq.quant.write_back import own_layers, write_weight_

__all__ = ["SoftRounding", "adaround_", "brecq_", "qdrop_"]

_STRETCH, _SHIFT = 1.2, -0.1
_BETA = (20.0, 2.0)
_WARM_UP = 0.2  # share of the steps without the term that drives h to its ends
_DROP = 0.5


def adaround_(job: Reconstruction) -> None:
    """Learn the rounding of one layer after another."""
    parts = [(node,) for node in job.module.canonical.nodes]
    _learn(job, "adaround", parts, drop=0.0)


def brecq_(job: Reconstruction) -> None:
    """Learn the rounding of one block after another."""
    _learn(job, "brecq", find_blocks(job.module.canonical), drop=0.0)


def qdrop_(job: Reconstruction) -> None:
    """Learn the rounding of one block after another, with activations randomly left real."""
    _learn(job, "qdrop", find_blocks(job.module.canonical), drop=_DROP)


class SoftRounding:
    """The weight of one layer between its codes.

    Attributes:
        v: The variables, of the weight's shape.
    """

    def __init__(self, job: Reconstruction, layer: Layer) -> None:
        """Start from the codes there are, as near to the float weight as their side allows."""
        module = job.module
        quant = module.weight_quants()[layer.weight]
        quantizer = module.weight_quantizers()[layer.weight]
        self.layer = layer
        params = quantizer.affine_params()
        shape = quant.codes.shape
        device = quantizer.scale.device
        scaled = type(params)(quant.scale, quant.zero_point, params.qtype, params.group_factor, params.fmt)
        zero = torch.as_tensor(scaled.zero_points(shape), device=device)
        self.step = torch.as_tensor(scaled.steps(shape), device=device)
        self.low, self.high = params.qtype.qmin - zero, params.qtype.qmax - zero
        codes = torch.as_tensor(quant.codes, device=device).double() - zero
        with torch.no_grad():
            wanted = fold(layer, job.reference)[0].double() / self.step
        self.floor = torch.where(wanted >= codes, codes, codes - 1)
        share = (wanted - self.floor).clamp(0.0, 1.0)
        side = torch.where(codes == self.floor, share.clamp(max=0.49), share.clamp(min=0.51))
        self.v = torch.logit((side - _SHIFT) / _STRETCH).float().requires_grad_()

    def share(self) -> Tensor:
        """Return h(v), from 0 (down) to 1 (up)."""
        return (torch.sigmoid(self.v) * _STRETCH + _SHIFT).clamp(0.0, 1.0)

    def weight(self) -> Tensor:
        """Return the weight between the codes, differentiable in v."""
        codes = (self.floor.float() + self.share()).clamp(self.low, self.high)
        return codes * self.step.float()

    @torch.no_grad()
    def hard_weight(self) -> Tensor:
        """Return the weight on its codes, float64."""
        return (self.floor + (self.share() >= 0.5)).clamp(self.low, self.high) * self.step


def _learn(job: Reconstruction, name: str, parts: Sequence[tuple[Node, ...]], *, drop: float) -> None:
    module = job.module
    layers, left = own_layers(module)
    job.notes.extend(f"{name}: {layer}: left; {reason}." for layer, reason in left.items())
    bipolar = [n for n, layer in layers.items() if module.weight_quantizers()[layer.weight].qtype.bipolar]
    job.notes.extend(f"{name}: {n}: left; codes are -1 and +1." for n in bipolar)
    layers = {n: layer for n, layer in layers.items() if n not in bipolar}
    generator = torch.Generator().manual_seed(job.seed)
    walk = Walk(module, job.inputs, job.reference)
    job.progress.start(name, sum(node.name in layers for part in parts for node in part))
    try:
        for part in parts:
            found = [layers[node.name] for node in part if node.name in layers]
            if found:
                _learn_part(job, part, found, walk, generator, drop)
                job.progress.advance(len(found), part[-1].name)
            for node in part:
                walk.advance(node)
    finally:
        job.progress.finish()


def _learn_part(
    job: Reconstruction,
    part: tuple[Node, ...],
    layers: Sequence[Layer],
    walk: Walk,
    generator: torch.Generator,
    drop: float,
) -> None:
    module, config = job.module, job.config
    made = {node.output for node in part}
    read = dict.fromkeys(n for node in part for n in module.canonical.activations(node) if n not in made)
    quantized = {name: torch.cat(walk.at(name)[0]) for name in read}
    real = {name: torch.cat(walk.at(name)[1]) for name in read}
    runner = _Part(job, part)
    with torch.no_grad():
        target = runner.run(real, {}, quantized=False)
        before = runner.error(quantized, target, {})
    soft = {layer.node.name: SoftRounding(job, layer) for layer in layers}
    optimizer = torch.optim.Adam([s.v for s in soft.values()], lr=config.learning_rate)
    n_samples, n_weights = len(target), sum(s.v.numel() for s in soft.values())
    for step in range(config.iterations):
        chosen = torch.randint(n_samples, (min(config.batch_size, n_samples),), generator=generator).to(target.device)
        inputs = {name: value[chosen] for name, value in quantized.items()}
        if drop:
            inputs = {name: _dropped(value, real[name][chosen], drop, generator) for name, value in inputs.items()}
        output = runner.run(inputs, {n: s.weight() for n, s in soft.items()}, drop=drop, generator=generator)
        loss = _squared_error(output, target[chosen])
        progress = step / config.iterations
        if progress >= _WARM_UP:
            beta = _BETA[0] + (_BETA[1] - _BETA[0]) * (progress - _WARM_UP) / (1 - _WARM_UP)
            undecided = sum((1 - (2 * s.share() - 1).abs().pow(beta)).sum() for s in soft.values())
            loss = loss + config.rounding_weight * before * undecided / n_weights
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    hard = {name: s.hard_weight() for name, s in soft.items()}
    after = runner.error(quantized, target, {name: value.float() for name, value in hard.items()})
    if after < before:
        for layer in layers:
            write_weight_(module, layer, hard[layer.node.name])
    for layer in layers:
        first = job.errors.get(layer.weight, (before, before))[0]
        job.errors[layer.weight] = (first, min(before, after))


class _Part:
    """Runs some nodes with weights that stand in for the module's."""

    def __init__(self, job: Reconstruction, part: tuple[Node, ...]) -> None:
        self.module, self.part, self.reference = job.module, part, job.reference
        self.quantizers = job.module.quantizers_by_name()
        with torch.no_grad():
            self.own = {
                node.name: job.module.layer_weights(
                    job.module.layers[node.name], job.module.model_tensors(), self.quantizers
                )
                for node in part
                if node.name in job.module.layers
            }

    def run(
        self,
        inputs: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        *,
        quantized: bool = True,
        drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the output of the last node, before its quantizer."""
        values = dict(inputs)
        for node in self.part:
            arguments = [values[name] for name in self.module.canonical.activations(node)]
            quantizer = self.quantizers.get(node.output) if quantized else None
            if node.name in self.module.layers:
                if quantized:
                    weight, bias = self.own[node.name]
                    weight = weights.get(node.name, weight)
                else:
                    weight, bias = fold(self.module.layers[node.name], self.reference)
                arguments += [weight, *([] if bias is None else [bias])]
            elif isinstance(quantizer, ActivationQuantizer) and node.op in ("add", "concat"):
                arguments = [quantizer.round(x) for x in arguments]
            result = run_node(node, arguments)
            if quantizer is not None and node is not self.part[-1]:
                rounded = quantizer(result)
                result = _dropped(rounded, result, drop, generator) if drop and generator is not None else rounded
            values[node.output] = result
        return values[self.part[-1].output]

    @torch.no_grad()
    def error(self, inputs: Mapping[str, Tensor], target: Tensor, weights: Mapping[str, Tensor]) -> float:
        """Return the squared error of all samples, in chunks."""
        chunks = range(0, len(target), 64)
        total = sum(
            float(_squared_error(self.run({n: v[i : i + 64] for n, v in inputs.items()}, weights), target[i : i + 64]))
            * len(target[i : i + 64])
            for i in chunks
        )
        return total / len(target)


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error, summed over channels, averaged over samples and positions."""
    return (output - target).square().sum(1).mean()


def _dropped(quantized: Tensor, real: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Return values of ``real`` where a coin says so, else quantized ones."""
    coin = torch.rand(quantized.shape, generator=generator).to(quantized.device)
    return torch.where(coin < drop, real, quantized)
