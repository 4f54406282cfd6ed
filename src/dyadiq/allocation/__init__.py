"""Bit allocation: from losses and costs to the plan of least loss within the budgets, with a proof.

`allocate` is the call. The solvers take a `Problem` of plain numbers and can be used alone: `solve_knapsack` (one
budget, exact), `solve_milp` (several budgets and pair costs), `solve_k_best`, `solve_brute_force` (the oracle).
`RegretRule` says whether a decision is sure enough to stop measuring.
"""

from __future__ import annotations

from dyadiq.allocation.allocate import allocate
from dyadiq.allocation.brute_force import solve_brute_force
from dyadiq.allocation.k_best import solve_k_best
from dyadiq.allocation.knapsack import Knapsack, solve_knapsack
from dyadiq.allocation.milp import solve_milp
from dyadiq.allocation.problem import Constraint, Pair, Problem, Solution, build_problem
from dyadiq.allocation.solve import solve
from dyadiq.allocation.stability import RegretRule, decision_stability

__all__ = [
    "Constraint",
    "Knapsack",
    "Pair",
    "Problem",
    "RegretRule",
    "Solution",
    "allocate",
    "build_problem",
    "decision_stability",
    "solve",
    "solve_brute_force",
    "solve_k_best",
    "solve_knapsack",
    "solve_milp",
]
