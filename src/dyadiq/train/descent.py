"""What searches over codes stand on: a module's values on some samples, and what another code would make of them.

Used by `polish` and `circuit`, which say what is tried and kept. A trial writes a code into the module's own weight and
computes only what lies behind it; the values of all tensors are kept meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import QuantError
from dyadiq.core.signed_digits import count_digits
from dyadiq.quant.fold import Layer
from dyadiq.quant.module import QuantModule
from dyadiq.quant.write_back import own_layers, write_weight_
from dyadiq.train.evaluate import device_of, single_output
from dyadiq.train.probes import weight_probes
from dyadiq.zoo.data import Split

__all__ = ["LEAST_GAIN", "Descent", "Place", "by_rows", "descent_on"]

LEAST_GAIN = 2e-5  # of the mean loss; less is chance
_GROWTH = 200  # pruned weights tried at a time

Place = tuple[int, tuple[int, ...]]
"""Node that a weight belongs to, by number, and where in its codes the weight is."""


class Descent:
    """Values of every tensor under the choices so far; a trial computes only what lies behind it.

    Attributes:
        module: Whose codes are chosen.
        loss: Mean cross entropy on the samples, now.
        before: The same at the start.
        n_tried: Candidates measured.
        n_kept: Those kept.
    """

    def __init__(self, module: QuantModule, x: Tensor, y: Tensor) -> None:
        """Run the module once."""
        self.module, self.x, self.y = module, x, y
        self.tensors, self.quantizers = module.model_tensors(), module.quantizers_by_name()
        self.nodes = module.canonical.nodes
        self.values = module.first_values((x,), self.tensors, self.quantizers)
        self.values |= self.computed(0)
        self.loss = self.before = self.loss_of(self.values)
        self.n_tried = self.n_kept = 0

    def layers(self) -> dict[int, Layer]:
        """Return the layers whose codes may be chosen, by the number of their node.

        A batch norm folded forwards makes the bias depend on the weight: such layers are left out.
        """
        own, _ = own_layers(self.module)
        found = {start: own[node.name] for start, node in enumerate(self.nodes) if node.name in own}
        return {start: layer for start, layer in found.items() if not layer.input_norms}

    def computed(self, start: int) -> dict[str, Tensor]:
        """Return what the nodes from one on make, those that it does not reach left out."""
        made: dict[str, Tensor] = {}
        values = dict(self.values)
        for number, node in enumerate(self.nodes[start:]):
            if start and number and not any(name in made for name in node.inputs):
                continue
            made[node.output] = self.module.run_canonical_node(node, values, self.tensors, self.quantizers)
            values[node.output] = made[node.output]
        return made

    def loss_of(self, values: Mapping[str, Tensor]) -> float:
        """Return the mean cross entropy that values of the outputs have."""
        return F.cross_entropy(values[self.module.canonical.outputs[0]], self.y).item()

    def tried(self, start: int) -> tuple[dict[str, Tensor], float]:
        """Count a trial; return what the nodes from one on make now, and the loss."""
        self.n_tried += 1
        made = self.computed(start)
        return made, self.loss_of({**self.values, **made})

    def refresh(self, start: int) -> None:
        """Compute again what lies behind a node."""
        self.values |= self.computed(start)
        self.loss = self.loss_of(self.values)

    def codes(self, layer: Layer) -> NDArray[np.int64]:
        """Return the codes of a layer's weight."""
        return self.module.weight_quants(layer.weight)[layer.weight].codes

    def limits(self, layer: Layer) -> Tensor:
        """Return the limits of signed digits of a layer's weight, the very tensor."""
        limits = self.module.weight_quantizers()[layer.weight].max_digits
        assert limits is not None  # checked by descent_on
        return limits

    def set_code(self, layer: Layer, at: tuple[int, ...], code: int) -> int:
        """Give a weight a code and as many digits as it takes; return the code before."""
        quant = self.module.weight_quants(layer.weight)[layer.weight]
        codes, before = quant.codes.copy(), int(quant.codes[at])
        codes[at] = code
        self.limits(layer)[at] = int(count_digits(code))
        write_weight_(self.module, layer, codes * by_rows(quant.scale, codes))
        return before

    def measured(self, place: Place, layer: Layer, code: int) -> float:
        """Return the loss with another code, which is taken back."""
        before = self.set_code(layer, place[1], code)
        _, loss = self.tried(place[0])
        self.set_code(layer, place[1], before)
        return loss

    def promising(self) -> list[tuple[Place, int]]:
        """Return the pruned weights that the loss changes fastest with, each with a code of one digit downhill."""
        gradients, found = self._gradients(), []
        for start, layer in self.layers().items():
            codes, gradient = self.codes(layer), gradients[layer.weight]
            quant = self.module.weight_quants()[layer.weight]
            scale = np.broadcast_to(quant.scale, len(codes))
            typical = float(np.median(np.abs(codes[codes != 0]))) if codes.any() else 1.0
            size = int(2 ** round(np.log2(max(typical / 2, 1.0))))  # half of what weights of this layer have
            size = min(size, (quant.qtype.qmax + 1) // 4 or 1)  # twice as much is tried, too
            for place in np.argwhere((codes == 0) & (gradient != 0)):
                at = tuple(int(i) for i in place)
                speed = abs(float(gradient[at])) * size * float(scale[at[0]])
                found.append((speed, start, at, -size if gradient[at] > 0 else size))
        return [((start, at), code) for _, start, at, code in sorted(found, reverse=True)[:_GROWTH]]

    def _gradients(self) -> dict[str, NDArray[np.float64]]:
        """Return the gradient of the loss by every folded weight, pruned ones included."""
        with weight_probes(self.module) as probes, torch.enable_grad():
            loss = F.cross_entropy(single_output(self.module, self.x), self.y)
            found = torch.autograd.grad(loss, list(probes.values()))
        return {name: g.double().cpu().numpy() for name, g in zip(probes, found, strict=True)}


@contextmanager
def descent_on(module: QuantModule, split: Split, n_samples: int, seed: int) -> Iterator[Descent]:
    """Yield the state of a search on some samples; the module's mode is restored.

    Raises:
        QuantError: A weight has no limits.
    """
    for name, quantizer in module.weight_quantizers().items():
        if quantizer.max_digits is None:
            raise QuantError(
                f"{name}: no limits of signed digits, so there are no codes to choose among. Sparsify first."
            )
    index = np.sort(np.random.default_rng(seed).permutation(len(split))[:n_samples])
    device = device_of(module)
    x, y = (torch.as_tensor(values[index], device=device) for values in (split.x, split.y))
    mode, training = module.mode, module.training
    module.eval()
    module.set_mode_("fake")
    try:
        yield Descent(module, x, y)
    finally:
        module.set_mode_(mode).train(training)


_T = TypeVar("_T", bound=np.generic)


def by_rows(scale: NDArray[np.float64], codes: NDArray[_T]) -> NDArray[np.float64]:
    """Return scales, one or one a row, so that they multiply codes ``[O, ...]``."""
    return np.broadcast_to(scale, len(codes)).reshape(-1, *([1] * (codes.ndim - 1)))
