"""Where buffers lie in the arena: those that live at the same time never overlap. With a checker that proves it.

Used by `compile`. The largest buffers are placed first, each in the tightest gap that those alive with it leave
(the usual heuristic; Pisarchyk and Lee 2020, "greedy by size").
"""

from __future__ import annotations

from dyadiq.core.errors import GraphError
from dyadiq.engine.plan import EnginePlan

__all__ = ["check_arena", "lifetimes", "place_"]

_ALIGNMENT = 64
_SLACK = 64  # bytes behind the last buffer that kernels may read


def place_(plan: EnginePlan) -> None:
    """Give every buffer its offset and the plan its size.

    Raises:
        GraphError: Two buffers would overlap (a bug; checked every time).
    """
    spans = lifetimes(plan)
    placed: list[int] = []
    for index in sorted(range(len(plan.buffers)), key=lambda i: (-plan.buffers[i].n_bytes, i)):
        buffer, (first, last) = plan.buffers[index], spans[index]
        taken = []
        for other in placed:
            start = plan.buffers[other].offset
            if start is not None and spans[other][0] <= last and first <= spans[other][1]:
                taken.append((start, start + _aligned(plan.buffers[other].n_bytes)))
        buffer.offset = _tightest(sorted(taken), _aligned(buffer.n_bytes))
        placed.append(index)
    ends = [(buffer.offset or 0) + _aligned(buffer.n_bytes) for buffer in plan.buffers]
    plan.arena_bytes = max(ends, default=0) + _SLACK
    check_arena(plan)


def lifetimes(plan: EnginePlan) -> list[tuple[int, int]]:
    """Return the first and last step that touches each buffer.

    Raises:
        GraphError: A buffer is read before anything wrote it, or never used.
    """
    spans: dict[int, tuple[int, int]] = {}
    for at, step in enumerate(plan.steps):
        for ref in step.reads:
            if ref.buffer not in spans:
                raise GraphError(f"{step.name}: the engine would read buffer {ref.buffer} before it is written.")
        for ref in (*step.reads, *step.writes):
            spans[ref.buffer] = (spans.get(ref.buffer, (at, at))[0], at)
    unused = set(range(len(plan.buffers))) - set(spans)
    if unused:
        raise GraphError(f"the engine has buffers that no step uses: {sorted(unused)}.")
    return [spans[index] for index in range(len(plan.buffers))]


def check_arena(plan: EnginePlan) -> None:
    """Prove that no two buffers alive at one step share a byte, and that all lie inside the arena.

    Raises:
        GraphError: They do, or do not.
    """
    spans = lifetimes(plan)
    regions = []
    for index, buffer in enumerate(plan.buffers):
        start = buffer.offset
        if start is None or start % _ALIGNMENT or start + buffer.n_bytes + _SLACK > plan.arena_bytes:
            raise GraphError(f"the engine's buffer {index} lies outside its arena of {plan.arena_bytes} bytes.")
        regions.append((spans[index], start, start + buffer.n_bytes))
    for i, (span, start, end) in enumerate(regions):
        for j, (other, begin, stop) in enumerate(regions[:i]):
            alive = other[0] <= span[1] and span[0] <= other[1]
            if alive and begin < end and start < stop:
                raise GraphError(f"the engine's buffers {j} and {i} overlap.")


def _tightest(taken: list[tuple[int, int]], size: int) -> int:
    """Return the start of the smallest gap between taken regions that is large enough; else their end."""
    best, best_gap, end = None, None, 0
    for start, stop in taken:
        gap = start - end
        if gap >= size and (best_gap is None or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, stop)
    return end if best is None else best


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
