"""The knapsack solver in numpy: what `knapsack` uses where the native one is not built.

The same steps on the same integers as native/allocation/knapsack.cpp, which explains them, so that both give the same
plans; tests compare the two with each other and with brute force. Some ten times slower for 54 layers.
Sources: Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"; Dyer 1984.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NumpyKnapsack", "NumpyKnapsackAnswer"]

_LOSS_BITS = 58  # of the relaxed choice's loss; sums of a few such fit an int64
_MARGIN = 2.0**-42  # of the sizes that enter a bound; float64 errors stay well inside

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(slots=True)
class NumpyKnapsackAnswer:
    """An answer; the fields are those of the native ``KnapsackAnswer``."""

    feasible: bool
    choice: list[int]
    proven: bool = True
    unconstrained: bool = False
    slack: float = 0.0
    multiplier: float = 0.0
    core: int = 0
    labels: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Undominated options of one decision: cost strictly rises, loss strictly falls."""

    index: list[int]
    cost: Ints
    loss: Floats


@dataclass(frozen=True, slots=True)
class _Core:
    """One group of the core: its moves away from the relaxed position, that position among them."""

    group: int
    key: float
    positions: Ints
    cost: Ints
    loss: Ints
    excess: Floats


class NumpyKnapsack:
    """Groups sorted once, for any number of capacities. Takes what the native ``Knapsack`` takes."""

    def __init__(self, offsets: Ints, cost: Ints, loss: Floats) -> None:
        self._groups = [
            _undominated(cost[a:b], loss[a:b]) for a, b in zip(offsets.tolist(), offsets.tolist()[1:], strict=False)
        ]
        steps: list[tuple[float, int, int, int]] = []
        for g, group in enumerate(self._groups):
            at, previous = 0, math.inf
            while at < len(group.index) - 1:
                savings = (group.loss[at] - group.loss[at + 1 :]) / (group.cost[at + 1 :] - group.cost[at])
                to = at + 1 + int(np.flatnonzero(savings == savings.max())[-1])
                # Savings fall along a hull; rounding must not let one rise and put the steps of a group out of order.
                previous = min(previous, float(savings.max()))
                steps.append((previous, g, to, int(group.cost[to] - group.cost[at])))
                at = to
        self._steps = sorted(steps, key=lambda s: -s[0])
        self._cheapest = sum(int(group.cost[0]) for group in self._groups)
        self._spent = np.cumsum([self._cheapest, *(s[3] for s in self._steps)], dtype=np.int64)

    def corners(self, most: int) -> list[list[int]]:
        """Return choices on the lower convex hull of (cost, loss), cheapest first: all, or ``most`` evenly chosen."""
        steps = self._steps
        # Steps of equal saving are one edge of the hull: only its far end is a corner.
        ends = [0, *(i + 1 for i in range(len(steps)) if i + 1 == len(steps) or steps[i + 1][0] != steps[i][0])]
        if len(ends) > most:
            ends = [ends[i * (len(ends) - 1) // (most - 1)] for i in range(most)]
        now = [group.index[0] for group in self._groups]
        found, done = [], 0
        for end in ends:
            for _, g, position, _ in steps[done:end]:
                now[g] = self._groups[g].index[position]
            found.append(list(now))
            done = end
        return found

    def solve(self, capacity: int, max_labels: int) -> NumpyKnapsackAnswer:
        """Return the best choice within the capacity."""
        groups = self._groups
        if self._cheapest > capacity:
            return NumpyKnapsackAnswer(feasible=False, choice=[0] * len(groups))
        broken = int(np.searchsorted(self._spent, capacity, side="right")) - 1  # first step that does not fit
        relaxed = [0] * len(groups)
        for _, g, position, _ in self._steps[:broken]:
            relaxed[g] = position
        if broken == len(self._steps):
            return NumpyKnapsackAnswer(feasible=True, choice=self._publish(relaxed), unconstrained=True)
        room = capacity - int(self._spent[broken])
        multiplier = self._steps[broken][0]
        # The unit of losses: a power of two, from the loss of the relaxed choice above the least losses.
        spread = 0.0
        for group, at in zip(groups, relaxed, strict=True):
            spread += float(group.loss[at] - group.loss[-1])
        shift = _LOSS_BITS - math.frexp(spread)[1]
        lam, ceiling = math.ldexp(multiplier, shift), math.ldexp(spread, shift)
        margin = _MARGIN * (ceiling + lam * room)
        with np.errstate(over="ignore"):  # infinite: above every ceiling, as it would be with more digits
            losses = [np.ldexp(group.loss - group.loss[-1], shift) for group in groups]
        best, best_cost, best_loss = self._complete(relaxed, broken, room, losses)
        core = _core(groups, relaxed, losses, lam, ceiling, best_loss + lam * room + margin)
        search = _Search(core, lam, room, margin, best_cost, best_loss)
        search.run(max_labels)
        if search.path is not None:
            best = list(relaxed)
            for taken, move in zip(core, search.path, strict=False):
                best[taken.group] = int(taken.positions[move])
        answer = NumpyKnapsackAnswer(feasible=True, choice=self._publish(best), multiplier=multiplier)
        answer.core, answer.labels = search.depth, search.labels
        if search.dropped < search.best_loss:
            answer.proven = False
            answer.slack = math.ldexp(search.best_loss - search.dropped + margin, -shift)
        return answer

    def _complete(self, relaxed: list[int], broken: int, room: int, losses: list[Floats]) -> tuple[list[int], int, int]:
        """Go on greedily from the relaxed choice: positions, cost and loss above it."""
        best, best_cost, best_loss = list(relaxed), 0, 0
        for _, g, to, _ in self._steps[broken:]:
            at = best[g]
            more = int(self._groups[g].cost[to] - self._groups[g].cost[at])
            if to > at and more <= room - best_cost:
                best_cost += more
                best_loss += round(float(losses[g][to])) - round(float(losses[g][at]))
                best[g] = to
        return (best, best_cost, best_loss) if best_loss < 0 else (list(relaxed), 0, 0)

    def _publish(self, positions: list[int]) -> list[int]:
        return [group.index[p] for group, p in zip(self._groups, positions, strict=True)]


class _Search:
    """Labels (cost, loss) above the relaxed choice, over the core group by group."""

    def __init__(self, core: list[_Core], lam: float, room: int, margin: float, cost: int, loss: int) -> None:
        self._core, self._lam, self._room, self._margin = core, lam, room, margin
        self.best_cost, self.best_loss = cost, loss
        self.path: list[int] | None = None  # moves of the first groups of the core, where better than the start
        self.dropped = math.inf  # least bound of labels that were given up
        self.depth = self.labels = 0

    def run(self, max_labels: int) -> None:
        core, lam, room, margin = self._core, self._lam, self._room, self._margin
        gain, toll, freed = _outlook(core)
        cost, loss = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        trail: list[tuple[Ints, Ints]] = []
        end: tuple[int, int] | None = None
        while self.depth < len(core) and cost.size:
            group = core[self.depth]
            self.depth += 1
            now = self.best_loss + lam * room + margin
            usable = np.flatnonzero((group.excess <= now) | (group.cost == 0))
            new_cost = (group.cost[usable, None] + cost).ravel()
            new_loss = (group.loss[usable, None] + loss).ravel()
            alive = np.flatnonzero((new_cost - freed[self.depth] <= room) & (new_loss + lam * new_cost <= now))
            alive = alive[np.lexsort((new_loss[alive], new_cost[alive]))]
            if alive.size:
                least = np.minimum.accumulate(new_loss[alive])
                alive = alive[np.append(True, new_loss[alive][1:] < least[:-1])]
            # The best that is complete as it stands: the dearest label within the capacity has the least loss.
            n_within = int(np.searchsorted(new_cost[alive], room, side="right"))
            improved = False
            if n_within:
                found = (int(new_loss[alive[n_within - 1]]), int(new_cost[alive[n_within - 1]]))
                if improved := found < (self.best_loss, self.best_cost):
                    self.best_loss, self.best_cost = found
            left = (room - new_cost[alive]).astype(np.float64)
            rate = np.where(left >= 0, gain[self.depth], toll[self.depth])
            # Exactly at the capacity nothing can change the bound, and 0 * inf must not.
            bound = new_loss[alive] - np.where(left == 0, 0.0, left) * np.where(left == 0, 0.0, rate)
            kept = np.flatnonzero(bound <= self.best_loss + margin)
            if kept.size > max_labels:
                kept = self._thin(kept, bound, new_cost[alive], improved, max_labels)
            alive = alive[kept]
            trail.append((alive % cost.size, usable[alive // cost.size]))
            cost, loss = new_cost[alive], new_loss[alive]
            if improved:
                end = (self.depth - 1, int(np.searchsorted(cost, self.best_cost)))
            self.labels = max(self.labels, cost.size)
        if end is not None:
            depth, at = end
            path = []
            for parents, moves in reversed(trail[: depth + 1]):
                path.append(int(moves[at]))
                at = int(parents[at])
            self.path = path[::-1]

    def _thin(self, kept: Ints, bound: Floats, cost: Ints, improved: bool, max_labels: int) -> Ints:
        """Give up the least promising labels; the certificate says so."""
        first = (cost[kept] != self.best_cost) if improved else np.ones(kept.size, dtype=bool)
        order = np.lexsort((bound[kept], first))
        self.dropped = min(self.dropped, float(bound[kept[order[max_labels:]]].min()))
        return np.sort(kept[order[:max_labels]])


def _undominated(cost: Ints, loss: Floats) -> _Group:
    index: list[int] = []
    for o in np.lexsort((loss, cost)).tolist():
        if not index or loss[o] < loss[index[-1]]:
            index.append(o)
    return _Group(index, cost[index], loss[index])


def _core(
    groups: list[_Group], relaxed: list[int], losses: list[Floats], lam: float, ceiling: float, reach: float
) -> list[_Core]:
    """Return the groups with another option within the distance of the bounds, nearest first."""
    core = []
    for g, (group, at, loss) in enumerate(zip(groups, relaxed, losses, strict=True)):
        more = group.cost - group.cost[at]
        excess = (loss - loss[at]) + lam * more
        usable = (loss <= ceiling) & (excess <= reach)  # above the ceiling: worse than a known choice
        usable[at] = True
        positions = np.flatnonzero(usable)
        if positions.size > 1:
            others = positions[positions != at]
            key = float((np.maximum(0.0, excess[others]) / np.abs(more[others])).min())
            units = (np.rint(loss[positions]) - np.rint(loss[at])).astype(np.int64)
            core.append(_Core(g, key, positions, more[positions], units, excess[positions]))
    return sorted(core, key=lambda c: c.key)


def _outlook(core: list[_Core]) -> tuple[list[float], list[float], list[int]]:
    """Return what the groups from i on can do at best: save per cost added, lose per cost freed, free in all."""
    gain, toll, freed = [0.0], [math.inf], [0]
    for group in reversed(core):
        rates = -group.loss[group.cost != 0] / group.cost[group.cost != 0]
        dearer = group.cost[group.cost != 0] > 0
        gain.append(max(gain[-1], float(rates[dearer].max(initial=0.0))))
        toll.append(min(toll[-1], float(rates[~dearer].min(initial=math.inf))))
        freed.append(freed[-1] - min(0, int(group.cost[0])))
    return gain[::-1], toll[::-1], freed[::-1]
