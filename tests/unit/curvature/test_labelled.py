"""Methods that compare with labels: fisher, loss, hessian_trace, hessian_xtrace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from dyadiq.core.errors import DataError
from dyadiq.curvature import LABELLED_METHODS, analyze
from dyadiq.curvature.hessian_trace import _is_inverted
from dyadiq.curvature.loss import falling
from dyadiq.ir.execute import graph_params, run_graph
from graphs import NETWORKS, mlp, samples
from oracles import hessian_blocks

EXACT = 1e-9
N = 8


def measure(graph, x, y, method, **options):
    return analyze(graph, [(x, y)], method, **{"bits": (3,), "precision": "float64"} | options)


def labels(n, n_classes=3, seed=1):
    return np.random.default_rng(seed).integers(n_classes, size=n)


def test_fisher_is_the_mean_squared_gradient_at_the_labels():
    graph = NETWORKS["residual"](seed=3)
    x, y = samples(graph, N), labels(N)
    table = measure(graph, x, y, "fisher")
    for name in ("stem.weight", "grouped.weight", "fc.weight"):
        norms = []
        for sample, label in zip(x, y, strict=True):
            params = graph_params(graph, torch.float64)
            params[name].requires_grad_()
            loss = F.cross_entropy(run_graph(graph, torch.tensor(sample[None]), params)[0], torch.tensor([label]))
            norms.append(torch.autograd.grad(loss, params[name])[0].square().sum().item())
        per_element = np.array(norms) / table.facts.decision(name).n_elements
        assert table.curvature[name].value == pytest.approx(per_element.mean(), rel=EXACT)
        assert table.curvature[name].stderr == pytest.approx(per_element.std(ddof=1) / np.sqrt(N), rel=EXACT)


def test_fisher_says_when_the_labels_are_fitted():
    graph = mlp()
    x = samples(graph, 40)
    z = run_graph(graph, torch.tensor(x), graph_params(graph, torch.float64))[0]
    fitted = measure(graph, x, z.argmax(1).numpy(), "fisher")
    assert any("has fitted them" in note for note in fitted.notes)
    wrong = measure(graph, x, z.argmin(1).numpy(), "fisher")
    assert not any("has fitted them" in note for note in wrong.notes)


def test_loss_is_the_difference_of_the_losses_and_falls_with_bits():
    graph = NETWORKS["residual"](seed=1)
    x, y = samples(graph, 200), labels(200)
    table = measure(graph, x, y, "loss", bits=(2, 3, 4, 8))
    gram = measure(graph, x, y, "gram", bits=(2,))
    for name, row in table.entries.items():
        values = [entry.value for entry in row.values()]
        assert values == sorted(values, reverse=True)
        assert min(values) >= 0.0
        assert all(entry.stderr >= 0 for entry in row.values())
        if len(row) > 1:
            assert gram.value(name, 2) > 0
    assert "were fitted" in table.notes[0]


def test_loss_equals_whole_forwards_where_nothing_needs_fitting():
    graph = mlp(seed=3)
    x = samples(graph, 30)
    z = run_graph(graph, torch.tensor(x), graph_params(graph, torch.float64))[0]
    table = measure(graph, x, z.argmax(1).numpy(), "loss", bits=(2,))
    from dyadiq.core.affine import dequantize, fit_affine, quantize

    fit = fit_affine(graph.params["fc2.weight"], table.facts.config.weight.with_bits(2))
    params = {**graph_params(graph, torch.float64)}
    params["fc2.weight"] = torch.tensor(dequantize(quantize(graph.params["fc2.weight"], fit), fit))
    zq = run_graph(graph, torch.tensor(x), params)[0]
    expected = F.cross_entropy(zq, z.argmax(1)) - F.cross_entropy(z, z.argmax(1))
    assert table.value("fc2.weight", 2) == pytest.approx(max(0.0, expected.item()), rel=EXACT)
    assert expected > 0


def test_fit_is_the_closest_falling_one():
    values, stderrs = [1.0, 3.0, -2.0, 0.5], [1.0, 0.5, 1.0, 2.0]
    fitted = np.array(falling(values, stderrs))
    weights = 1.0 / np.square(stderrs)
    best = (weights * np.square(fitted - values)).sum()
    rng = np.random.default_rng(0)
    for _ in range(300):
        other = np.sort(np.maximum(0.0, fitted + 0.3 * rng.normal(size=4)))[::-1]
        assert (weights * np.square(other - values)).sum() >= best - 1e-12
    assert list(fitted) == sorted(fitted, reverse=True)


@pytest.mark.parametrize("method", ["hessian_trace", "hessian_xtrace"])
def test_hessian_trace_agrees_with_the_dense_hessian_within_its_error(method):
    graph = NETWORKS["shared"](seed=3)  # One weight twice in a row: the Hessian is not the Gauss-Newton matrix.
    x, y = samples(graph, 30), labels(30)
    table = measure(graph, x, y, method, n_probes=64)
    for name in ("first.weight", "fc.weight"):
        blocks = hessian_blocks(graph, x, name, y)
        truth = np.trace(blocks, axis1=1, axis2=2)
        n = table.facts.decision(name).n_elements
        found = table.curvature[name]
        data_error = truth.std(ddof=1) / np.sqrt(30) / n
        assert abs(found.value - truth.mean() / n) < 4 * np.sqrt(max(0.0, found.stderr**2 - data_error**2)) + 1e-9
        assert found.stderr > 0.7 * data_error
    if method == "hessian_xtrace":  # 64 products reach the size of both weights: no error of probes is left.
        truth = np.trace(hessian_blocks(graph, x, "first.weight", y), axis1=1, axis2=2).mean() / 16
        assert table.curvature["first.weight"].value == pytest.approx(truth, rel=EXACT)


def negative_case():
    """Labels against the network: the Hessian of the shared weight has a negative trace."""
    graph = NETWORKS["shared"](seed=0)
    for seed in range(50):
        x, y = samples(graph, N, seed=seed), labels(N, seed=seed)
        truth = np.trace(hessian_blocks(graph, x, "first.weight", y), axis1=1, axis2=2).mean()
        if truth < 0:
            return graph, x, y
    raise AssertionError("no seed has a negative trace")


@pytest.mark.parametrize("method", ["hessian_trace", "hessian_xtrace"])
def test_negative_traces_give_way_to_gauss_newton_and_are_named(method):
    graph, x, y = negative_case()
    table = measure(graph, x, y, method, n_probes=64, bits=(2, 4))
    instead = measure(graph, x, y, "trace", bits=(2, 4))
    assert "Gauss-Newton traces taken instead: " in table.notes[1]
    assert "first.weight" in table.notes[1]
    assert table.entries["first.weight"] == instead.entries["first.weight"]
    assert all(entry.value >= 0 for row in table.entries.values() for entry in row.values())
    assert table.value("first.weight", 2) > table.value("first.weight", 4)  # Never inverted.


@pytest.mark.parametrize(
    ("losses", "inverted"), [([2.0, 1.0, 1.0], False), ([0.0], False), ([2.0, -1e-9], True), ([1.0, 1.5, 0.5], True)]
)
def test_losses_are_inverted_when_they_reward_fewer_bits(losses, inverted):
    assert _is_inverted(losses) is inverted


@pytest.mark.parametrize("method", sorted(LABELLED_METHODS))
def test_labels_are_asked_for_when_missing_or_impossible(method):
    graph = mlp()
    x = samples(graph, 4)
    with pytest.raises(DataError, match=r"batch 0: this method compares with labels, got no labels for 4 samples"):
        analyze(graph, [x], method)
    with pytest.raises(DataError, match=r"batch 1: .* got ndarray of shape \[3\] for 4 samples"):
        analyze(graph, [(x, labels(4)), (x, labels(3))], method)
    with pytest.raises(DataError, match=r"labels are torch.int64 of shape \[4\], from 0 to 7; expected integers"):
        analyze(graph, [(x, np.array([0, 1, 2, 7]))], method)
    with pytest.raises(DataError, match=r"labels are torch.float64 .*expected integers"):
        analyze(graph, [(x, np.zeros(4))], method)


def test_targets_of_mse_must_fit_the_outputs():
    graph = mlp()
    x = samples(graph, 4)
    with pytest.raises(DataError, match=r"labels have shape \[4, 2\], expected 3 targets a sample"):
        measure(graph, x, np.zeros((4, 2)), "loss", loss="mse")
    table = measure(graph, x, np.zeros((4, 3)), "fisher", loss="mse")
    assert table.unit == "squared output error"
