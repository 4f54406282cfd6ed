"""Programs whose weights have few values, for tests of kernels that look them up in a table."""

import numpy as np

from programs import ProgramBuilder

__all__ = ["POWERS", "FewValues"]

# Sixteen: 0, and powers of two of both signs.
POWERS = np.array([0, *(sign * 2**k for k in range(7) for sign in (-1, 1)), -128])


class FewValues(ProgramBuilder):
    """Emits weights of these values, whatever their type has."""

    values = POWERS

    def _codes(self, qtype, shape):
        return self.rng.choice(self.values, shape)
