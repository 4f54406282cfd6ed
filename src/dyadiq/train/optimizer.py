"""Which parameters are trained how: groups, and the optimizer that steps them.

Used by `loop` and `finetune`. Knows quantizers only by their name, ``quantizers.``.
Sources: Kingma and Ba 2015 (adam), Loshchilov and Hutter 2019 (adamw), Nesterov momentum as in Sutskever et al. 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dyadiq.core.errors import ConfigError
from dyadiq.train.config import TrainConfig

__all__ = ["QUANTIZER_PREFIX", "NamedOptimizer", "make_optimizer"]

QUANTIZER_PREFIX = "quantizers."


@dataclass(frozen=True)
class NamedOptimizer:
    """An optimizer together with the names of its parameters, in its own order.

    Attributes:
        optimizer: Steps the parameters; every group carries ``peak_lr``.
        names: Parameter names in the order of the optimizer's state.
        penalized: Weights under the L1 penalty.
    """

    optimizer: Optimizer
    names: tuple[str, ...]
    penalized: tuple[Tensor, ...]

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of every group to ``factor`` of its peak."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state, flat: ``<parameter>/<key>`` to tensor."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{self.names[index]}/{key}": value
            for index, entry in state.items()
            for key, value in entry.items()
            if value is not None
        }

    def load_state(self, flat: Mapping[str, Tensor]) -> None:
        """Set the state that `state` returned."""
        index_of = {name: index for index, name in enumerate(self.names)}
        state: dict[int, dict[str, Tensor]] = {}
        for path, value in flat.items():
            name, _, key = path.rpartition("/")
            state.setdefault(index_of[name], {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def make_optimizer(model: nn.Module, config: TrainConfig) -> NamedOptimizer:
    """Return an optimizer with three groups: weights (decayed), vectors (not), quantizer scales (own rate, not).

    Raises:
        ConfigError: The model has nothing to train.

    Example:
        >>> named = make_optimizer(nn.Linear(2, 3), TrainConfig(weight_decay=0.1))
        >>> named.names, [group["weight_decay"] for group in named.optimizer.param_groups]
        (('weight', 'bias'), [0.1, 0.0])
    """
    weights, vectors, scales = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(QUANTIZER_PREFIX):
            scales.append((name, parameter))
        elif parameter.ndim >= 2:
            weights.append((name, parameter))
        else:
            vectors.append((name, parameter))
    if not (weights or vectors or scales):
        raise ConfigError(
            f"training: {type(model).__name__} has no parameter that requires a gradient; nothing to train."
        )
    rate = config.learning_rate
    plan = (
        (weights, rate, config.weight_decay),
        (vectors, rate, 0.0),
        (scales, rate * config.scale_rate_frac, 0.0),
    )
    groups = [
        {"params": [p for _, p in members], "lr": peak, "peak_lr": peak, "weight_decay": decay}
        for members, peak, decay in plan
        if members
    ]
    optimizer: Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)
    elif config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups)
    else:
        optimizer = torch.optim.Adam(groups)
    return NamedOptimizer(
        optimizer=optimizer,
        names=tuple(name for members, _, _ in plan for name, _ in members),
        penalized=tuple(p for _, p in weights),
    )
