"""Networks as plain numbers: facts and sensitivity tables without a graph. Used by the tests of cost and allocate."""

import random
from itertools import pairwise

from dyadiq.core.facts import Decision, LayerFacts, NetworkFacts
from dyadiq.core.tables import Sensitivity, SensitivityTable

__all__ = ["chain_facts", "chain_table", "jet_facts"]


def chain_facts(sizes, *, input_bits=8, output_bits=16, zeros=None, fixed_size_bytes=0):
    """Facts of an MLP: tensors ``x, fc0, fc1, ...``, weights ``fc0.weight, ...``; ``zeros`` per layer."""
    decisions, layers = [Decision("x", "activation", (sizes[0],), input_bits)], []
    for i, (n, m) in enumerate(pairwise(sizes)):
        fixed = output_bits if i == len(sizes) - 2 else None
        decisions.append(Decision(f"fc{i}.weight", "weight", (m, n)))
        decisions.append(Decision(f"fc{i}", "activation", (m,), fixed))
        source = "x" if i == 0 else f"fc{i - 1}"
        n_zero = zeros[i] if zeros else 0
        layers.append(LayerFacts(f"fc{i}", "linear", f"fc{i}.weight", source, f"fc{i}", n, m, 1, n_zero))
    n_floats = sum(layer.n_weights + layer.m for layer in layers)
    return NetworkFacts(tuple(decisions), tuple(layers), fixed_size_bytes, 4 * n_floats)


def jet_facts(**options):
    """The 16-64-32-32-5 classifier of jets, 4,389 parameters."""
    return chain_facts((16, 64, 32, 32, 5), **options)


def chain_table(facts, bits=(2, 4, 8), seed=0):
    """Losses that fall about fourfold with each bit, of random size per decision."""
    rng = random.Random(seed)
    entries = {}
    for d in facts.decisions:
        if d.fixed_bits is None:
            size = 10 ** rng.uniform(-3, 0)
            entries[d.name] = {b: Sensitivity(size * 4.0**-b * rng.uniform(0.8, 1.2), 0.0) for b in bits}
    return SensitivityTable("gram", "nats", entries, facts)
