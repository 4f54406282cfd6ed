"""Dyadiq: a trained PyTorch network and a budget in, one exact integer program out.

    >>> import dyadiq as dq
    >>> dq.Format(4).bits
    4

The public face. Names are loaded when first used, so that importing the package stays fast and free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyadiq.allocation import RegretRule, allocate
    from dyadiq.core.errors import DyadiqError
    from dyadiq.core.facts import NetworkFacts, QuantConfig
    from dyadiq.core.format import Format
    from dyadiq.core.plan import BitPlan, uniform_plan
    from dyadiq.core.qtype import QType
    from dyadiq.core.tables import CostTable, SensitivityTable
    from dyadiq.cost import network_facts
    from dyadiq.curvature.analyze import analyze
    from dyadiq.curvature.plan_losses import plan_losses
    from dyadiq.files import load, save
    from dyadiq.ir.capture import capture
    from dyadiq.ir.graph import Graph
    from dyadiq.ir.integer import IntegerProgram
    from dyadiq.ir.passes import canonicalize
    from dyadiq.ir.reference import run_reference
    from dyadiq.ir.residuals import separate_residuals
    from dyadiq.pipeline.run import run_recipe
    from dyadiq.quant.exact import run_exact
    from dyadiq.quant.lower import lower
    from dyadiq.quant.module import QuantModule
    from dyadiq.quant.quantize import quantize
    from dyadiq.quant.reconstruct import reconstruct_
    from dyadiq.recipe import load_recipe
    from dyadiq.targets.export import export
    from dyadiq.targets.verify import verify
    from dyadiq.train import finetune
    from dyadiq.zero_shot import Distilled, distill

__version__ = "0.1.0.dev0"

_HOMES = {
    "BitPlan": "core.plan",
    "CostTable": "core.tables",
    "Distilled": "zero_shot",
    "DyadiqError": "core.errors",
    "Format": "core.format",
    "Graph": "ir.graph",
    "IntegerProgram": "ir.integer",
    "NetworkFacts": "core.facts",
    "QType": "core.qtype",
    "QuantConfig": "core.facts",
    "QuantModule": "quant.module",
    "RegretRule": "allocation",
    "SensitivityTable": "core.tables",
    "allocate": "allocation",
    "analyze": "curvature.analyze",
    "canonicalize": "ir.passes",
    "capture": "ir.capture",
    "distill": "zero_shot",
    "export": "targets.export",
    "finetune": "train",
    "load_recipe": "recipe",
    "load": "files",
    "lower": "quant.lower",
    "network_facts": "cost",
    "plan_losses": "curvature.plan_losses",
    "quantize": "quant.quantize",
    "reconstruct_": "quant.reconstruct",
    "run_exact": "quant.exact",
    "run_recipe": "pipeline.run",
    "run_reference": "ir.reference",
    "save": "files",
    "separate_residuals": "ir.residuals",
    "uniform_plan": "core.plan",
    "verify": "targets.verify",
}

__all__ = [
    "BitPlan",
    "CostTable",
    "Distilled",
    "DyadiqError",
    "Format",
    "Graph",
    "IntegerProgram",
    "NetworkFacts",
    "QType",
    "QuantConfig",
    "QuantModule",
    "RegretRule",
    "SensitivityTable",
    "allocate",
    "analyze",
    "canonicalize",
    "capture",
    "distill",
    "export",
    "finetune",
    "load",
    "load_recipe",
    "lower",
    "network_facts",
    "plan_losses",
    "quantize",
    "reconstruct_",
    "run_exact",
    "run_recipe",
    "run_reference",
    "save",
    "separate_residuals",
    "uniform_plan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dyadiq' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dyadiq.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
