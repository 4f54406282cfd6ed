"""The quantized network as an ordinary `nn.Module`: trains, saves, loads, and lowers to integers.

Used by training loops, `quant.lower`, `quant.store` and the public face. Holds the model's parameters and batch norm
statistics under the model's own names, and quantizers under ``quantizers.<decision>``.

Forward, in mode ``fake``, says in real values what the integer program says in integers (docs/spec/integer-program.md):
inputs on their grid; weights folded, then quantized; biases on the grid ``s_w s_x``; one rounding per
site; branches of an add rounded to its grid before the sum, clipped after. ``float`` leaves all of that out;
``exact`` returns the integers themselves. Computes in the parameters' dtype: float32 may differ from the integers by
a step near ties, which is why accuracy is measured in ``exact``. Source: DESIGN section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dyadiq.core.affine import AffineParams
from dyadiq.core.errors import DataError, QuantError, UnknownNameError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import BitPlan
from dyadiq.ir.execute import graph_params, run_node
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.quantized import ActivationQuant, WeightQuant
from dyadiq.ir.reference import named_inputs
from dyadiq.ir.sites import find_sites
from dyadiq.quant.estimators import DEFAULT, find_estimator
from dyadiq.quant.estimators.base import replace_quantizers_
from dyadiq.quant.exact_cache import ExactCache
from dyadiq.quant.fake_quant import ActivationQuantizer, Quantizer, WeightQuantizer
from dyadiq.quant.fold import Layer, counter_name, find_layers, fold
from dyadiq.quant.named import Scope, add_module_, add_tensors_, tensors_by_name
from dyadiq.quant.rounding_gradient import round_to_grid
from dyadiq.quant.snap import needs_snapping, snapped_scale

__all__ = ["MODES", "QuantModule"]

MODES = ("float", "fake", "exact")
_QUANTIZERS = "quantizers"
_JOINS = ("add", "concat")


class QuantModule(nn.Module):
    """A network with a quantizer at every decision; made by `quant.quantize`.

    Attributes:
        graph: The captured graph; its parameter values are those at capture, the module's own are in ``state_dict``.
        plan: Formats by decision.
        config: Everything about quantization except the bits.
        mode: ``float``, ``fake`` or ``exact``; see `set_mode_`.
        canonical: The graph with batch norms folded and activations fused: what runs.
        layers: Its convolutions and linears by node name, with where their parameters come from.
        sites: Where its activations are quantized.
        batchnorm_frozen: Whether batch norms use running statistics in training too.
        batchnorm_momentum: Weight of a batch in the running statistics; None: each batch norm's own.
        estimator: How gradients pass the quantizers; see `set_estimator_`.

    Raises:
        QuantError: The model has its own attribute ``quantizers``.
    """

    def __init__(
        self,
        graph: Graph,
        plan: BitPlan,
        config: QuantConfig,
        params: Mapping[str, AffineParams],
        *,
        learn_scales: bool = True,
        freeze_bn: bool = True,
        batchnorm_momentum: float | None = None,
    ) -> None:
        """Register the model's tensors under its names, and a quantizer a decision.

        Raises:
            QuantError: The model has its own attribute ``quantizers``.
        """
        super().__init__()
        taken = sorted(n for n in graph.params if n.split(".")[0] == _QUANTIZERS)
        if taken:
            raise QuantError(
                f"{taken[0]}: the name 'quantizers' is taken by QuantModule's own state. Rename the model's attribute."
            )
        self.graph, self.plan, self.config = graph, plan, config
        self.mode, self.learn_scales = "fake", learn_scales
        self.batchnorm_frozen, self.batchnorm_momentum = freeze_bn, batchnorm_momentum
        self.estimator = DEFAULT
        self.canonical = canonicalize(graph)
        self.sites = find_sites(self.canonical)
        self.layers = find_layers(graph, self.canonical)
        self._exact = ExactCache()
        self._add_model_tensors()
        weights = [layer.weight for layer in self.layers.values()]
        self._weight_names = tuple(dict.fromkeys(weights))
        self._snapped = (
            {name for name in self._weight_names if weights.count(name) == 1 and plan.formats[name].scale == "float"}
            if needs_snapping(config)
            else set()
        )
        scope = Scope()
        for name in self._weight_names:
            add_module_(scope, name, WeightQuantizer(params[name], learn_scale=learn_scales))
        for name in self.sites.decisions:
            add_module_(scope, name, ActivationQuantizer(params[name], learn_scale=learn_scales))
        self._modules[_QUANTIZERS] = scope

    def _add_model_tensors(self) -> None:
        tensors = graph_params(self.graph)
        norms = [node for node in self.graph.nodes if node.op == "batch_norm"]
        neutral = {name for node in norms for name in node.attrs.get("neutral", ())}  # which the model does not have
        constant = neutral | {name for node in norms for name in node.inputs[3:]}
        buffers = {name: tensors[name] for name in tensors if name in constant}
        for node in norms:  # As torch names it, so that state dicts of the model fit.
            count = node.attrs.get("num_batches_tracked", 0)
            if count is not None:
                buffers[counter_name(node)] = torch.tensor(count)
        parameters = {n: t for n, t in tensors.items() if n not in constant}
        add_tensors_(self, parameters, buffers, frozen=self.graph.meta.get("frozen_parameters", ()), unsaved=neutral)

    # -- modes and state -----------------------------------------------------------------------------

    def set_mode_(self, mode: str) -> QuantModule:
        """Set what forward returns: ``float`` or ``fake`` values, or the ``exact`` integers.

        Raises:
            UnknownNameError: No such mode.
        """
        if mode not in MODES:
            raise UnknownNameError("mode", mode, MODES)
        self.mode = mode
        return self

    def freeze_batchnorm_(self) -> QuantModule:
        """Use running statistics from now on, in training too."""
        self.batchnorm_frozen = True
        return self

    def set_estimator_(self, name: str) -> QuantModule:
        """Train by another estimator from now on: a name in `quant.estimators.ESTIMATORS`.

        Scales and zero points stay; what was learned becomes the starting point, under new names in the state dict.
        A transform of weights is written back when its estimator goes. Set it before making an optimizer.

        Raises:
            UnknownNameError: No such estimator.
        """
        estimator = find_estimator(name)
        if estimator.name != self.estimator.name:  # Copies of a module have copies of it.
            with torch.no_grad():
                own, trained = self.model_tensors(), self.trained_tensors()
                for weight in self._raw_weights():
                    own[weight].copy_(trained[weight])
            self.estimator = estimator
            replace_quantizers_(self, estimator)
        return self

    def replace_quantizer_(self, name: str, quantizer: Quantizer) -> None:
        """Put a quantizer of the same kind in the place of the one of this name."""
        scope = self._modules[_QUANTIZERS]
        assert scope is not None  # our own bug otherwise
        add_module_(scope, name, quantizer)

    def quantizers_by_name(self) -> dict[str, Quantizer]:
        """Return the quantizer of every decision."""
        found = self._modules[_QUANTIZERS].named_modules()  # type: ignore[union-attr]
        return {name: module for name, module in found if isinstance(module, Quantizer)}

    def weight_quantizers(self) -> dict[str, WeightQuantizer]:
        """Return the quantizer of every weight."""
        return {n: q for n, q in self.quantizers_by_name().items() if isinstance(q, WeightQuantizer)}

    def load_float_state_dict_(self, state: Mapping[str, Tensor]) -> QuantModule:
        """Load the user model's own state dict by name; quantizers stay as they are.

        Raises:
            QuantError: Names are missing or unknown, all of them listed.
        """
        wanted = {name for name in self.state_dict() if not name.startswith(f"{_QUANTIZERS}.")}
        missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
        if missing or unknown:
            raise QuantError(
                f"the state dict does not fit the model: missing {missing or 'none'}, unknown {unknown or 'none'}."
            )
        self.load_state_dict(dict(state), strict=False)
        return self

    # -- forward -------------------------------------------------------------------------------------

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output, or a tuple of them, in the order of the model's own.

        Args:
            *inputs: In the order of ``graph.inputs``.

        Raises:
            DataError: Inputs of the wrong number or shape, no samples, too few for a live batch norm, or (exact mode)
                not finite.
            QuantError: Exact mode, and the module cannot be lowered as it is.

        Shapes:
            Inputs ``[N, *shape]``. Values in the parameters' dtype; int64 codes in exact mode.
        """
        self._check_inputs(inputs)
        outputs = self._run_exact(inputs) if self.mode == "exact" else self._run_real(inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        expected = [["N", *self.graph.tensors[name].shape] for name in self.graph.inputs]
        got = [list(x.shape) for x in inputs]
        if len(got) != len(expected) or any(g[1:] != e[1:] or not g for g, e in zip(got, expected, strict=True)):
            raise DataError(f"inputs {list(self.graph.inputs)}: got shapes {got}, expected {expected}.")
        if any(len(x) == 0 for x in inputs):
            raise DataError(f"inputs {list(self.graph.inputs)} have no samples: got shapes {got}. Skip empty batches.")

    def _run_real(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        tensors = self.trained_tensors()
        quantizers = self.quantizers_by_name() if self.mode == "fake" else {}
        values = self.first_values(inputs, tensors, quantizers)
        last_reader = {name: node.name for node in self.canonical.nodes for name in node.inputs}
        for node in self.canonical.nodes:
            values[node.output] = self.run_canonical_node(node, values, tensors, quantizers)
            for name in set(node.inputs):  # Nobody reads it again: let go of the memory.
                if name in values and last_reader[name] == node.name and name not in self.canonical.outputs:
                    del values[name]
        return [values[name] for name in self.canonical.outputs]

    def model_tensors(self) -> dict[str, Tensor]:
        """Return the model's own parameters and buffers by name, the very tensors, not copies."""
        return tensors_by_name(self, skip=(_QUANTIZERS,))

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return the same with the weights that the estimator makes of them: what is folded and quantized."""
        tensors = self.model_tensors()
        for name in self._raw_weights():
            assert self.estimator.transform is not None  # there are none otherwise
            tensors[name] = self.estimator.transform(tensors[name])
        return tensors

    def first_values(
        self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor], quantizers: Mapping[str, Quantizer]
    ) -> dict[str, Tensor]:
        """Return the network inputs by name, quantized if there are quantizers, in the parameters' dtype."""
        dtype = next(iter(tensors.values())).dtype if tensors else torch.float32
        # In float64, so that network inputs get the very codes of the integer program.
        return {
            name: quantizers[name](x.double()).to(dtype) if quantizers else x.to(dtype)
            for name, x in zip(self.canonical.inputs, inputs, strict=True)
        }

    def run_canonical_node(
        self,
        node: Node,
        values: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        quantizers: Mapping[str, Quantizer],
    ) -> Tensor:
        """Return what one node of the canonical graph makes of the values so far.

        Args:
            node: Of ``canonical``.
            values: Activations by name.
            tensors: The model's parameters and statistics by name (`model_tensors`, or others that stand in).
            quantizers: By decision; none: real values, nothing is rounded.
        """
        arguments = [values[name] for name in self.canonical.activations(node)]
        if node.name in self.layers:
            result = self._run_layer(self.layers[node.name], arguments[0], tensors, quantizers)
        else:
            if quantizers and node.op in _JOINS:
                arguments = [_activation(quantizers, node.output).round(x) for x in arguments]
            result = run_node(node, arguments)
        # A clamp of codes keeps their decision, and its limits are taken to their grid.
        name = self.sites.decision_of[node.output] if node.op == "clamp" else node.output
        return quantizers[name](result) if name in quantizers else result

    def _raw_weights(self) -> list[str]:
        """Return the names of the weights that the estimator transforms."""
        if self.estimator.transform is None:
            return []
        sources = (layer.source for layer in self.layers.values() if layer.source.op in ("conv2d", "linear"))
        return list(dict.fromkeys(node.inputs[1] for node in sources))

    def _run_layer(
        self, layer: Layer, x: Tensor, tensors: Mapping[str, Tensor], quantizers: Mapping[str, Quantizer]
    ) -> Tensor:
        live = self.training and not self.batchnorm_frozen
        weight, bias = self.layer_weights(layer, tensors, quantizers, live_input=x if live else None)
        return run_node(layer.node, [x, weight, *([] if bias is None else [bias])])

    def layer_weights(
        self,
        layer: Layer,
        tensors: Mapping[str, Tensor],
        quantizers: Mapping[str, Quantizer],
        *,
        live_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the folded weight and bias a layer computes with, quantized if there are quantizers.

        Args:
            layer: Of ``layers``.
            tensors: As for `run_canonical_node`.
            quantizers: Likewise.
            live_input: What the layer sees, while batch norms are live.
        """
        weight, bias = fold(layer, tensors, live_input=live_input, momentum=self.batchnorm_momentum)
        if quantizers:
            weight_quantizer = quantizers[layer.weight]
            input_quantizer = quantizers[self.sites.decision_of[layer.node.inputs[0]]]
            scale = self.weight_scale(layer, weight, bias, quantizers)
            weight = weight_quantizer(weight, scale)
            if bias is not None and weight_quantizer.enabled and input_quantizer.enabled:
                # The grid of the accumulator; its scales are learned elsewhere.
                grid = (scale * input_quantizer.current_scale().double()).detach()
                bias = round_to_grid(bias.double(), grid).to(bias.dtype)
        return weight, bias

    def weight_scale(
        self, layer: Layer, weight: Tensor, bias: Tensor | None, quantizers: Mapping[str, Quantizer]
    ) -> Tensor:
        """Return the scale of a layer's weight, float64: its quantizer's, or what `quant.snap` makes of it."""
        output = layer.node.output
        if output in self.sites.wide:
            output = self.canonical.consumers(output)[0].output
        quantizer = quantizers[layer.weight]
        assert isinstance(quantizer, WeightQuantizer)  # our own bug otherwise
        source = _activation(quantizers, self.sites.decision_of[layer.node.inputs[0]])
        target = _activation(quantizers, self.sites.decision_of[output])
        enabled = quantizer.enabled and source.enabled and target.enabled
        if not enabled or layer.weight not in self._snapped or target.qtype.bipolar:
            return quantizer.current_scale().double()
        return snapped_scale(quantizer, weight, bias, source, target, self.config)

    def _run_exact(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Run the integer program, lowered again whenever a tensor of this module changed."""
        executor = self._exact.executor(self)
        given = {name: x.detach().cpu().numpy() for name, x in zip(self.graph.inputs, inputs, strict=True)}
        arrays = {name: torch.from_numpy(x) for name, x in named_inputs(executor.graph, given).items()}
        outputs = executor(arrays)
        return [outputs[name].to(inputs[0].device) for name in self.graph.outputs]

    # -- lowering ------------------------------------------------------------------------------------

    def folded_graph(self) -> Graph:
        """Return the canonical graph with the current parameters, batch norms folded, in float64."""
        params: dict[str, np.ndarray[Any, Any]] = {}
        for layer, weight, bias in self._folded_layers():
            node = layer.node
            params[node.inputs[1]] = weight.double().cpu().numpy()
            if bias is not None:
                params[node.inputs[2]] = bias.double().cpu().numpy()
        return self.canonical.replace(params=params)

    def weight_quants(self, only: str | None = None) -> dict[str, WeightQuant]:
        """Return the codes and scales of every weight, by parameter name.

        Args:
            only: Of this weight alone.

        Raises:
            QuantError: A weight became NaN or infinite.
        """
        quants = {}
        quantizers = self.quantizers_by_name()
        for layer, weight, bias in self._folded_layers(only):
            name = layer.weight
            scale = self.weight_scale(layer, weight, bias, quantizers).detach().cpu().numpy()
            quantizer = self.weight_quantizers()[name]
            params = replace(quantizer.affine_params(), scale=scale)
            codes = quantizer.codes(weight.double().cpu().numpy(), name=name, scale=scale)
            quants[name] = WeightQuant(codes, params.qtype, params.scale, params.zero_point, params.group_factor)
        return quants

    def activation_quants(self) -> dict[str, ActivationQuant]:
        """Return the scale and zero point of every activation decision, by tensor name."""
        quants = {}
        quantizers = self.quantizers_by_name()
        for name in self.sites.decisions:
            params = quantizers[name].affine_params()
            symmetric = params.fmt.scheme == "symmetric"
            grid = _activation(quantizers, name).channel_grid()
            scale, zero_point = float(params.scale[0]), int(params.zero_point[0])
            quants[name] = ActivationQuant(params.qtype, scale, zero_point, symmetric, grid)
        return quants

    def _folded_layers(self, only: str | None = None) -> list[tuple[Layer, Tensor, Tensor | None]]:
        with torch.no_grad():
            tensors = {n: t.detach().clone() for n, t in self.trained_tensors().items()}
        return [(layer, *fold(layer, tensors)) for layer in self.layers.values() if only in (None, layer.weight)]


def _activation(quantizers: Mapping[str, Quantizer], name: str) -> ActivationQuantizer:
    quantizer = quantizers[name]
    assert isinstance(quantizer, ActivationQuantizer)  # our own bug otherwise
    return quantizer
