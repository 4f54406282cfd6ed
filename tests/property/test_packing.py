"""Packing: unpack after pack is the identity, for any type, shape and dtype."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dyadiq.core.packing import pack, packed_size_bytes, unpack
from dyadiq.core.qtype import QType


@st.composite
def code_types(draw):
    bits = draw(st.integers(1, 32))
    if bits == 1 and draw(st.booleans()):
        return QType.parse("bipolar")
    return QType(bits, draw(st.booleans()), narrow=bits > 1 and draw(st.booleans()))


@st.composite
def typed_codes(draw):
    qtype = draw(code_types())
    legal = st.sampled_from([-1, 1]) if qtype.bipolar else st.integers(qtype.qmin, qtype.qmax)
    return qtype, np.array(draw(st.lists(legal, max_size=70)), dtype=np.int64)


@given(typed_codes())
@settings(max_examples=300, deadline=None)
def test_unpack_inverts_pack(typed):
    qtype, codes = typed
    packed = pack(codes, qtype)
    assert packed.size == packed_size_bytes(codes.size, qtype.bits)
    assert np.array_equal(unpack(packed, qtype, codes.size), codes)


@given(typed_codes(), st.integers(0, 70))
@settings(max_examples=150, deadline=None)
def test_pack_of_a_prefix_is_a_prefix_when_it_ends_on_a_byte(typed, cut):
    qtype, codes = typed
    cut = min(cut, codes.size) // 8 * 8
    assert pack(codes[:cut], qtype).tobytes() == pack(codes, qtype).tobytes()[: cut * qtype.bits // 8]
