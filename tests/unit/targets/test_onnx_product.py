"""Splitting dot products into byte products: the parts add up, and no part leaves int32."""

import numpy as np
import pytest

from dyadiq.core.errors import ExportError
from dyadiq.core.qtype import QType
from dyadiq.ir.proof import prove
from dyadiq.targets.onnx_product import INT32_MAX, plan_product
from programs import ProgramBuilder


def planned(x_type, w_type, zero_point=0, inputs=5):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.linear(b.input((inputs,), QType.parse(x_type), zero_point=zero_point), 3, QType.parse(w_type))
    program = b.program(x)
    return program, plan_product(program.graph, program.graph.nodes[-1], prove(program))


@pytest.mark.parametrize("x_type", ["uint1", "bipolar", "int2", "uint8", "int8", "int9", "uint16", "int24"])
@pytest.mark.parametrize("w_type", ["bipolar", "int2n", "int8", "int9", "int16"])
def test_parts_add_up_to_the_dot_product(x_type, w_type):
    _, plan = planned(x_type, w_type)
    qtype = QType.parse(x_type)
    codes = np.random.default_rng(1).integers(qtype.qmin, qtype.qmax, (20, 5), endpoint=True)
    codes[0], codes[1] = qtype.qmin, qtype.qmax
    total = plan.anchor * plan.weight.sum(axis=1) + np.zeros((20, 3), dtype=np.int64)
    for k, z in enumerate(plan.x_zeros):
        digit = (codes + plan.offset) // plan.base**k % plan.base
        if k == len(plan.x_zeros) - 1:
            digit = (codes + plan.offset) // plan.base**k
        assert 0 <= digit.min() <= digit.max() <= 255
        for j, (w, v) in enumerate(zip(plan.w_digits, plan.w_zeros, strict=True)):
            part = (digit - z) @ (w.astype(np.int64) - v).T
            assert np.abs(part).max() <= INT32_MAX
            total = total + plan.base**k * 256**j * part
    np.testing.assert_array_equal(total, codes @ plan.weight.T)


def test_digits_get_narrower_when_the_dot_product_is_long():
    b = ProgramBuilder(np.random.default_rng(0), worst=True)
    x = b.linear(b.input((70_000,), QType.parse("uint8")), 1, QType.parse("int8"))
    program = b.program(x)
    assert plan_product(program.graph, program.graph.nodes[-1], prove(program)).base == 16


def test_refused_when_even_bits_are_too_wide(monkeypatch):
    monkeypatch.setattr("dyadiq.targets.onnx_product._BASES", ())
    with pytest.raises(ExportError, match=r"weights sum to a magnitude of .* above 31 bits"):
        planned("uint8", "int8")
