"""Energy of one inference by the 45 nm table: an estimate for comparing plans, not a measurement.

Used through the registry `cost.COSTS`; reads facts only. Unit: femtojoule (integers).

Published, per operation at 45 nm, 0.9 V: add int8 0.03 pJ, int32 0.1 pJ, float32 0.9 pJ; multiply int8 0.2 pJ,
int32 3.1 pJ, float32 3.7 pJ; 32 bits from an 8 KB SRAM 5 pJ, from DRAM 640 pJ (not used here).
Estimated here: a b_w x b_a multiplier by the power law through the two published integer ones,
``0.2 pJ (b_w b_a / 64)^p`` with ``p = ln 15.5 / ln 16 = 0.989``, i.e. nearly proportional to ``b_w b_a``; memory
energy proportional to bits. Counted: per MAC one multiply and one 32-bit add; each weight read once and each
activation written and read once from SRAM. Not counted: control, requantization, DRAM, reuse lost to tiling.
Source: Horowitz, ISSCC 2014; DRAM from Han et al. 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits

__all__ = ["access_energy_fj", "energy_cost", "mac_energy_fj", "multiply_energy_fj"]

_MUL_INT8_FJ, _MUL_INT32_FJ, _MUL_FLOAT32_FJ = 200, 3100, 3700
_ADD_INT32_FJ, _ADD_FLOAT32_FJ = 100, 900
_SRAM_32_BIT_FJ = 5000
_EXPONENT = math.log(_MUL_INT32_FJ / _MUL_INT8_FJ) / math.log(32 * 32 / (8 * 8))


def multiply_energy_fj(weight_bits: int, activation_bits: int) -> float:
    """Return the estimated energy of one integer multiplication, ``200 fJ (b_w b_a / 64)^0.989``.

    Example:
        >>> multiply_energy_fj(8, 8), round(multiply_energy_fj(32, 32)), round(multiply_energy_fj(4, 8))
        (200.0, 3100, 101)
    """
    return _MUL_INT8_FJ * float((weight_bits * activation_bits / 64) ** _EXPONENT)


def mac_energy_fj(weight_bits: int, activation_bits: int) -> float:
    """Return the estimated energy of one multiplication and one 32-bit addition.

    Example:
        >>> mac_energy_fj(8, 8)
        300.0
    """
    return multiply_energy_fj(weight_bits, activation_bits) + _ADD_INT32_FJ


def access_energy_fj(bits: int) -> float:
    """Return the energy of reading or writing so many bits of SRAM.

    Example:
        >>> access_energy_fj(32)
        5000.0
    """
    return bits * _SRAM_32_BIT_FJ / 32


def energy_cost(facts: NetworkFacts, weight_bits: Sequence[int], activation_bits: Sequence[int]) -> CostTable:
    """Return the estimated energy per inference, rounded to whole femtojoules per layer and per tensor.

    Args:
        facts: The network.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.

    Raises:
        ConfigError: Candidates are empty or out of range.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    accesses = {d.name: d.n_elements * (1 if d.kind == "weight" else 2) for d in facts.decisions}
    n_macs = sum(layer.n_macs for layer in facts.layers)
    pairs = tuple(
        PairCost(
            layer.weight,
            layer.input,
            {
                (b_w, b_a): round(layer.n_macs * mac_energy_fj(b_w, b_a))
                for b_w in options[layer.weight]
                for b_a in options[layer.input]
            },
        )
        for layer in facts.layers
    )
    return CostTable(
        metric="energy",
        unit="fJ",
        kind="estimated",
        definition="45 nm table: per MAC one multiply, 200 fJ (b_w b_a / 64)^0.989 interpolated between int8 and "
        "int32, and one 32-bit add; 5 pJ per 32 bits of SRAM, weights read once, activations written and read once; "
        "100 % = float32 multiplies, adds and words",
        unary={name: {b: round(access_energy_fj(accesses[name] * b)) for b in bits} for name, bits in options.items()},
        pairs=pairs,
        reference=n_macs * (_MUL_FLOAT32_FJ + _ADD_FLOAT32_FJ) + sum(accesses.values()) * _SRAM_32_BIT_FJ,
    )
