"""From a QuantModule to its IntegerProgram.

Used by the public face and by the module's own exact mode. The work is in `ir.lower`; here the codes, scales
and folded biases are taken out of the module, so that both agree by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyadiq.core.errors import ConfigError, QuantError
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.lower import lower_graph

if TYPE_CHECKING:
    from dyadiq.quant.module import QuantModule

__all__ = ["lower"]


def lower(module: QuantModule) -> IntegerProgram:
    """Return the integer program of a quantized module, as it is now.

    Raises:
        ConfigError: This is no quantized module.
        QuantError: A tensor has no usable scale, or its quantizer is disabled.
        ProofError: An accumulator or product leaves the width it must fit.
    """
    quantizers = getattr(module, "quantizers_by_name", None)
    if quantizers is None:
        raise ConfigError(
            f"lower takes a quantized module, got {type(module).__name__}. Call quantize(graph, plan, batches) first."
        )
    disabled = [name for name, quantizer in quantizers().items() if not quantizer.enabled]
    if disabled:
        raise QuantError(
            f"the quantizers of {', '.join(disabled)} are disabled, and real values have no place in an integer "
            "program. Set enabled = True before lowering."
        )
    return lower_graph(module.folded_graph(), module.weight_quants(), module.activation_quants(), module.config)
