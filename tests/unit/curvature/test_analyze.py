import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from sklearn.datasets import load_digits

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.errors import ConfigError, DataError, QuantError, UnknownNameError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.cost.facts import network_facts
from dyadiq.curvature import LABELLED_METHODS, METHODS, analyze
from dyadiq.curvature.plan_losses import plan_losses
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.passes import canonicalize
from dyadiq.zero_shot import distill
from graphs import NETWORKS, FloatGraph, mlp, samples
from trainable import captured


@pytest.fixture
def graph():
    return mlp()


@pytest.fixture
def x(graph):
    return samples(graph, 10)


def flat(table):
    return [(name, bits, entry) for name, row in table.entries.items() for bits, entry in row.items()]


@pytest.mark.parametrize("method", METHODS)
def test_result_does_not_depend_on_how_samples_are_cut_into_batches(method):
    graph = NETWORKS["residual"]()
    x = samples(graph, 70)
    y = np.arange(70) % 3
    whole = analyze(graph, [(x, y)], method, bits=(3,))
    cut = analyze(
        graph,
        iter([(x[:1], y[:1]), [torch.tensor(x[1:67]), y[1:67]], (x[67:], y[67:])]),
        method,
        bits=(3,),
    )
    assert flat(whole) == flat(cut)


@pytest.mark.parametrize("method", METHODS)
def test_second_run_gives_the_same_numbers(method, graph, x):
    batches = [(x, np.arange(10) % 3)]
    assert flat(analyze(graph, batches, method)) == flat(analyze(graph, batches, method))


@pytest.mark.parametrize("method", METHODS)
def test_entries_shrink_when_widths_grow(method, graph):
    table = analyze(graph, [(samples(graph, 64), np.arange(64) % 3)], method, bits=(2, 4, 8))
    for name, row in table.entries.items():
        if len(row) > 1:
            if method == "loss":
                assert row[2].value >= row[4].value >= row[8].value >= 0, name
            else:
                assert row[2].value > row[4].value > row[8].value > 0, name


@pytest.mark.parametrize("method", ["gram", "kl", "trace"])
def test_standard_error_covers_the_truth_about_as_often_as_it_says(method, graph):
    population = samples(graph, 4000, seed=9)
    options = {"method": method, "bits": (3,), "activation_bits": ()}
    truth = analyze(graph, [population], **options)
    size, n_draws = 80, 50
    hits = dict.fromkeys(truth.entries, 0)
    for i in range(n_draws):
        table = analyze(graph, [population[i * size : (i + 1) * size]], **options)
        for name, row in table.entries.items():
            hits[name] += abs(row[3].value - truth.value(name, 3)) < 2 * row[3].stderr
    for name, hit in hits.items():  # Nominal 95 %; skewed samples lower it a little.
        assert 0.8 * n_draws <= hit < n_draws or (method == "trace" and hit <= n_draws), (name, hit)


def test_only_the_first_samples_are_read_when_a_maximum_is_given(graph, x):
    def endless():
        while True:
            yield x

    table = analyze(graph, endless(), bits=(4,), max_samples=14)
    assert table.n_samples == 14
    assert flat(table) == flat(analyze(graph, [x, x[:4]], bits=(4,)))


def test_formats_come_from_the_config_or_the_facts(graph, x):
    config = QuantConfig(weight=Format(8, granularity="tensor", range_method="minmax"), input_bits=4)
    by_config = analyze(graph, [x], config=config)
    by_facts = analyze(graph, [x], facts=network_facts(graph, config))
    assert flat(by_config) == flat(by_facts)
    assert flat(by_config) != flat(analyze(graph, [x]))
    assert list(by_config.entries["x"]) == [4]


def test_activations_are_unsigned_when_nonnegative_by_construction(graph, x):
    config = QuantConfig(activation=Format(8, range_method="minmax"))
    free = analyze(graph, [x], "squared_error", bits=(3,), config=config)
    signed = QuantConfig(activation=Format(8, range_method="minmax", signed=True))
    assert free.value("fc0", 3) < 0.5 * analyze(graph, [x], "squared_error", bits=(3,), config=signed).value("fc0", 3)


def test_inputs_are_unsigned_when_the_data_are_nonnegative(graph, x):
    config = QuantConfig(activation=Format(8, range_method="minmax"), input_bits=3)
    x = np.abs(x)
    table = analyze(graph, [x], "squared_error", config=config, precision="float64")
    step = x.max() / 7
    expected = np.square(np.floor(x / step + 0.5) * step - x).sum(1).mean()
    assert table.value("x", 3) == pytest.approx(expected)


def test_progress_is_told_of_every_step(graph, x):
    class Recorder:
        def __init__(self):
            self.total, self.done, self.open = 0, 0, 0

        def start(self, label, total):
            self.total, self.open = self.total + total, self.open + 1

        def advance(self, steps=1, note=""):
            self.done += steps

        def finish(self):
            self.open -= 1

    for method in METHODS:
        recorder = Recorder()
        analyze(graph, [(x, np.arange(10) % 3)], method, progress=recorder)
        assert recorder.total == recorder.done > 0, method
        assert recorder.open == 0


def test_method_is_refused_with_a_near_name_when_unknown(graph, x):
    with pytest.raises(UnknownNameError, match="unknown method 'grm'; did you mean 'gram'"):
        analyze(graph, [x], "grm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": (0, 4)}, r"bits must be integers in \[1, 16\], got 0"),
        ({"activation_bits": (4.0,)}, r"activation_bits must be integers in \[1, 16\], got 4.0"),
        ({"bits": (), "activation_bits": ()}, "nothing to measure; bits and activation_bits are empty"),
        ({"loss": "hinge"}, "loss must be one of cross_entropy, mse, got 'hinge'"),
        ({"precision": "float16"}, "precision must be one of float32, float64, got 'float16'"),
        ({"max_samples": 1}, "max_samples must be at least 2, got 1"),
        ({"n_probes": 3}, "for the methods 'trace', .*, got n_probes=3 with method 'gram'"),
        ({"method": "trace", "n_probes": 0}, "n_probes is a positive number"),
    ],
)
def test_options_are_refused_when_out_of_their_set(graph, x, options, message):
    with pytest.raises(ConfigError, match=message):
        analyze(graph, [x], **options)


def test_facts_are_refused_when_the_config_is_another(graph, x):
    with pytest.raises(ConfigError, match="facts were made with another config"):
        analyze(graph, [x], facts=network_facts(graph), config=QuantConfig(input_bits=6))


def two_outputs():
    g = FloatGraph(4)
    return g.build(g.linear("a", "x", 2), g.linear("b", "x", 2))


@pytest.mark.parametrize("method", ["gram", "kl", "trace"])
def test_network_is_refused_when_it_has_several_outputs_and_a_loss_is_needed(method, x):
    with pytest.raises(ConfigError, match=rf"method '{method}' needs .* one output, got \['a', 'b'\].*squared_error"):
        analyze(two_outputs(), [x], method)


def test_network_with_several_outputs_is_measured_when_no_loss_is_needed(x):
    table = analyze(two_outputs(), [x], "squared_error")
    assert sorted(table.entries) == ["a", "a.weight", "b", "b.weight", "x"]
    assert table.value("a.weight", 2) > table.value("a.weight", 8) > 0


def two_inputs():
    """A network of two inputs that computes what one linear over both would, and that network."""
    rng = np.random.default_rng(0)
    params = {"a.weight": rng.normal(size=(3, 2)), "b.weight": rng.normal(size=(3, 2))}
    nodes = (
        Node("a", "linear", ("left", "a.weight"), "a"),
        Node("b", "linear", ("right", "b.weight"), "b"),
        Node("sum", "add", ("a", "b"), "sum"),
    )
    infos = {name: TensorInfo((size,)) for name, size in (("left", 2), ("right", 2), ("a", 3), ("b", 3), ("sum", 3))}
    return Graph("float", ("left", "right"), ("sum",), nodes, infos, params)


@pytest.mark.parametrize("method", METHODS)
def test_network_with_several_inputs_is_measured_when_batches_are_mappings(method):
    x = np.random.default_rng(1).normal(size=(70, 2, 2))
    y = np.arange(70) % 3
    batches = [({"right": x[i, 1], "left": x[i, 0]}, y[i]) for i in (slice(0, 30), slice(30, 70))]
    table = analyze(two_inputs(), batches, method, precision="float64")
    assert table.n_samples == 70
    if method != "loss":  # Here more precise is not better for every label.
        assert table.value("b.weight", 2) > table.value("b.weight", 8) > 0
    whole = analyze(two_inputs(), [({"left": x[:, 0], "right": x[:, 1]}, y)], method, precision="float64")
    assert table.entries == whole.entries


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            np.ones((4, 2)),
            r"batch 0: the network has the inputs \['left', 'right'\], got one tensor. Give each",
        ),
        ({"left": np.ones((4, 2))}, r"the network has the inputs \['left', 'right'\], got \['left'\]"),
    ],
)
def test_inputs_are_refused_when_they_are_not_those_of_the_network(batch, message):
    with pytest.raises(DataError, match=message):
        analyze(two_inputs(), [batch])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in LABELLED_METHODS])
def test_data_are_distilled_when_absent(method):
    _, captured_graph = captured("residual")
    options = {"bits": (3,), "activation_bits": (4,)}
    table = analyze(captured_graph, None, method, **options, max_samples=8, seed=5)
    made = distill(captured_graph, 8, seed=5)
    assert flat(table) == flat(analyze(captured_graph, made, method, **options, seed=5))
    assert (table.n_samples, table.seed, table.notes[-1 - len(made.notes)]) == (8, 5, made.summary)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in LABELLED_METHODS])
def test_data_are_asked_for_when_absent_and_the_graph_is_canonical(method):
    _, captured_graph = captured("residual")
    with pytest.raises(DataError, match=r"this graph has none: it is canonical.* Give the graph as `capture` returned"):
        analyze(canonicalize(captured_graph), None, method)


@pytest.mark.parametrize("method", sorted(LABELLED_METHODS))
def test_labels_are_asked_for_when_there_are_no_data(method, graph):
    with pytest.raises(DataError, match=f"method '{method}' compares with labels, which distilled inputs do not have"):
        analyze(graph, None, method)


def test_candidates_take_the_place_of_nearest_rounding(graph, x):
    weight = graph.params["fc1.weight"]
    other = np.round(weight, 1) + 0.01
    params = {**graph_params(graph, torch.float64), "fc1.weight": torch.tensor(other)}
    z = run_graph(graph, torch.tensor(x), graph_params(graph, torch.float64))[0].log_softmax(1)
    zq = run_graph(graph, torch.tensor(x), params)[0].log_softmax(1)
    expected = (z.exp() * (z - zq)).sum(1).mean().item()
    options = {"bits": (3, 4), "precision": "float64", "activation_bits": ()}
    nearest = analyze(graph, [x], "kl", **options)
    table = analyze(graph, [x], "kl", candidates={("fc1.weight", 3): other}, **options)
    assert table.value("fc1.weight", 3) == pytest.approx(expected, rel=1e-10)
    assert table.value("fc1.weight", 4) == nearest.value("fc1.weight", 4)
    for method in ("trace", "squared_error", "eigenvalue"):
        found = analyze(graph, [x], method, candidates={("fc1.weight", 3): weight}, **options)
        assert found.value("fc1.weight", 3) == 0.0
        assert found.value("fc1.weight", 4) > 0.0


def test_biases_of_candidates_move_with_their_weights(graph, x):
    weight, bias = np.round(graph.params["fc1.weight"], 1), np.asarray(graph.params["fc1.bias"], dtype=np.float64) + 0.1
    params = graph_params(graph, torch.float64)
    z = run_graph(graph, torch.tensor(x), params)[0].log_softmax(1)
    moved = {**params, "fc1.weight": torch.tensor(weight), "fc1.bias": torch.tensor(bias)}
    zq = run_graph(graph, torch.tensor(x), moved)[0].log_softmax(1)
    expected = (z.exp() * (z - zq)).sum(1)
    options = {"bits": (3, 4), "precision": "float64", "activation_bits": ()}
    alone = analyze(graph, [x], "kl", candidates={("fc1.weight", 3): weight}, **options)
    both = {("fc1.weight", 3): weight, ("fc1.bias", 3): bias}
    table = analyze(graph, [x], "kl", candidates=both, **options)
    assert table.value("fc1.weight", 3) == pytest.approx(expected.mean().item(), rel=1e-10)
    assert table.value("fc1.weight", 3) != pytest.approx(alone.value("fc1.weight", 3), rel=1e-3)
    assert table.value("fc1.weight", 4) == alone.value("fc1.weight", 4)
    facts = network_facts(graph, QuantConfig())
    measure = plan_losses(graph, [x], facts, bits=(3, 4), candidates=both, precision="float64")
    np.testing.assert_allclose(measure({"fc1.weight": 3}), expected.numpy(), rtol=1e-9)
    measure.rebase({"fc1.weight": 3})
    np.testing.assert_allclose(measure({"fc1.weight": 3}), expected.numpy(), rtol=1e-9)
    measure.rebase({})
    np.testing.assert_allclose(measure({"fc1.weight": 3}), expected.numpy(), rtol=1e-9)
    assert measure({"fc1.weight": 4}).mean() == pytest.approx(table.value("fc1.weight", 4), rel=1e-9)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            ("fc1.weight", 3),
            np.zeros((2, 2)),
            r"candidate of fc1.weight at 3 bits: got shape \[2, 2\], expected",
        ),
        (("fc1.weight", 3), np.full((5, 6), np.nan), "with NaN or infinite values, expected finite"),
        (("x", 8), np.zeros(4), "only weights, and biases with them, have candidates"),
        (
            ("fc1.bias", 3),
            np.zeros(4),
            r"fc1.bias at 3 bits: got shape \[4\], expected finite values of the bias's",
        ),
    ],
)
def test_candidates_are_refused_when_they_do_not_fit(key, value, message, graph, x):
    with pytest.raises(QuantError, match=message):
        analyze(graph, [x], candidates={key: value})


@pytest.mark.parametrize("method", METHODS)
def test_single_sample_is_refused(method, graph, x):
    with pytest.raises(DataError, match="at least two samples for its standard errors, got 1"):
        analyze(graph, [(x[:1], np.zeros(1, int))], method)


def test_calibration_data_are_refused_when_empty_or_not_finite(graph, x):
    with pytest.raises(DataError, match="no batches"):
        analyze(graph, [])
    x[3, 1] = np.nan
    with pytest.raises(DataError, match=r"batch 1: .*NaN or infinite, the first at index \[3, 1\]"):
        analyze(graph, [x[:2], x])


def test_calibration_data_are_refused_when_shapes_differ(graph, x):
    with pytest.raises(DataError, match=r"batch 1: samples have shape \[3\], those of batch 0 \[4\]"):
        analyze(graph, [x, x[:, :3]])
    with pytest.raises(DataError, match=r"input 'x': got shape \[10, 3\], expected \[N, 4\]"):
        analyze(graph, [x[:, :3]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["fc1.weight", "fc1.bias"])
def test_parameters_are_refused_by_name_when_not_finite(graph, x, bad, name):
    value = graph.params[name].copy()
    value.flat[2] = bad
    with pytest.raises(QuantError, match=rf"{name}: 1 of \d+ values are NaN or infinite"):
        analyze(graph.replace(params=dict(graph.params) | {name: value}), [x])


def test_decision_is_named_when_quantizing_it_overflows():
    # Two bits by min/max turn weights (0.6, 1) into (1, 1): float32 ends at 3.4e38.
    g = FloatGraph(2)
    g.params["fc.weight"] = np.array([[0.6, 1.0]])
    graph = g.build(g.add_node("fc", "linear", ("x", "fc.weight")))
    config = QuantConfig(weight=Format(8, signed=True, narrow=True, range_method="minmax"))
    options = {"bits": (2,), "activation_bits": (), "loss": "mse", "config": config}
    with pytest.raises(DataError, match=r"fc\.weight: quantized to 2 bits the network gives NaN or infinite outputs"):
        analyze(graph, [np.full((2, 2), 1.8e38)], **options)
    assert analyze(graph, [np.full((2, 2), 1.8e38)], precision="float64", **options).value("fc.weight", 2) > 0


def test_float_network_is_refused_when_its_outputs_overflow(graph, x):
    params = dict(graph.params) | {"fc0.weight": graph.params["fc0.weight"] * 1e20}
    params["fc1.weight"] = params["fc1.weight"] * 1e20
    with pytest.raises(DataError, match="float network gives NaN or infinite outputs"):
        analyze(graph.replace(params=params), [x], activation_bits=())


def test_weights_are_those_with_batch_norm_folded_when_the_graph_is_not_canonical():
    g = FloatGraph(1, 4, 4)
    conv = g.conv("conv", "x", 3, (3, 3))
    g.params |= {"bn.weight": np.array([1.0, -2.0, 0.5]), "bn.bias": np.ones(3)}
    g.params |= {"bn.running_mean": np.ones(3), "bn.running_var": np.array([0.01, 1.0, 4.0])}
    inputs = (conv, "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    act = g.add_node("act", "relu", (g.add_node("bn", "batch_norm", inputs, eps=1e-5),))
    graph = g.build(g.linear("fc", g.add_node("flat", "flatten", (act,)), 3))
    x = samples(graph, 6)
    table = analyze(graph, [x], "squared_error", bits=(4,))
    factor = np.array([1.0, -2.0, 0.5]) / np.sqrt(np.array([0.01, 1.0, 4.0]) + 1e-5)
    folded = graph.params["conv.weight"] * factor[:, None, None, None]
    fit = fit_affine(folded, table.facts.config.weight.with_bits(4))
    error = np.square(dequantize(quantize(folded, fit), fit) - folded).sum()
    assert table.value("conv.weight", 4) == pytest.approx(error)
    assert list(table.entries) == ["x", "conv.weight", "act", "fc.weight", "fc"]


def test_gram_ranks_decisions_like_the_divergence_on_fresh_data_when_the_network_is_trained():
    graph, train, fresh = trained_on_digits()
    bits = (2, 3, 4)

    def values(method, data):
        return [entry.value for _, _, entry in flat(analyze(graph, [data], method, bits=bits))]

    truth = values("kl", fresh)
    correlation = {m: scipy.stats.spearmanr(values(m, train), truth).statistic for m in ("gram", "squared_error")}
    assert correlation["gram"] > 0.95
    assert correlation["gram"] > correlation["squared_error"]


def trained_on_digits():
    """An MLP on the digits, its training inputs, and inputs it has not seen."""
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=torch.float32)
    y = torch.tensor(data.target)
    generator = torch.Generator().manual_seed(0)
    graph = mlp((64, 24, 16, 12, 10))
    params = {k: v.requires_grad_() for k, v in graph_params(graph).items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.01)
    for _ in range(150):
        rows = torch.randint(1000, (128,), generator=generator)
        loss = F.cross_entropy(run_graph(graph, x[rows], params)[0], y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return graph.replace(params={k: v.detach().numpy() for k, v in params.items()}), x[:256], x[1000:]
