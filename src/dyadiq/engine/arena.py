"""Where buffers lie in the arena: those that live at the same time never overlap. With a checker that proves it.

Used by `compile` and target `c`. The largest buffers are placed first, each in the tightest gap that those alive with
it leave (the usual heuristic; Pisarchyk and Lee 2020, "greedy by size").
"""

from __future__ import annotations

from collections.abc import Sequence

from dyadiq.core.errors import GraphError
from dyadiq.engine.plan import EnginePlan

__all__ = ["check_arena", "find_offsets", "lifetimes", "place_"]

_ALIGNMENT = 64
_SLACK = 64  # bytes behind the last buffer that kernels may read


def place_(plan: EnginePlan) -> None:
    """Give every buffer its offset and the plan its size.

    Raises:
        GraphError: Two buffers would overlap (a bug; checked every time).
    """
    spans = lifetimes(plan)
    offsets = find_offsets([buffer.n_bytes for buffer in plan.buffers], spans)
    for buffer, offset in zip(plan.buffers, offsets, strict=True):
        buffer.offset = offset
    ends = [offset + _aligned(buffer.n_bytes) for buffer, offset in zip(plan.buffers, offsets, strict=True)]
    plan.arena_bytes = max(ends, default=0) + _SLACK
    check_arena(plan)


def find_offsets(sizes: Sequence[int], spans: Sequence[tuple[int, int]], alignment: int = _ALIGNMENT) -> list[int]:
    """Return where every buffer lies, at multiples of the alignment; those whose spans meet never overlap.

    Args:
        sizes: Bytes of every buffer.
        spans: First and last step that touches it.
        alignment: Of offsets.

    Example:
        >>> find_offsets([100, 60, 200], [(0, 1), (1, 2), (2, 3)])
        [0, 256, 0]
    """
    offsets: dict[int, int] = {}
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        first, last = spans[index]
        taken = [
            (start, start + _aligned(sizes[other], alignment))
            for other, start in offsets.items()
            if spans[other][0] <= last and first <= spans[other][1]
        ]
        offsets[index] = _tightest(sorted(taken), _aligned(sizes[index], alignment))
    return [offsets[index] for index in range(len(sizes))]


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


def _aligned(n_bytes: int, alignment: int = _ALIGNMENT) -> int:
    return -(-n_bytes // alignment) * alignment
