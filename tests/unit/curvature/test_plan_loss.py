import numpy as np
import pytest
import torch

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.errors import ConfigError
from dyadiq.core.ranges import make_observer
from dyadiq.curvature.plan_loss import PlanLoss
from dyadiq.ir.execute import graph_params, run_graph
from graphs import NETWORKS
from measured import measured_problem


def losses_of(problem, bits):
    """Whole network, run again with every decision quantized; ranges from the float network."""
    graph, config = problem.graph, problem.facts.config
    params = graph_params(graph, torch.float64)
    x = torch.cat([batch[0] for batch in problem.batches])
    fits = {}
    for d in problem.facts.decisions:
        if d.kind == "weight":
            fit = fit_affine(graph.params[d.name], config.weight.with_bits(bits[d.name]))
            params[d.name] = torch.tensor(dequantize(quantize(graph.params[d.name], fit), fit))
        else:
            known = True if d.name in problem.sites.nonnegative else None if d.name in problem.sites.inputs else False
            fmt, answer = config.activation.with_bits(bits[d.name]), d.name in problem.sites.outputs
            fits[d.name] = make_observer(fmt, nonnegative=known, answer=answer)
    float_params = graph_params(graph, torch.float64)
    for batch in problem.batches:
        run_graph(graph, batch, float_params, lambda k, v: fits[k].update(v.numpy()) if k in fits else None)
    (z,) = run_graph(graph, x, float_params)
    ranges = {name: observer.params() for name, observer in fits.items()}

    def hook(name, value):
        return (
            torch.tensor(dequantize(quantize(value.numpy(), ranges[name]), ranges[name])) if name in ranges else value
        )

    (zq,) = run_graph(graph, x, params, hook)
    log_p = z.log_softmax(1)
    return (log_p.exp() * (log_p - zq.log_softmax(1))).sum(1).numpy()


@pytest.mark.parametrize("network", NETWORKS)
def test_loss_of_any_plan_from_any_base_is_that_of_the_whole_network(network):
    problem = measured_problem(NETWORKS[network](seed=2), widths=(2, 3, 5))
    measure = PlanLoss(problem)
    rng = np.random.default_rng(0)
    for trial in range(6):
        bits = {name: int(rng.choice(widths)) for name, widths in problem.widths.items()}
        np.testing.assert_allclose(measure(bits), losses_of(problem, bits), rtol=1e-9, atol=1e-12)
        if trial % 2:
            measure.rebase(bits)
            np.testing.assert_allclose(measure(bits), losses_of(problem, bits), rtol=1e-9, atol=1e-12)


def test_width_is_refused_when_it_was_not_measured():
    problem = measured_problem(NETWORKS["mlp"](), widths=(2, 3))
    bits = {name: widths[0] for name, widths in problem.widths.items()}
    with pytest.raises(ConfigError, match=r"fc1.weight: 7 bits were not measured; measured: 2, 3\. Measure with"):
        PlanLoss(problem)({**bits, "fc1.weight": 7})


def test_decisions_that_a_plan_leaves_out_are_float():
    problem = measured_problem(NETWORKS["mlp"](), widths=(2, 3))
    measure = PlanLoss(problem)
    everything = {name: widths[0] for name, widths in problem.widths.items()}
    np.testing.assert_allclose(measure({}), 0.0, atol=1e-12)
    alone = measure({"fc1.weight": 2})
    assert alone.mean() > 0.0
    measure.rebase(everything)
    np.testing.assert_allclose(measure({"fc1.weight": 2}), alone, rtol=1e-9, atol=1e-12)
