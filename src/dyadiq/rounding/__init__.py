"""Rounding of weights by what it does to a layer's outputs: second moments in, codes and scales out.

Used by `quant` (which collects the moments in the quantized network and writes the codes back) and by sensitivity
methods (which measure the perturbation of the rounding that will really be used). Numpy and float64; knows no graph,
no torch, no data set. Weights are matrices ``[O, K]``: a convolution's weight with its input patches flattened.

    moments.py   what a layer's inputs look like: ``E[x x^T]``, per convolution group; the asymmetric target
    grid.py      the codes a row may take, under candidate steps
    gptq.py      column by column, the error of a column made up for by those that follow
    descent.py   codes improved one by one; the step that fits them best
    layer.py     all of it for one layer: steps searched by the error that is left after rounding
"""

from dyadiq.rounding.layer import RoundedWeight, RoundingConfig, round_weight
from dyadiq.rounding.moments import Moments

__all__ = ["Moments", "RoundedWeight", "RoundingConfig", "round_weight"]
