"""Plans under a quadratic loss: cross terms between decisions, by local search with a proven lower bound.

    minimise  sum_d loss[d][x_d] + 1/2 sum_{d != e} cross[(d, x_d), (e, x_e)]   within the budgets

Used by `allocate` only when asked, and only with a measured check: on well-trained networks such cross terms mislead
at large perturbations, so they are shrunk, and a plan is taken only if a measurement on held-back samples accepts it.

Search: single changes and changes of two decisions at once, best first, from the additive optimum and from random
feasible plans (an explicit seed). Bound (for one budget or several, as far as `solve` is exact): split the matrix into
a diagonal part D, linear in x since x is binary, and a convex rest R = Q - diag(D); for any point y,

    1/2 x'Rx >= y'Rx - 1/2 y'Ry,   so   min_x (linear + 1/2 D + R y)'x - 1/2 y'Ry   bounds every plan,

where the minimum over plans is an additive problem, solved exactly; y moves towards its solutions (Frank-Wolfe).
Sources: Frank and Wolfe 1956; Billionnet and Elloumi 2007 for the diagonal shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.problem import Choice, Problem
from dyadiq.allocation.solve import solve
from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import Interactions

__all__ = ["Guarded", "Measure", "Quadratic", "QuadraticSolution", "cross_terms", "guard", "solve_quadratic"]

Floats = NDArray[np.float64]
Measure = Callable[[Mapping[str, int]], float]

_RESTARTS = 8
_BOUND_STEPS = 60
_KICKS = 4  # decisions changed at random by a restart


@dataclass(frozen=True)
class Quadratic:
    """A problem with cross terms.

    Attributes:
        problem: Options, budgets and the additive loss (the diagonal).
        cross: ``[n, n]`` over all options of all decisions in order; symmetric, zero on the diagonal. Entries within a
            decision never count, since only one of its options is taken; those of a Gram matrix help the bound.
    """

    problem: Problem
    cross: Floats

    def objective(self, choice: Sequence[int]) -> float:
        """Return the loss of a choice, cross terms included."""
        taken = self.index(choice)
        return self.problem.objective(choice) + 0.5 * float(self.cross[np.ix_(taken, taken)].sum())

    def index(self, choice: Sequence[int]) -> NDArray[np.int64]:
        """Return the positions of the chosen options among all options."""
        starts = np.cumsum([0, *map(len, self.problem.loss)])[:-1]
        positions: NDArray[np.int64] = starts + np.asarray(choice, dtype=np.int64)
        return positions


@dataclass(frozen=True, slots=True)
class QuadraticSolution:
    """The best plan found; no feasible plan has a loss below ``lower_bound``."""

    choice: Choice
    objective: float
    lower_bound: float
    method: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """Which of two plans a measurement preferred."""

    choice: Choice
    accepted: bool
    measured_additive: float
    measured_quadratic: float


def cross_terms(problem: Problem, interactions: Interactions, shrinkage: float) -> Quadratic:
    """Return the problem with the cross terms of a table, times ``shrinkage``.

    Options that the interactions do not hold have none. The diagonal of the matrix is not used: the problem's losses
    are.

    Raises:
        ConfigError: ``shrinkage`` outside [0, 1], or a matrix that does not fit its index.
    """
    if not 0.0 <= shrinkage <= 1.0:
        raise ConfigError(f"interactions: the shrinkage must be in [0, 1], got {shrinkage}.")
    n = len(interactions.index)
    if interactions.matrix.shape != (n, n):
        raise ConfigError(f"interactions: a matrix of {list(interactions.matrix.shape)} for {n} entries.")
    where = {key: i for i, key in enumerate(interactions.index)}
    place = np.array(
        [where.get((n, b), -1) for n, options in zip(problem.names, problem.options, strict=True) for b in options]
    )
    known = place >= 0
    cross = np.where(known[:, None] & known[None, :], interactions.matrix[np.ix_(place, place)] * shrinkage, 0.0)
    np.fill_diagonal(cross, 0.0)
    return Quadratic(problem, 0.5 * (cross + cross.T))


def solve_quadratic(
    quadratic: Quadratic, *, seed: int = 0, restarts: int = _RESTARTS, bound_steps: int = _BOUND_STEPS
) -> QuadraticSolution | None:
    """Return the best plan of a local search with restarts, and a proven lower bound; None if nothing is feasible.

    Args:
        quadratic: The problem with its cross terms.
        seed: Of the restarts.
        restarts: How many times the search starts again from a changed plan.
        bound_steps: Frank-Wolfe steps; each solves one additive problem exactly.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=100)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> cross = np.zeros((4, 4))
        >>> cross[1, 3] = cross[3, 1] = 1.0
        >>> found = solve_quadratic(Quadratic(problem, cross))
        >>> found.choice, found.objective
        ((1, 0), 0.25)
    """
    problem = quadratic.problem
    start = solve(problem)
    if start is None:
        return None
    search = _Search(quadratic)
    best = search.descend(start.choice)
    generator = np.random.default_rng(seed)
    for _ in range(restarts):
        found = search.descend(search.kick(best, generator))
        if quadratic.objective(found) < quadratic.objective(best):
            best = found
    bound, corners = _bound(quadratic, best, bound_steps)
    for corner in corners:
        found = search.descend(corner)
        if quadratic.objective(found) < quadratic.objective(best):
            best = found
    objective = quadratic.objective(best)
    method = f"local search over one and two changes, {restarts} restarts; bound by a convex split, {bound_steps} steps"
    return QuadraticSolution(best, objective, min(objective, bound), method)


def guard(problem: Problem, additive: Choice, quadratic: Choice, measure: Measure) -> Guarded:
    """Return the quadratic plan only if a measurement says that it is better than the additive one.

    Args:
        problem: For the widths of a choice.
        additive: The plan without cross terms.
        quadratic: The plan with them.
        measure: Decision to bits to a loss measured on samples that neither plan was made from; less is better.
    """
    if additive == quadratic:
        value = measure(problem.bits(additive))
        return Guarded(additive, False, value, value)
    plain, crossed = measure(problem.bits(additive)), measure(problem.bits(quadratic))
    return Guarded(quadratic if crossed < plain else additive, crossed < plain, plain, crossed)


class _Search:
    """Steepest descent over feasible single and double changes, all options flat."""

    def __init__(self, quadratic: Quadratic) -> None:
        problem = quadratic.problem
        self._problem = problem
        self._group = np.repeat(np.arange(len(problem.loss)), [len(row) for row in problem.loss])
        self._starts = np.cumsum([0, *map(len, problem.loss)])[:-1]
        self._loss = np.array([v for row in problem.loss for v in row])
        self._cross = np.where(self._group[:, None] == self._group[None, :], 0.0, quadratic.cross)

    def descend(self, choice: Choice) -> Choice:
        """Take the best change of one or two decisions while it lowers the loss."""
        now = list(choice)
        cross, group = self._cross, self._group
        while True:
            taken = self._starts + np.array(now)
            force = self._loss + cross[:, taken].sum(axis=1)
            gain = force - force[taken][group]  # of one change
            here = taken[group]
            pull = cross - cross[here] - cross[:, here] + cross[np.ix_(here, here)]
            both = gain[:, None] + gain[None, :] + pull
            both[group[:, None] == group[None, :]] = np.inf
            np.fill_diagonal(both, gain)
            both[np.tril_indices(len(both), -1)] = np.inf
            tolerance = 1e-12 * max(1e-300, float(np.abs(force[taken]).sum()))
            order = np.flatnonzero(both.ravel() < -tolerance)
            order = order[np.argsort(both.ravel()[order], kind="stable")]
            for flat in order.tolist():
                i, j = divmod(flat, len(both))
                trial = list(now)
                for option in {i, j}:
                    trial[group[option]] = int(option - self._starts[group[option]])
                if self._problem.is_feasible(trial):
                    now = trial
                    break
            else:
                return tuple(now)

    def kick(self, choice: Choice, generator: np.random.Generator) -> Choice:
        """Change a few decisions at random; back towards the given plan until it is feasible."""
        now = list(choice)
        moved = generator.choice(len(now), size=min(_KICKS, len(now)), replace=False).tolist()
        for d in moved:
            now[d] = int(generator.integers(len(self._problem.loss[d])))
        for d in moved:
            if self._problem.is_feasible(now):
                break
            now[d] = choice[d]
        return tuple(now)


def _bound(quadratic: Quadratic, start: Choice, steps: int) -> tuple[float, list[Choice]]:
    """Return a lower bound on every feasible plan, and the plans that came up on the way."""
    problem = quadratic.problem
    n = len(quadratic.cross)
    loss = np.array([v for row in problem.loss for v in row])
    diagonal = _convex_shift(quadratic.cross, loss)
    rest = quadratic.cross + np.diag(diagonal)
    sizes = [len(row) for row in problem.loss]
    linear = loss - 0.5 * diagonal  # x_i^2 = x_i for binary x
    y = np.zeros(n)
    y[quadratic.index(start)] = 1.0
    best, seen = -np.inf, []
    for _ in range(steps):
        pull = rest @ y
        price = linear + pull
        rows = iter(price.tolist())
        found = solve(replace(problem, loss=tuple(tuple(next(rows) for _ in range(k)) for k in sizes)))
        if found is None:
            break
        best = max(best, found.lower_bound - 0.5 * float(y @ pull))
        seen.append(found.choice)
        corner = np.zeros(n)
        corner[quadratic.index(found.choice)] = 1.0
        direction = corner - y
        slope = float(direction @ price)
        curve = float(direction @ rest @ direction)
        if slope >= 0 or (curve <= 0 and slope == 0):
            break
        y = y + (min(1.0, -slope / curve) if curve > 0 else 1.0) * direction
    # Of float64 sums and of the eigenvalue.
    margin = 1e-10 * float(np.abs(loss).max(initial=0.0) + diagonal.max(initial=0.0)) * len(sizes)
    return float(best) - margin, list(dict.fromkeys(seen))[-8:]


def _convex_shift(cross: Floats, loss: Floats) -> Floats:
    """Return a diagonal that makes the matrix positive semidefinite, in proportion to the losses themselves.

    With a Gram matrix, whose diagonal is twice the losses, at most that is needed. Where losses span many orders of
    magnitude, an equal shift of all would swamp the small ones.
    """
    weight = np.maximum(2.0 * np.abs(loss), 1e-12 * float(np.abs(loss).max(initial=0.0)) + 1e-300)
    root = np.sqrt(weight)
    least = float(np.linalg.eigvalsh(cross / root[:, None] / root[None, :])[0])
    shift: Floats = max(0.0, -least) * (1 + 1e-9) * weight
    return shift
