"""What a recipe asks of registries, checked before anything runs: a typo must not cost a training.

Names of models, data sets, methods, costs and targets; arguments of the model and options of the data set; amounts
of the budget; group sizes against the model's own layers.
Used by `pipeline.run`. The recipe itself knows no registry, so that reading one imports nothing heavy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dyadiq.core.errors import ConfigError, MissingToolError, QuantError, UnknownNameError
from dyadiq.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_finetuning", "check_names"]


def check_names(recipe: Recipe) -> None:
    """Check every name, argument and amount that only registries understand.

    Raises:
        ConfigError: Names that no registry has, arguments that do not fit, amounts that are none; all are listed.
    """
    _check_meters(recipe)
    problems = [*_unknown_names(recipe), *_data_options(recipe), *_model_arguments(recipe), *_amounts(recipe)]
    problems += [*_target_options(recipe), *_hardware(recipe)]
    if problems:
        plural = "" if len(problems) == 1 else "s"
        raise ConfigError("\n  ".join([f"recipe {recipe.name!r}: {len(problems)} problem{plural}.", *problems]))


def check_finetuning(recipe: Recipe) -> None:
    """Check that a run calibrated without data does not train on them in silence.

    Raises:
        ConfigError: ``[distill]`` beside fine-tuning that was not asked for.
    """
    epochs = recipe.finetune.epochs
    if recipe.distill is not None and epochs > 0 and not recipe.finetune.real_data:
        raise ConfigError(
            f"recipe {recipe.name!r}: [distill] takes the place of training samples, but [finetune] would train on "
            f"them for {epochs} epochs. Say finetune.epochs = 0, or finetune.real_data = true if that is meant."
        )


def _unknown_names(recipe: Recipe) -> list[str]:
    from dyadiq.allocation.limits import AVERAGE_BITS
    from dyadiq.cost import COSTS
    from dyadiq.curvature import METHODS
    from dyadiq.engine.costs import ENGINE_COSTS
    from dyadiq.fpga.costs import HARDWARE_COSTS
    from dyadiq.quant.reconstruct import METHODS as RECONSTRUCTIONS
    from dyadiq.targets import TARGETS
    from dyadiq.zoo import DATASETS, MODELS

    priced = [*COSTS, *HARDWARE_COSTS, *ENGINE_COSTS, AVERAGE_BITS]
    asked: list[tuple[str, str, Iterable[str], Iterable[str]]] = [
        ("data.name", "data set", [recipe.data.name], DATASETS),
        ("model.name", "model", [] if _is_outside(recipe.model.name) else [recipe.model.name], MODELS),
        ("analyze.method", "method", [recipe.analyze.method], METHODS),
        ("analyze.budget", "cost metric", recipe.analyze.budget or (), [*COSTS, AVERAGE_BITS]),
        ("allocate.budget", "cost metric", recipe.allocate.budget or (), priced),
        ("reconstruct.methods", "reconstruction method", recipe.reconstruct.methods, RECONSTRUCTIONS),
        ("verify.against", "target", recipe.verify.against, TARGETS),
        ("verify.if_available", "target", recipe.verify.if_available, TARGETS),
        ("export.to", "target", recipe.export.to, TARGETS),
    ]
    return [
        f"{key}: {UnknownNameError(kind, name, known)}"
        for key, kind, names, known in asked
        for name in names
        if name not in known
    ]


def _is_outside(name: str) -> bool:
    """Whether a model is a function or an ONNX file of the user."""
    from dyadiq.zoo.onnx_model import is_onnx_name

    return ":" in name or is_onnx_name(name)


def _target_options(recipe: Recipe) -> list[str]:
    from dyadiq.targets import get_target

    problems = [
        f"verify.limits: {name!r} is not among verify.against: {', '.join(recipe.verify.against)}."
        for name in recipe.verify.limits
        if name not in (*recipe.verify.against, *recipe.verify.if_available)
    ]
    for name, options in recipe.export.options.items():
        try:
            get_target(name).configured(**options)
        except ConfigError as err:
            problems.append(f"export.options: {err}")
    return problems


def _hardware(recipe: Recipe) -> list[str]:
    """Return devices that do not exist, and programs that are not installed: they are needed hours later."""
    from dyadiq.fpga.devices import DEVICES
    from dyadiq.fpga.tools import find_tool

    section = recipe.hardware
    if section is None:
        if recipe.accept.max_lut is not None:
            return ["accept.max_lut: LUTs are counted by the section [hardware], which is missing."]
        return []
    names = [name.lower() for name in section.devices]
    problems = [f"hardware.devices: {UnknownNameError('device', n, DEVICES)}" for n in names if n not in DEVICES]
    parts = [DEVICES[name] for name in names if name in DEVICES]
    tools = ["yosys", *(part.placer.tool for part in parts if part.placer is not None and section.place)]
    for tool in dict.fromkeys(tools):
        try:
            find_tool(tool)
        except MissingToolError as err:
            problems.append(f"hardware: {err}")
    return problems


def _data_options(recipe: Recipe) -> list[str]:
    from dyadiq.zoo import DATASETS

    if recipe.data.name not in DATASETS:
        return []
    signature = inspect.signature(DATASETS[recipe.data.name])
    try:
        signature.bind(**{"seed": recipe.seed, "data_dir": None, **recipe.data.options})
    except TypeError as err:
        known = ", ".join(signature.parameters)
        return [f"data.options: data set {recipe.data.name!r}: {err}. It takes {known}."]
    return []


def _model_arguments(recipe: Recipe) -> list[str]:
    """Build the model once, as the float stage will; a wrong argument shows at once."""
    from dyadiq.pipeline.sources import fresh_model
    from dyadiq.zoo import MODELS

    if not _is_outside(recipe.model.name) and recipe.model.name not in MODELS:
        return []
    try:
        model = fresh_model(recipe)
    except ConfigError as err:
        return [str(err) if str(err).startswith("model.") else f"model: {err}"]
    return [*_group_sizes(recipe, model), *_nothing_to_distil_from(recipe, model)]


def _nothing_to_distil_from(recipe: Recipe, model: nn.Module) -> list[str]:
    """Return that data-free calibration cannot work, where the model surely remembers nothing: it has no buffer."""
    if recipe.distill is None or any(True for _ in model.buffers()):
        return []
    return [
        f"distill: model {recipe.model.name!r} has no batch norm, whose running statistics are all that a network "
        "remembers of its training data. Leave [distill] out: a few real samples (calibrate.n_samples = 16 or more) do."
    ]


def _group_sizes(recipe: Recipe, model: nn.Module) -> list[str]:
    import torch

    from dyadiq.core.affine import check_group_size

    size = recipe.quant.weight.group_size
    problems = []
    for name, module in model.named_modules() if size is not None else ():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            assert size is not None
            try:
                check_group_size(size, math.prod(module.weight.shape[1:]), name=f"{name}.weight")
            except QuantError as err:
                problems.append(f"quant.weight: {err}")
    return problems


def _check_meters(recipe: Recipe) -> None:
    """Check that layers can be traced or timed where a budget asks for it.

    Raises:
        ConfigError: ``DYADIQ_ISA`` names kernels that this machine does not run.
        MissingDependencyError: da4ml is not installed.
        MissingToolError: The native module was not built.
    """
    from dyadiq.engine import chosen_isa
    from dyadiq.engine.costs import ENGINE_COSTS
    from dyadiq.fpga.adder_graph import find_solver
    from dyadiq.fpga.costs import HARDWARE_COSTS

    if set(recipe.allocate.budget or ()) & set(HARDWARE_COSTS):
        find_solver()
    if set(recipe.allocate.budget or ()) & set(ENGINE_COSTS):
        chosen_isa()


def _amounts(recipe: Recipe) -> list[str]:
    from dyadiq.allocation.limits import AVERAGE_BITS, parse_limits
    from dyadiq.core.facts import NetworkFacts
    from dyadiq.core.units import parse_budget
    from dyadiq.cost import COSTS, cost_tables
    from dyadiq.engine.costs import ENGINE_COSTS
    from dyadiq.fpga.costs import HARDWARE_COSTS, hardware_cost_tables
    from dyadiq.ir.graph import Graph

    budget = recipe.allocate.budget or {}
    nothing = NetworkFacts((), ())
    tables = cost_tables(nothing, [8], metrics=[metric for metric in budget if metric in COSTS])
    circuits = [metric for metric in budget if metric in HARDWARE_COSTS]
    empty = Graph("float", (), (), (), {}, {})
    tables |= hardware_cost_tables(empty, nothing, [8], [8], circuits)
    tables |= {metric: ENGINE_COSTS[metric](empty, nothing, [8], [8]) for metric in budget if metric in ENGINE_COSTS}
    problems = []
    if AVERAGE_BITS in budget:
        widths = {metric: budget[metric] for metric in (AVERAGE_BITS, "weight_bits") if metric in budget}
        try:
            parse_limits(widths, tables, nothing)
        except ConfigError as err:
            problems.append(f"allocate.{err}")
    for metric, table in tables.items():
        # How much the float network costs is not known yet; that there is a cost to take a percentage of, is.
        reference = None if table.reference is None else 10**12
        try:
            parse_budget(
                budget[metric], metric=metric, unit=table.unit, reference=reference, plain_unit=table.plain_unit
            )
        except ConfigError as err:
            problems.append(f"allocate.{err}")
    return problems
