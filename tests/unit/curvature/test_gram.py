import numpy as np
import pytest
import torch

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.ranges import make_observer
from dyadiq.curvature import analyze
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.ir.sites import find_sites
from graphs import NETWORKS, mlp, samples
from oracles import softmax_root

EXACT = 1e-9  # differences of float64 outputs


def outputs_with(graph, x, config, name, bits):
    """Whole network, run again, with one tensor quantized."""
    params = graph_params(graph, torch.float64)
    inputs = torch.tensor(x)
    if name in graph.params:
        fit = fit_affine(graph.params[name], config.weight.with_bits(bits))
        params[name] = torch.tensor(dequantize(quantize(graph.params[name], fit), fit))
        return run_graph(graph, inputs, params)[0]
    sites = find_sites(graph)
    known = {"nonnegative": name in sites.nonnegative, "answer": name in sites.outputs}
    observer = make_observer(config.activation.with_bits(bits), **known)
    run_graph(graph, inputs, params, lambda key, value: observer.update(value.numpy()) if key == name else None)
    fit = observer.params()

    def hook(key, value):
        return torch.tensor(dequantize(quantize(value.numpy(), fit), fit)) if key == name else value

    return run_graph(graph, inputs, params, hook)[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_entries_and_interactions_equal_dense_matrices_and_whole_forwards(network):
    graph = NETWORKS[network](seed=1)
    x = samples(graph, 6)
    table = analyze(graph, [x], bits=(2, 5), activation_bits=(3,), precision="float64")
    z = run_graph(graph, torch.tensor(x), graph_params(graph, torch.float64))[0]
    roots = [softmax_root(row) for row in z]
    u = []
    for name, bits in table.interactions.index:
        dz = outputs_with(graph, x, table.facts.config, name, bits) - z
        u.append(np.stack([root.T @ row for root, row in zip(roots, dz, strict=True)]))
        per_sample = 0.5 * np.square(u[-1]).sum(1)
        entry = table.entries[name][bits]
        assert entry.value == pytest.approx(per_sample.mean(), rel=EXACT)
        assert entry.stderr == pytest.approx(per_sample.std(ddof=1) / np.sqrt(len(x)), rel=EXACT)
        assert entry.value > 0
    for i, left in enumerate(u):
        for j, right in enumerate(u):
            expected = np.mean([a @ b for a, b in zip(left, right, strict=True)])
            assert table.interactions.matrix[i, j] == pytest.approx(expected, rel=EXACT, abs=1e-15)


def test_table_holds_every_decision_in_order_and_fixed_ones_at_their_width_only():
    graph = NETWORKS["residual"]()
    table = analyze(graph, [samples(graph, 4)], bits=(4, 2), activation_bits=(6,))
    assert list(table.entries) == [d.name for d in table.facts.decisions]
    assert list(table.entries["x"]) == [8]
    assert list(table.entries["fc"]) == [16]
    assert list(table.entries["stem_relu"]) == [6]
    assert list(table.entries["stem.weight"]) == [2, 4]
    assert table.interactions.index == tuple((n, b) for n, row in table.entries.items() for b in row)
    assert "wide" not in table.entries  # An accumulator, no decision.
    assert (table.method, table.unit, table.n_samples, table.seed) == ("gram", "nats", 4, 0)
    assert "check a plan by measurement" in table.notes[0]


def test_interactions_are_positive_semidefinite_and_their_diagonal_is_twice_the_entries():
    graph = NETWORKS["branches"]()
    table = analyze(graph, [samples(graph, 30)], bits=(2, 3))
    matrix = table.interactions.matrix
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12
    values = [table.value(name, bits) for name, bits in table.interactions.index]
    np.testing.assert_allclose(np.diag(matrix) / 2, values, rtol=1e-12)


def test_entry_is_the_squared_output_error_when_the_loss_is_mse():
    graph = mlp()
    x = samples(graph, 10)
    table = analyze(graph, [x], bits=(3,), loss="mse", precision="float64")
    z = run_graph(graph, torch.tensor(x), graph_params(graph, torch.float64))[0]
    dz = outputs_with(graph, x, table.facts.config, "fc1.weight", 3) - z
    assert table.value("fc1.weight", 3) == pytest.approx(dz.square().sum(1).mean().item(), rel=EXACT)
    assert table.unit == "squared output error"


def test_gram_approaches_the_divergence_when_perturbations_are_small():
    graph = NETWORKS["residual"](seed=2)
    x = samples(graph, 20)
    options = {"bits": (10,), "precision": "float64"}
    gram, kl = analyze(graph, [x], "gram", **options), analyze(graph, [x], "kl", **options)
    for name, row in kl.entries.items():
        for bits, entry in row.items():
            assert gram.value(name, bits) == pytest.approx(entry.value, rel=0.05), name


def test_value_is_exactly_zero_when_a_weight_is():
    graph = mlp()
    params = dict(graph.params) | {"fc1.weight": np.zeros_like(graph.params["fc1.weight"])}
    table = analyze(graph.replace(params=params), [samples(graph, 4)], bits=(2, 8), unreached="worst")
    assert [table.entries["fc1.weight"][b].value for b in (2, 8)] == [0.0, 0.0]


def test_all_zero_channels_are_measured_like_any_other():
    graph = NETWORKS["residual"]()
    weight = graph.params["stem.weight"].copy()
    weight[1] = 0.0
    table = analyze(graph.replace(params=dict(graph.params) | {"stem.weight": weight}), [samples(graph, 4)])
    assert all(np.isfinite(entry.value) for row in table.entries.values() for entry in row.values())
