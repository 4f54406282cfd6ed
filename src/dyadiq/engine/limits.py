"""Which programs the engine cannot run: it computes in int32, with 64 bits between accumulator and code.

Used by target `engine` and `latency_cost` before they compile.
"""

from __future__ import annotations

import numpy as np

from dyadiq.engine.plan import INT32_RANGE
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import prove

__all__ = ["find_uncompilable"]

_INT32 = INT32_RANGE[1]


def find_uncompilable(program: IntegerProgram) -> list[tuple[Node, str]]:
    """Return the nodes that the engine cannot run, each with the reason.

    Raises:
        ProofError: A tensor may leave its declared type.
    """
    bounds, found = prove(program), []
    for node in program.graph.nodes:
        bound = bounds[node.output]
        if int(max(np.abs(bound.low).max(), np.abs(bound.high).max(), bound.partial.max())) > _INT32:
            found.append((node, "its values or partial sums may leave 32 bits. Use fewer bits"))
        elif any(abs(int(node.attrs.get(key, 0))) > _INT32 for key in ("zero_point", "clip_min", "clip_max")):
            found.append((node, "its limits leave 32 bits. Use fewer bits"))
    return found
