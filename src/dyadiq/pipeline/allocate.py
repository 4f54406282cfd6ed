"""Stage ``allocate``: the bits of least predicted loss within the budget, or the uniform bits of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.plan import BitPlan, uniform_plan
from dyadiq.pipeline.stage import Stage, StageContext

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
        plan = allocate(
            table,
            budget,
            bits=bits,
            activation_bits=recipe.analyze.activation_bits or bits,
            progress=context.progress,
        )
    save_plan(context.folder / "plan.json", plan)


def priced_uniform_plan(facts: NetworkFacts, weight_bits: int, activation_bits: int) -> BitPlan:
    """Return a uniform plan with its costs in every metric."""
    from dyadiq.cost import cost_tables

    plan = uniform_plan(facts, weight_bits, activation_bits)
    tables = cost_tables(facts, [weight_bits], [activation_bits])
    return replace(plan, costs={name: table.total(plan.bits) for name, table in tables.items()})


STAGE = Stage("allocate", "choose the bits", ("analyze",), ("analyze", "allocate"), _run)
