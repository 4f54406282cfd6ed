"""Pair costs away: decisions that share a cost become one group with the product of their options.

Used before the knapsack solver. With BOPs, a weight meets only the activation its layer reads, so the groups are small
stars: one activation with the weights of its consumers. A decision with a single option joins nothing; its pair costs
become plain costs of the partner. Exact: costs and losses of members are added, no equality rows are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from dyadiq.allocation.problem import Choice, Constraint, Problem

__all__ = ["Merged", "merge_pairs"]

_MAX_GROUP_OPTIONS = 4096


@dataclass(frozen=True, slots=True)
class Merged:
    """A problem without pair costs, and how its groups map back.

    Attributes:
        problem: One decision per group; its options are indices into ``members``.
        groups: Decisions of each group.
        members: Per group and option, the option of each decision of the group.
        n_decisions: Decisions of the original problem.
    """

    problem: Problem
    groups: tuple[tuple[int, ...], ...]
    members: tuple[tuple[Choice, ...], ...]
    n_decisions: int

    def expand(self, choice: Choice) -> Choice:
        """Return the choice in the original problem."""
        full = [0] * self.n_decisions
        for group, options, o in zip(self.groups, self.members, choice, strict=True):
            for decision, option in zip(group, options[o], strict=True):
                full[decision] = option
        return tuple(full)


def merge_pairs(problem: Problem) -> Merged | None:
    """Return an equivalent problem without pair costs; None if a group would have more than 4096 options.

    Example:
        >>> from dyadiq.allocation.problem import Pair
        >>> bops = Constraint("bops", ((0, 0), (0, 0)), 40, (Pair(0, 1, ((4, 8), (8, 16))),))
        >>> merged = merge_pairs(Problem(("w", "x"), ((2, 4), (2, 4)), ((1.0, 0.0), (1.0, 0.0)), (bops,)))
        >>> merged.problem.constraints[0].unary, merged.expand((2,))
        (((4, 8, 8, 16),), (1, 0))
    """
    if not any(constraint.pairs for constraint in problem.constraints):
        alone = tuple((d,) for d in range(len(problem.names)))
        return Merged(problem, alone, tuple(tuple((o,) for o in range(len(r))) for r in problem.loss), len(alone))
    groups = _components(problem)
    members = []
    for group in groups:
        if math.prod(len(problem.options[d]) for d in group) > _MAX_GROUP_OPTIONS:
            return None
        members.append(tuple(product(*(range(len(problem.options[d])) for d in group))))
    constraints = tuple(_merge_constraint(problem, c, groups, members) for c in problem.constraints)
    loss = tuple(
        tuple(math.fsum(problem.loss[d][o] for d, o in zip(group, option, strict=True)) for option in options)
        for group, options in zip(groups, members, strict=True)
    )
    reduced = Problem(
        names=tuple("+".join(problem.names[d] for d in group) for group in groups),
        options=tuple(tuple(range(len(options))) for options in members),
        loss=loss,
        constraints=constraints,
    )
    return Merged(reduced, tuple(groups), tuple(members), len(problem.names))


def _components(problem: Problem) -> list[tuple[int, ...]]:
    """Return connected decisions, in order of their first member; single options connect nothing."""
    root = list(range(len(problem.names)))

    def find(d: int) -> int:
        while root[d] != d:
            d = root[d]
        return d

    for constraint in problem.constraints:
        for pair in constraint.pairs:
            if len(problem.options[pair.a]) > 1 and len(problem.options[pair.b]) > 1:
                a, b = find(pair.a), find(pair.b)
                root[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for d in range(len(root)):
        members.setdefault(find(d), []).append(d)
    return [tuple(members[r]) for r in sorted(members)]


def _merge_constraint(
    problem: Problem, constraint: Constraint, groups: list[tuple[int, ...]], members: list[tuple[Choice, ...]]
) -> Constraint:
    place = {d: (g, k) for g, group in enumerate(groups) for k, d in enumerate(group)}
    unary = [
        [sum(constraint.unary[d][o] for d, o in zip(group, option, strict=True)) for option in options]
        for group, options in zip(groups, members, strict=True)
    ]
    for pair in constraint.pairs:
        (group_a, at_a), (group_b, at_b) = place[pair.a], place[pair.b]
        # In different groups one of the two has a single option, and the other one's group carries the cost.
        host = group_b if len(problem.options[pair.a]) == 1 else group_a
        for i, option in enumerate(members[host]):
            a = option[at_a] if host == group_a else 0
            b = option[at_b] if host == group_b else 0
            unary[host][i] += pair.table[a][b]
    return Constraint(constraint.name, tuple(map(tuple, unary)), constraint.limit, (), constraint.fixed)
