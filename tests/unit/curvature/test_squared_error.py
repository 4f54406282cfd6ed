import numpy as np
import pytest

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.errors import DataError
from dyadiq.core.ranges import make_observer
from dyadiq.curvature import analyze
from graphs import NETWORKS, mlp, samples


def test_weights_need_no_data_and_have_no_standard_error():
    graph = NETWORKS["residual"]()
    table = analyze(graph, None, "squared_error", bits=(2, 4), activation_bits=())
    assert all(d.kind == "weight" for d in map(table.facts.decision, table.entries))
    for name, row in table.entries.items():
        for bits, entry in row.items():
            weight = graph.params[name]
            fit = fit_affine(weight, table.facts.config.weight.with_bits(bits))
            expected = np.square(dequantize(quantize(weight, fit), fit) - weight).sum()
            assert (entry.value, entry.stderr) == (pytest.approx(expected, rel=1e-12), 0.0)
    assert (table.unit, table.n_samples, table.interactions) == ("squared error", 0, None)


def test_activations_are_the_mean_over_samples():
    graph = mlp()
    x = samples(graph, 7)
    table = analyze(graph, [x], "squared_error", bits=(3,), precision="float64")
    observer = make_observer(table.facts.config.activation.with_bits(8), nonnegative=False)
    observer.update(x)
    per_sample = np.square(dequantize(quantize(x, observer.params()), observer.params()) - x).sum(1)
    assert table.entries["x"][8].value == pytest.approx(per_sample.mean(), rel=1e-12)
    assert table.entries["x"][8].stderr == pytest.approx(per_sample.std(ddof=1) / np.sqrt(7), rel=1e-12)
    assert table.n_samples == 7


def test_activations_are_refused_when_there_are_no_data():
    with pytest.raises(DataError, match=r"data-free.* activation_bits=\(\), which needs no data"):
        analyze(mlp(), None, "squared_error")
