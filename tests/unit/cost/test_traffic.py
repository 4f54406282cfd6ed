"""Arithmetic intensity against the published table, and energy against the cost model."""

import pytest

from dyadiq.core.facts import Decision, LayerFacts, NetworkFacts
from dyadiq.cost.energy import energy_cost
from dyadiq.cost.traffic import layer_traffic


def convolution(*, kernel, groups, channels=512, size=14):
    """A convolution that keeps channels and size, as in the published table."""
    fan_in = channels // groups
    image = (channels, size, size)
    return NetworkFacts(
        (
            Decision("x", "activation", image),
            Decision("w", "weight", (channels, fan_in, kernel, kernel)),
            Decision("y", "activation", image),
        ),
        (LayerFacts("conv", "conv2d", "w", "x", "y", n=fan_in * kernel**2, m=channels, n_positions=size**2),),
    )


# The published 180 / 110 / 146 / 4.3 are cut off, from MACs and elements that were rounded before (51 M / 0.463 M).
@pytest.mark.parametrize(
    ("kernel", "groups", "macs", "elements", "exact", "published"),
    [
        (3, 1, 462_422_016, 2_560_000, 180.6, 180),
        (1, 1, 51_380_224, 462_848, 111.0, 110),
        (3, 4, 115_605_504, 790_528, 146.2, 146),
        (3, 512, 903_168, 205_312, 4.4, 4.3),
    ],
    ids=["spatial", "pointwise", "grouped", "depthwise"],
)
def test_intensity_is_the_published_one(kernel, groups, macs, elements, exact, published):
    (layer,) = layer_traffic(convolution(kernel=kernel, groups=groups), {"x": 8, "w": 8, "y": 8})
    assert (layer.n_macs, layer.n_elements) == (macs, elements)
    assert round(layer.macs_per_element, 1) == exact
    assert layer.macs_per_element == pytest.approx(published, rel=0.025)
    assert layer.macs_per_byte == layer.macs_per_element  # eight bits


def test_bytes_shrink_with_the_bits_and_macs_do_not():
    facts = convolution(kernel=3, groups=1)
    (wide,) = layer_traffic(facts, {"x": 8, "w": 8, "y": 8})
    (narrow,) = layer_traffic(facts, {"x": 8, "w": 2, "y": 4})
    assert narrow.bits == 512 * 196 * 12 + 512 * 512 * 9 * 2
    assert narrow.n_bytes == narrow.bits / 8
    assert narrow.macs_per_byte > wide.macs_per_byte
    assert narrow.macs_per_element == wide.macs_per_element


def test_energy_is_that_of_the_cost_model_less_what_no_layer_moves():
    facts = convolution(kernel=3, groups=1)
    table = energy_cost(facts, [4], [6])
    (layer,) = layer_traffic(facts, {"x": 6, "w": 4, "y": 6})
    (pair,) = table.pairs
    assert layer.mac_energy_fj == pair.table[4, 6]
    # The model writes the network's input and reads its output as well.
    assert layer.sram_energy_fj == table.unary["w"][4] + (table.unary["x"][6] + table.unary["y"][6]) // 2
    document = layer.to_json()
    assert document["energy_fj"] == layer.mac_energy_fj + layer.sram_energy_fj
    assert document["kind"] == "estimated"
