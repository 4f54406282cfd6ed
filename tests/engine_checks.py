"""Whether compiled programs give the reference's integers here, and whether files are refused, for tests of kernels."""

import itertools

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError
from dyadiq.core.native import native_state
from dyadiq.engine import EngineProgram, available_isas, write_engine_file
from dyadiq.ir.reference import run_reference

__all__ = ["assert_equal", "assert_refused", "built"]

built = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")


def assert_equal(plan, program, inputs, path, threads=(1, 2)):
    """The reference's integers from a program as compiled, by every instruction set, in one thread and more."""
    write_engine_file(plan, path)
    expected = run_reference(program, inputs)
    for isa, n in itertools.product(available_isas(), threads):
        engine = EngineProgram(path, isa=isa, threads=n)
        for _ in range(2):  # what a first run leaves in the arena changes nothing
            found = engine.run(inputs)
            assert all(np.array_equal(found[name], expected[name]) for name in expected), (isa, n)


def assert_refused(plan, reason, path):
    """A file that the writer does not look at, and the reader does."""
    write_engine_file(plan, path)
    with pytest.raises(ArtifactError, match=reason):
        EngineProgram(path)
