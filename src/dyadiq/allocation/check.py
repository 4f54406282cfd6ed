"""The last word on a plan: its costs in exact Python integers against the limits.

Used by `allocate` on every answer, whatever solver it came from. Reads cost tables, not the solver's model of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from dyadiq.core.errors import VerificationError
from dyadiq.core.tables import CostTable

__all__ = ["check_budgets"]


def check_budgets(costs: Mapping[str, CostTable], limits: Mapping[str, int], bits: Mapping[str, int]) -> dict[str, int]:
    """Return the exact cost of a plan per limited metric, after checking every limit.

    Raises:
        VerificationError: A limit is exceeded; names every one. A solver's answer must never do this.
        ConfigError: A cost table has no entry for the plan's widths.

    Example:
        >>> size = CostTable("size", "byte", "exact", "bytes", {"w": {4: 64, 8: 128}}, fixed=10)
        >>> check_budgets({"size": size}, {"size": 100}, {"w": 4})
        {'size': 74}
    """
    used = {metric: costs[metric].total(bits) for metric in limits}
    broken = [f"{m}: {used[m]:,} {costs[m].unit}, limit {limits[m]:,}" for m in limits if used[m] > limits[m]]
    if broken:
        raise VerificationError(
            f"the solver's plan breaks its budget in exact arithmetic ({'; '.join(broken)}). "
            "This is a bug of the solver; please report it with the sensitivity table."
        )
    return used
