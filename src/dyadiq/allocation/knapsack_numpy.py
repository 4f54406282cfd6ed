"""The knapsack solver in numpy: what `knapsack` uses where the native one is not built.

The same steps on the same integers as native/allocation/knapsack.hpp, which explains them, so that both give the same
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
_BRANCH_MARGIN = 4 * _MARGIN  # where losses of two solves meet

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
    above: float = 0.0
    multiplier: float = 0.0
    core: int = 0
    labels: int = 0
    widest: int = -1
    positions: int = 0


@dataclass(slots=True)
class _Relaxed:
    """The choice of the relaxation; ``room`` is negative where nothing fits."""

    positions: list[int]
    held: set[int]
    room: int
    broken: int = 0
    multiplier: float = 0.0
    spread: float = 0.0


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

    def bound(self, capacity: int, fixed: list[tuple[int, int]]) -> float:
        """Return a loss, counted like ``above``, that no choice is below; infinite if nothing fits."""
        start = self._relax(capacity, fixed)
        if start.room < 0:
            return math.inf
        most = start.multiplier * start.room
        return start.spread - most - _BRANCH_MARGIN * (start.spread + most)

    def solve(
        self, capacity: int, max_labels: int, thin: bool, fixed: list[tuple[int, int]], cutoff: float
    ) -> NumpyKnapsackAnswer:
        """Return the best choice within the capacity, groups held where fixed, losses above the cutoff of no use."""
        groups = self._groups
        start = self._relax(capacity, fixed)
        if start.room < 0:
            return NumpyKnapsackAnswer(feasible=False, choice=[0] * len(groups))
        relaxed, room, multiplier, spread = start.positions, start.room, start.multiplier, start.spread
        if start.broken == len(self._steps):
            return NumpyKnapsackAnswer(feasible=True, choice=self._publish(relaxed), unconstrained=True, above=spread)
        # The unit of losses: a power of two, from the loss of the relaxed choice above the least losses.
        shift = _LOSS_BITS - math.frexp(spread)[1]
        lam, ceiling = math.ldexp(multiplier, shift), math.ldexp(spread, shift)
        margin = _MARGIN * (ceiling + lam * room)
        with np.errstate(over="ignore"):  # infinite: above every ceiling, as it would be with more digits
            losses = [np.ldexp(group.loss - group.loss[-1], shift) for group in groups]
        best, best_cost, best_loss = self._complete(start, losses)
        others = math.ldexp(cutoff, shift)
        known = others - ceiling + _BRANCH_MARGIN * (others + ceiling)
        core = _core(groups, start, losses, lam, ceiling, min(best_loss, known) + lam * room + margin)
        search = _Search(core, lam, room, margin, best_cost, best_loss, known)
        search.run(max_labels, thin)
        if search.path is not None:
            best = list(relaxed)
            for taken, move in zip(core, search.path, strict=False):
                best[taken.group] = int(taken.positions[move])
        answer = NumpyKnapsackAnswer(feasible=True, choice=self._publish(best), multiplier=multiplier)
        answer.core, answer.labels = search.depth, search.labels
        answer.above = math.ldexp(ceiling + search.best_loss, -shift)
        answer.proven = not search.stopped
        widths = [int(c.cost[-1] - c.cost[0]) for c in core]
        if widths:
            answer.widest = min(c.group for c, width in zip(core, widths, strict=True) if width == max(widths))
            answer.positions = len(groups[answer.widest].index)
        if search.dropped < search.best_loss:
            answer.proven = False
            answer.slack = math.ldexp(search.best_loss - search.dropped + margin, -shift)
        return answer

    def _relax(self, capacity: int, fixed: list[tuple[int, int]]) -> _Relaxed:
        groups = self._groups
        out = _Relaxed([0] * len(groups), {g for g, _ in fixed}, capacity - self._cheapest)
        for g, position in fixed:
            out.positions[g] = position
            out.room -= int(groups[g].cost[position] - groups[g].cost[0])
        if out.room < 0:
            return out
        for saving, g, position, cost in self._steps:
            if g not in out.held:
                if cost > out.room:
                    out.multiplier = saving
                    break
                out.positions[g] = position
                out.room -= cost
            out.broken += 1
        for group, at in zip(groups, out.positions, strict=True):
            out.spread += float(group.loss[at] - group.loss[-1])
        return out

    def _complete(self, start: _Relaxed, losses: list[Floats]) -> tuple[list[int], int, int]:
        """Go on greedily from the relaxed choice: positions, cost and loss above it."""
        best, best_cost, best_loss = list(start.positions), 0, 0
        for _, g, to, _ in self._steps[start.broken :]:
            at = best[g]
            more = int(self._groups[g].cost[to] - self._groups[g].cost[at])
            if g not in start.held and to > at and more <= start.room - best_cost:
                best_cost += more
                best_loss += round(float(losses[g][to])) - round(float(losses[g][at]))
                best[g] = to
        return (best, best_cost, best_loss) if best_loss < 0 else (list(start.positions), 0, 0)

    def _publish(self, positions: list[int]) -> list[int]:
        return [group.index[p] for group, p in zip(self._groups, positions, strict=True)]


class _Search:
    """Labels (cost, loss) above the relaxed choice, over the core group by group."""

    def __init__(
        self, core: list[_Core], lam: float, room: int, margin: float, cost: int, loss: int, known: float
    ) -> None:
        self._core, self._lam, self._room, self._margin, self._known = core, lam, room, margin, known
        self.best_cost, self.best_loss = cost, loss
        self.path: list[int] | None = None  # moves of the first groups of the core, where better than the start
        self.dropped = math.inf  # least bound of labels that were given up
        self.depth = self.labels = 0
        self.stopped = False

    def run(self, max_labels: int, thin: bool) -> None:
        core, lam, room, margin = self._core, self._lam, self._room, self._margin
        gain, toll, freed = _outlook(core)
        cost, loss = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        trail: list[tuple[Ints, Ints]] = []
        end: tuple[int, int] | None = None
        while self.depth < len(core) and cost.size and not self.stopped:
            group = core[self.depth]
            self.depth += 1
            now = min(self.best_loss, self._known) + lam * room + margin
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
                useful = found[0] <= self._known + margin  # others are not kept
                if improved := useful and found < (self.best_loss, self.best_cost):
                    self.best_loss, self.best_cost = found
            left = (room - new_cost[alive]).astype(np.float64)
            rate = np.where(left >= 0, gain[self.depth], toll[self.depth])
            # Exactly at the capacity nothing can change the bound, and 0 * inf must not.
            bound = new_loss[alive] - np.where(left == 0, 0.0, left) * np.where(left == 0, 0.0, rate)
            kept = np.flatnonzero(bound <= min(self.best_loss, self._known) + margin)
            self.stopped = kept.size > max_labels and not thin
            if kept.size > max_labels and thin:
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
    groups: list[_Group], start: _Relaxed, losses: list[Floats], lam: float, ceiling: float, reach: float
) -> list[_Core]:
    """Return the groups with another option within the distance of the bounds, nearest first."""
    core = []
    for g, (group, at, loss) in enumerate(zip(groups, start.positions, losses, strict=True)):
        if g in start.held:
            continue
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
