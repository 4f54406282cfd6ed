"""HAWQ's order of fine-tuning: the network becomes quantized block by block, the most sensitive first.

Used by `finetune`. A block is one weight with the activations its layers read. Blocks are taken by falling expected
loss increase at the widths of the plan,

    Omega_i = what `analyze` measured for weight i at its width

(HAWQ-V1: top eigenvalue times squared error; V2: mean trace times squared error; here whatever method made the table),
so that the largest disturbances have the longest time to heal. What is not yet quantized runs in float. From the last
update on the whole network is quantized, and only then may an epoch be kept as the best.
Source: Dong et al. 2019, "HAWQ: Hessian AWare Quantization of Neural Networks", section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import SensitivityTable
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.module import QuantModule

__all__ = ["BlockSchedule", "BlockwiseConfig", "omega_order"]


@dataclass(frozen=True, slots=True)
class BlockwiseConfig:
    """In which order, and how fast.

    Attributes:
        order: Weight names, the first block first; see `omega_order`.
        frac: Share of all epochs after which everything is quantized, in (0, 1).

    Raises:
        ConfigError: A share out of range, or an order that is empty or names a weight twice.

    Example:
        >>> BlockwiseConfig(("conv1.weight", "fc.weight")).frac
        0.5
    """

    order: tuple[str, ...]
    frac: float = 0.5

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value out of range.
        """
        if not 0 < self.frac < 1:
            raise ConfigError(f"blockwise: frac must be in (0, 1), got {self.frac}.")
        twice = sorted({name for name in self.order if self.order.count(name) > 1})
        if not self.order or twice:
            raise ConfigError(f"blockwise: order must name every weight once, got {twice or 'none'}.")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def omega_order(table: SensitivityTable, module: QuantModule) -> tuple[str, ...]:
    """Return the weights of a module by falling expected loss increase at their widths.

    Raises:
        ConfigError: The table lacks a weight, or its width.
    """
    omega = {}
    for name in module.weight_quantizers():
        omega[name] = table.value(name, module.plan.bits[name])
    return tuple(sorted(omega, key=lambda name: -omega[name]))


class BlockSchedule:
    """Switches quantizers on before epochs; a function of the epoch only.

    Attributes:
        final_epoch: From this epoch on everything is quantized.
    """

    def __init__(self, module: QuantModule, config: BlockwiseConfig, n_epochs: int) -> None:
        """Find the blocks.

        Raises:
            ConfigError: The order does not name the module's weights, or there are too few epochs.
        """
        self._module = module
        self._blocks = _blocks(module, config.order)
        self.final_epoch = math.ceil(config.frac * n_epochs)
        if self.final_epoch >= n_epochs:
            raise ConfigError(
                f"blockwise: of {n_epochs} epochs none is left after a share of {config.frac}. Use more epochs."
            )

    def __call__(self, epoch: int) -> dict[str, Any]:
        """Switch on the blocks of this epoch, and off all others; return how many there are: ``blocks``."""
        done = min(1.0, (epoch + 1) / (self.final_epoch + 1))
        n_blocks = math.ceil(len(self._blocks) * done)
        enabled = {name for block in self._blocks[:n_blocks] for name in block}
        for name, quantizer in self._module.quantizers_by_name().items():
            quantizer.enabled = name in enabled or n_blocks == len(self._blocks)
        return {"blocks": n_blocks}

    def finish(self) -> None:
        """Switch on everything."""
        for quantizer in self._module.quantizers_by_name().values():
            quantizer.enabled = True


def _blocks(module: QuantModule, order: Sequence[str]) -> list[list[str]]:
    """Return the decisions of each block; activations belong to the first block that reads them.

    Raises:
        ConfigError: The order does not name the module's weights.
    """
    weights = module.weight_quantizers()
    missing, unknown = sorted(set(weights) - set(order)), sorted(set(order) - set(weights))
    if missing or unknown:
        raise ConfigError(f"blockwise: order lacks {missing or 'none'} and has unknown {unknown or 'none'}.")
    inputs: dict[str, list[str]] = {name: [] for name in order}
    for layer in network_facts(canonicalize(module.graph), module.config, fixed_size_bytes=0).layers:
        inputs[layer.weight].append(layer.input)
    taken: set[str] = set()
    blocks = []
    for name in order:
        block = [name, *(x for x in dict.fromkeys(inputs[name]) if x not in taken)]
        taken.update(block)
        blocks.append(block)
    return blocks
