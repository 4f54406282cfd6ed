"""Two networks side by side, node by node: the quantized module and the float network it shall imitate.

Used by the reconstruction methods. All samples are at one node at a time, so that a layer changed on arrival is
what every later layer sees: one pass over the network, whatever its depth. Tensors that nobody reads any more are let
go; memory is that of the widest cut of the graph, for all samples, twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.ir.execute import Batch, NamedInputs, iterate_batches, run_node
from dyadiq.ir.graph import Node
from dyadiq.quant.module import QuantModule

__all__ = ["CHUNK", "Walk", "read_inputs", "without_activation"]

CHUNK = 64


def read_inputs(module: QuantModule, batches: Iterable[Batch]) -> list[tuple[Tensor, ...]]:
    """Return the samples in chunks of at most `CHUNK`, inputs in the order of the graph's, on the module's device.

    Raises:
        DataError: No batch, or an unusable one.
        ConfigError: The network has other inputs.
    """
    device = next(iter(module.model_tensors().values())).device
    chunks: list[tuple[Tensor, ...]] = []
    names = module.graph.inputs
    for batch in iterate_batches(batches):
        named = batch if isinstance(batch, NamedInputs) else NamedInputs({names[0]: batch})
        if set(named) != set(names):
            raise ConfigError(f"the network has the inputs {list(names)}, got {sorted(named)}.")
        parts = [torch.split(named[name].to(device), CHUNK) for name in names]
        chunks += list(zip(*parts, strict=True))
    return chunks


class Walk:
    """Where both networks are.

    Attributes:
        module: The quantized one; layers may be changed before `advance` passes them.
        values: Of every chunk, tensors of the quantized network by name.
        reference: The same of the float network.
        tensors: The float network's parameters and statistics by name.

    Args:
        module: In mode ``fake``, not training.
        inputs: From `read_inputs`.
        tensors: The float network's parameters and statistics by name.
        quantized: False walks the module in real values too.
    """

    def __init__(
        self,
        module: QuantModule,
        inputs: Sequence[tuple[Tensor, ...]],
        tensors: Mapping[str, Tensor],
        *,
        quantized: bool = True,
    ) -> None:
        """Start at the network inputs."""
        self.module, self.tensors, self._quantized = module, tensors, quantized
        self._last_reader = {name: node.name for node in module.canonical.nodes for name in node.inputs}
        with torch.no_grad():
            quantizers = module.quantizers_by_name() if quantized else {}
            own = module.model_tensors()
            self.values = [module.first_values(x, own, quantizers) for x in inputs]
            self.reference = [module.first_values(x, tensors, {}) for x in inputs]

    def __iter__(self) -> Iterator[Node]:
        """Yield every node of the canonical graph before it runs; it runs when the next one is asked for."""
        for node in self.module.canonical.nodes:
            yield node
            self.advance(node)

    @torch.no_grad()
    def advance(self, node: Node) -> None:
        """Run one node in both networks."""
        own = self.module.model_tensors()
        quantizers = self.module.quantizers_by_name() if self._quantized else {}
        for values, reference in zip(self.values, self.reference, strict=True):
            values[node.output] = self.module.run_canonical_node(node, values, own, quantizers)
            reference[node.output] = self.module.run_canonical_node(node, reference, self.tensors, {})
            for name in set(node.inputs):
                if self._last_reader[name] == node.name and name not in self.module.canonical.outputs:
                    values.pop(name, None)
                    reference.pop(name, None)

    @torch.no_grad()
    def pre_activations(self, node: Node) -> tuple[list[Tensor], list[Tensor]]:
        """Return a layer's outputs before its activation function and quantizer, of both networks, a chunk each."""
        layer, bare = self.module.layers[node.name], without_activation(node)
        found = []
        own, quantizers = self.module.model_tensors(), self.module.quantizers_by_name() if self._quantized else {}
        for chunks, tensors, active in ((self.values, own, quantizers), (self.reference, self.tensors, {})):
            weight, bias = self.module.layer_weights(layer, tensors, active)
            arguments = [weight, *([] if bias is None else [bias])]
            found.append([run_node(bare, [values[node.inputs[0]], *arguments]) for values in chunks])
        return found[0], found[1]

    def at(self, name: str) -> tuple[list[Tensor], list[Tensor]]:
        """Return a tensor of the quantized and of the float network, a chunk each."""
        return [values[name] for values in self.values], [values[name] for values in self.reference]


def without_activation(node: Node) -> Node:
    """Return a node that leaves out the fused activation.

    Example:
        >>> without_activation(Node("a", "add", ("x", "y"), "a", {"activation": "relu"})).attrs
        {}
    """
    return replace(node, attrs={name: value for name, value in node.attrs.items() if name != "activation"})
