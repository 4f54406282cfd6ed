"""From a QuantModule to its IntegerProgram.

Used by the public face and by the module's own exact mode. The work is in `ir.lower`; here the codes, scales
and folded biases are taken out of the module, so that both agree by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.lower import lower_graph

if TYPE_CHECKING:
    from dyadiq.quant.module import QuantModule

__all__ = ["lower"]


def lower(module: QuantModule) -> IntegerProgram:
    """Return the integer program of a quantized module, as it is now.

    Raises:
        QuantError: A tensor has no usable scale.
        ProofError: An accumulator or product leaves the width it must fit.
    """
    return lower_graph(module.folded_graph(), module.weight_quants(), module.activation_quants(), module.config)
