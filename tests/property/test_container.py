"""The container under arbitrary content and arbitrary damage."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyadiq.core.container import TensorSpec, container_size_bytes, read_container, write_container
from dyadiq.core.errors import ArtifactError
from dyadiq.core.qtype import QType


@st.composite
def contents(draw):
    tensors = []
    for name in draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), unique=True, max_size=4)):
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        bits = draw(st.integers(0, 32))
        rng = np.random.default_rng(draw(st.integers(0, 9)))
        if bits == 0:
            tensors.append((TensorSpec(name, shape, None), rng.standard_normal(shape)))
            continue
        qtype = QType(bits, draw(st.booleans()))
        tensors.append((TensorSpec(name, shape, qtype), rng.integers(qtype.qmin, qtype.qmax, shape, endpoint=True)))
    return draw(st.binary(max_size=100)), tensors


@given(contents(), st.data())
@settings(max_examples=150, deadline=None)
def test_content_round_trips_and_damage_is_refused(content, data):
    structure, tensors = content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dyq"
        size = write_container(path, structure, tensors)
        assert size == path.stat().st_size == container_size_bytes(len(structure), [spec for spec, _ in tensors])
        container = read_container(path)
        assert container.structure == structure
        for spec, values in tensors:
            assert np.array_equal(container.array(spec.name), values)

        original = path.read_bytes()
        start = data.draw(st.integers(0, size - 1))
        stop = data.draw(st.integers(start, min(size, start + 4)))  # CRC-32 finds every burst of up to 32 bits
        damaged = (
            original[:start] + data.draw(st.binary(min_size=stop - start, max_size=stop - start)) + original[stop:]
        )
        if data.draw(st.booleans()):
            damaged = original[:start]
        if damaged == original:
            return
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            read_container(path)
