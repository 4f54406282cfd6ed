"""Stage ``allocate``: the bits of least predicted loss within the budget, or the uniform bits of the recipe.

With ``[allocate.refine]`` the plan of least predicted loss is then improved by measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.plan import BitPlan, uniform_plan
from dyadiq.core.tables import CostTable
from dyadiq.pipeline.candidates import ROUNDING
from dyadiq.pipeline.refine import measurements
from dyadiq.pipeline.sources import graph
from dyadiq.pipeline.stage import Stage, StageContext
from dyadiq.pipeline.targets import CIRCUIT, circuit_depth, recipe_target
from dyadiq.recipe import HardwareSection

__all__ = ["STAGE", "priced_uniform_plan"]


def _run(context: StageContext) -> None:
    from dyadiq.allocation import allocate
    from dyadiq.core.store import load_table, save_plan

    recipe = context.recipe
    table = load_table(context.path("analyze", "sensitivity.safetensors"))
    uniform, budget = recipe.allocate.uniform, recipe.allocate.budget
    if uniform is not None:
        plan = priced_uniform_plan(table.facts, uniform.weight, uniform.activation)
    else:
        assert budget is not None  # the recipe has one of the two
        bits: Sequence[int] = recipe.analyze.bits
        activation_bits = recipe.analyze.activation_bits or bits
        section = recipe.allocate.refine
        measured = section and measurements(context, table.facts, section, bits, activation_bits)
        proposing, guarding = measured or (None, None)
        plan = allocate(
            table,
            budget,
            bits=bits,
            activation_bits=activation_bits,
            costs=_hardware_costs(context, table.facts, bits, activation_bits)
            | _engine_costs(context, table.facts, bits, activation_bits),
            refine_by=proposing,
            refine_guard=guarding,
            refine_rounds=section.max_rounds if section else 0,
            progress=context.progress,
        )
    save_plan(context.folder / "plan.json", plan)


def _hardware_costs(
    context: StageContext, facts: NetworkFacts, bits: Sequence[int], activation_bits: Sequence[int]
) -> dict[str, CostTable]:
    """Return all costs of circuits if one of them is budgeted: layers are traced once, and kept in the run folder."""
    from dyadiq.fpga.circuit_config import CircuitConfig
    from dyadiq.fpga.costs import HARDWARE_COSTS, hardware_cost_tables
    from dyadiq.fpga.limits import MAX_LUTS
    from dyadiq.ir.passes import canonicalize

    section = context.recipe.allocate
    if not set(section.budget or ()) & set(HARDWARE_COSTS):
        return {}
    hardware = context.recipe.hardware or HardwareSection()
    device = hardware.devices[0].lower()
    config = CircuitConfig(device, circuit_depth(hardware, device), section.clock_mhz, section.max_luts or MAX_LUTS)
    return hardware_cost_tables(
        canonicalize(graph(context)),
        facts,
        bits,
        activation_bits,
        config=config,
        cache=context.run / "cache" / "layer_traces.json",
        progress=context.progress,
    )


def _engine_costs(
    context: StageContext, facts: NetworkFacts, bits: Sequence[int], activation_bits: Sequence[int]
) -> dict[str, CostTable]:
    """Return the budgeted costs on this machine's engine: networks are timed once, and kept in the run folder."""
    from dyadiq.engine.costs import ENGINE_COSTS
    from dyadiq.ir.passes import canonicalize
    from dyadiq.targets.engine import EngineTarget

    target = recipe_target(context.recipe, "engine")
    assert isinstance(target, EngineTarget)
    config = target.config  # the times of what will be exported
    return {
        metric: ENGINE_COSTS[metric](
            canonicalize(graph(context)),
            facts,
            bits,
            activation_bits,
            algorithms=config.algorithms,
            threads=config.threads,
            cache=context.run / "cache" / f"{metric}.json",
            progress=context.progress,
        )
        for metric in context.recipe.allocate.budget or ()
        if metric in ENGINE_COSTS
    }


def priced_uniform_plan(facts: NetworkFacts, weight_bits: int, activation_bits: int) -> BitPlan:
    """Return a uniform plan with its costs in every metric."""
    from dyadiq.cost import cost_tables

    plan = uniform_plan(facts, weight_bits, activation_bits)
    tables = cost_tables(facts, [weight_bits], [activation_bits])
    return replace(plan, costs={name: table.total(plan.bits) for name, table in tables.items()})


STAGE = Stage(
    "allocate",
    "choose the bits",
    ("data", "capture", "distill", "analyze"),
    ("data", "quant", "analyze", "allocate", "export.options", *CIRCUIT, *ROUNDING),
    _run,
)
