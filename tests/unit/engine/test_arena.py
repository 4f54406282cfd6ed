"""Places of buffers: no overlap in time and space, and the checker finds planted ones."""

import numpy as np
import pytest

from dyadiq.core.errors import GraphError
from dyadiq.engine.arena import check_arena, lifetimes
from dyadiq.engine.compile import compile_program
from programs import PROGRAMS


def plan_of(name):
    return compile_program(PROGRAMS[name](np.random.default_rng(0)))


@pytest.mark.parametrize("name", ["conv_pool", "residual", "joins", "pow2_cnn"])
def test_arena_is_smaller_than_its_buffers_together(name):
    plan = plan_of(name)
    assert plan.arena_bytes < sum(-(-buffer.n_bytes // 64) * 64 for buffer in plan.buffers) + 64


def test_checker_finds_an_overlap():
    plan = plan_of("residual")
    spans = lifetimes(plan)
    first, second = next(
        (i, j) for i in range(len(spans)) for j in range(i) if spans[i][0] <= spans[j][1] and spans[j][0] <= spans[i][1]
    )
    plan.buffers[second].offset = plan.buffers[first].offset
    with pytest.raises(GraphError, match="overlap"):
        check_arena(plan)


def test_checker_finds_a_buffer_outside():
    plan = plan_of("residual")
    plan.arena_bytes -= 64
    with pytest.raises(GraphError, match="outside its arena"):
        check_arena(plan)


def test_reading_before_writing_is_found():
    plan = plan_of("residual")
    read = plan.steps[-1].reads[0].buffer
    plan.steps = [step for step in plan.steps if all(ref.buffer != read for ref in step.writes)]
    with pytest.raises(GraphError, match="before it is written"):
        lifetimes(plan)
