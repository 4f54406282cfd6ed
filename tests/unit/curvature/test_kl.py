import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.errors import ConfigError
from dyadiq.curvature import analyze
from dyadiq.ir.execute import graph_params, run_graph
from graphs import mlp, samples


def test_entries_equal_the_divergence_of_torch():
    graph = mlp()
    x = samples(graph, 12)
    table = analyze(graph, [x], "kl", bits=(3,), activation_bits=(), precision="float64")
    params = graph_params(graph, torch.float64)
    z = run_graph(graph, torch.tensor(x), params)[0]
    for name in ("fc0.weight", "fc1.weight", "fc2.weight"):
        fit = fit_affine(graph.params[name], table.facts.config.weight.with_bits(3))
        quantized = torch.tensor(dequantize(quantize(graph.params[name], fit), fit))
        zq = run_graph(graph, torch.tensor(x), params | {name: quantized})[0]
        expected = F.kl_div(zq.log_softmax(1), z.log_softmax(1), log_target=True, reduction="none").sum(1).numpy()
        assert table.entries[name][3].value == pytest.approx(expected.mean(), rel=1e-10)
        assert table.entries[name][3].stderr == pytest.approx(expected.std(ddof=1) / np.sqrt(12), rel=1e-10)


def test_loss_is_refused_when_it_has_no_probabilities():
    graph = mlp()
    with pytest.raises(ConfigError, match=r"compares class probabilities, got loss 'mse'. Use method 'gram'"):
        analyze(graph, [samples(graph, 4)], "kl", loss="mse")
