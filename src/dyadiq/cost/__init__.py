"""Cost models: what a choice of bits costs, in exact integers. One file a metric, one line here.

A cost model is a function ``(facts, weight_bits, activation_bits) -> CostTable`` over all candidate widths. It states
its unit, its kind (exact, measured, simulated, estimated, published) and its definition, and gives the float32
network's cost as the 100 % of relative budgets. To add one: write a file like `macs_bops.py`, add its line to `COSTS`,
and let the conformance test in tests/unit/cost run over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from dyadiq.core.errors import UnknownNameError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable
from dyadiq.cost.bops import bops_cost
from dyadiq.cost.energy import energy_cost
from dyadiq.cost.facts import network_facts
from dyadiq.cost.macs_bops import macs_bops_cost
from dyadiq.cost.options import candidate_bits
from dyadiq.cost.size import size_cost
from dyadiq.cost.weight_bits import weight_bits_cost

__all__ = ["COSTS", "CostModel", "candidate_bits", "cost_tables", "network_facts"]

CostModel = Callable[[NetworkFacts, Sequence[int], Sequence[int]], CostTable]

COSTS: Mapping[str, CostModel] = MappingProxyType(
    {
        "size": size_cost,
        "bops": bops_cost,
        "macs_bops": macs_bops_cost,
        "energy": energy_cost,
        "weight_bits": weight_bits_cost,
    }
)


def cost_tables(
    facts: NetworkFacts,
    bits: Sequence[int],
    activation_bits: Sequence[int] = (8,),
    metrics: Iterable[str] | None = None,
) -> dict[str, CostTable]:
    """Return cost tables by metric name, over the given candidate widths.

    Args:
        facts: The network.
        bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        metrics: Names in `COSTS`; None means all of them.

    Raises:
        UnknownNameError: A metric is not registered.
        ConfigError: Candidates are empty or out of range.

    Example:
        >>> facts = NetworkFacts((), ())
        >>> sorted(cost_tables(facts, [8], metrics=["size", "bops"]))
        ['bops', 'size']
    """
    names = tuple(COSTS) if metrics is None else tuple(metrics)
    for name in names:
        if name not in COSTS:
            raise UnknownNameError("cost metric", name, COSTS)
    return {name: COSTS[name](facts, bits, activation_bits) for name in names}
