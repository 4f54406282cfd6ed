"""Problems of measuring a small graph, without `analyze`. Used by the tests of curvature's parts."""

import numpy as np
import torch

from dyadiq.core.facts import QuantConfig
from dyadiq.cost.facts import network_facts
from dyadiq.curvature.problem import Problem, widths_to_measure
from dyadiq.ir.sites import find_sites
from graphs import samples

__all__ = ["measured_problem"]


def measured_problem(graph, n=5, *, widths=(4,), labelled=True, cuts=(2,)):
    """All decisions of a graph at some widths, on normal samples in chunks, float64."""
    x = torch.tensor(samples(graph, n))
    labels = torch.tensor(np.random.default_rng(1).integers(graph.tensors[graph.outputs[0]].shape[0], size=n))
    facts = network_facts(graph, QuantConfig())
    return Problem(
        graph=graph,
        facts=facts,
        sites=find_sites(graph),
        batches=tuple((part,) for part in torch.tensor_split(x, cuts)),
        widths=widths_to_measure(facts, widths, widths),
        precision="float64",
        labels=torch.tensor_split(labels, cuts) if labelled else None,
    )
