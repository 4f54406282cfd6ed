"""Nested containers, so that a flat mapping of dotted names gets exactly these names in a state dict.

Used by `quant.module` for the model's parameters (``layer1.0.conv1.weight``) and for its quantizers.
Knows nothing about quantization. Children are put straight into torch's own dictionaries: a part of a name may be
anything (``mode``, ``0``), also what `nn.Module` uses as an attribute; tensors are therefore found by name only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

__all__ = ["Scope", "add_module_", "add_tensors_", "tensors_by_name"]


class Scope(nn.Module):
    """An empty container; holds what its name spans."""


def add_tensors_(
    root: nn.Module,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    *,
    frozen: Collection[str] = (),
    unsaved: Collection[str] = (),
) -> None:
    """Register parameters and buffers under their dotted names.

    Args:
        root: Gets them.
        parameters: By name.
        buffers: By name.
        frozen: Names of parameters that ask for no gradient.
        unsaved: Names of buffers that the state dict leaves out.

    Example:
        >>> root = Scope()
        >>> import torch
        >>> add_tensors_(root, {"conv.0.weight": torch.ones(1)}, {"bn.running_mean": torch.zeros(1)})
        >>> list(root.state_dict())
        ['conv.0.weight', 'bn.running_mean']
    """
    for name, value in parameters.items():
        scope, leaf = _scope_of(root, name)
        scope._parameters[leaf] = nn.Parameter(value, requires_grad=name not in frozen)
    for name, value in buffers.items():
        scope, leaf = _scope_of(root, name)
        scope._buffers[leaf] = value
        if name in unsaved:
            scope._non_persistent_buffers_set.add(leaf)


def add_module_(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under its dotted name; what was below that name stays below it."""
    scope, leaf = _scope_of(root, name)
    below = scope._modules.get(leaf)
    if below is not None:
        module._modules.update(below._modules)
    scope._modules[leaf] = module


def tensors_by_name(root: nn.Module, *, skip: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, shared ones under each, without the top-level scopes in ``skip``."""
    found: dict[str, Tensor] = dict(root.named_parameters(remove_duplicate=False))
    found.update(root.named_buffers(remove_duplicate=False))
    prefixes = tuple(f"{name}." for name in skip)
    return {name: value for name, value in found.items() if not (prefixes and name.startswith(prefixes))}


def _scope_of(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the container of a dotted name, made where it was not, and the last part of the name."""
    *path, leaf = name.split(".")
    scope = root
    for part in path:
        below = scope._modules.get(part)
        if below is None:
            below = scope._modules[part] = Scope()
        scope = below
    return scope, leaf
