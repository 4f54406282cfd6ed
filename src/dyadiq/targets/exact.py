"""The torch executor as a target: what `QuantModule` returns in exact mode. Torch is imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import prove
from dyadiq.ir.serialize import load_program
from dyadiq.targets.base import Problems
from dyadiq.targets.reference import ReferenceTarget

__all__ = ["ExactTarget"]

_FLOAT64_BITS = 53


class ExactTarget(ReferenceTarget):
    """The target ``exact``: sums of products in float64, everything else in int64."""

    name: ClassVar[str] = "exact"

    def check(self, program: IntegerProgram) -> list[str]:
        """Refuse partial sums that float64 would round.

        Raises:
            ExportError: Names every node whose partial sums may leave 53 bits.
            ProofError: A tensor may leave its declared type.
        """
        bounds, problems = prove(program), Problems(self.name)
        for node in program.graph.nodes:
            top = int(bounds[node.output].partial.max())
            if top >= 1 << _FLOAT64_BITS:
                problems.add(node, f"partial sums may reach {top}, beyond {_FLOAT64_BITS} bits of float64")
        problems.raise_if_any("Use fewer bits.")
        return []

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        """Load the artifact and run it in torch.

        Raises:
            ArtifactError: Missing or damaged file.
            DataError: Inputs missing, of the wrong shape, or not finite.
        """
        from dyadiq.quant.exact import run_exact  # torch only when it runs

        return run_exact(load_program(self.existing_file(path)), inputs)
