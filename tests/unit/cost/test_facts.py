import numpy as np
import pytest

from dyadiq.core.errors import GraphError, QuantError
from dyadiq.core.facts import NetworkFacts, QuantConfig
from dyadiq.core.format import Format
from dyadiq.cost.facts import network_facts
from dyadiq.ir.graph import Graph, Node, TensorInfo
from graphs import FloatGraph, mlp


def _residual():
    graph = FloatGraph(3, 8, 8)
    stem = graph.conv("stem", "x", 4, (3, 3), relu=True, padding=1, output="stem_relu")
    branch = graph.conv("branch", stem, 4, (3, 3), padding=1, groups=2)
    total = graph.add_node("join", "add", (branch, stem), "join_relu", activation="relu")
    pooled = graph.max_pool("pool", total)
    flat = graph.add_node("flat", "flatten", (graph.global_pool("mean", pooled),))
    return graph.build(graph.linear("fc", flat, 5))


def _facts(graph, **config):
    return network_facts(graph, QuantConfig(**config), fixed_size_bytes=0)


def test_decisions_are_in_execution_order_when_a_network_has_joins_and_pools():
    facts = _facts(_residual())
    assert [(d.name, d.kind, d.fixed_bits) for d in facts.decisions] == [
        ("x", "activation", 8),
        ("stem.weight", "weight", None),
        ("stem_relu", "activation", None),
        ("branch.weight", "weight", None),
        ("join_relu", "activation", None),
        ("mean", "activation", None),
        ("fc.weight", "weight", None),
        ("fc", "activation", 16),
    ]


def test_layers_carry_the_letters_of_the_formula_when_convolutions_are_grouped():
    stem, branch, fc = _facts(_residual()).layers
    assert (stem.n, stem.m, stem.n_positions, stem.input, stem.output) == (27, 4, 64, "x", "stem_relu")
    assert (branch.n, branch.m, branch.n_positions, branch.input) == (18, 4, 64, "stem_relu")
    assert (fc.n, fc.m, fc.n_positions, fc.input, fc.output) == (4, 5, 1, "mean", "fc")


def test_output_is_the_decision_of_the_join_when_the_accumulator_goes_straight_into_it():
    assert _facts(_residual()).layers[1].output == "join_relu"


def test_input_is_free_when_input_bits_are_none():
    facts = _facts(mlp(), input_bits=None, output_bits=12)
    assert [d.fixed_bits for d in facts.decisions if d.kind == "activation"] == [None, None, None, 12]


def test_shared_weight_is_one_decision_when_two_layers_read_it():
    graph = FloatGraph(4)
    first = graph.linear("a", "x", 4, relu=True)
    graph = graph.build(graph.linear("b", first, 4, weight="a.weight"))
    facts = _facts(graph)
    assert [d.name for d in facts.decisions].count("a.weight") == 1
    assert [layer.weight for layer in facts.layers] == ["a.weight", "a.weight"]
    assert facts.float_size_bytes == 4 * (16 + 4 + 4)


def test_zero_weights_are_counted_when_a_layer_is_pruned():
    graph = mlp()
    name = graph.nodes[0].inputs[1]
    graph.params[name][0, :3] = 0.0
    graph.params[name][1, 0] = -0.0
    assert [layer.n_zero_weights for layer in _facts(graph).layers] == [4, 0, 0]


def test_float_size_counts_weights_and_biases_when_batch_norm_is_folded():
    graph = _residual()
    assert _facts(graph).float_size_bytes == 4 * sum(p.size for p in graph.params.values())


def test_integer_graph_is_refused():
    graph = Graph("integer", ("x",), ("x",), (), {"x": TensorInfo((2,))}, {})
    with pytest.raises(GraphError, match="read from a float graph, got the integer dialect"):
        network_facts(graph)


def test_product_of_activations_is_refused_when_the_weight_is_no_parameter():
    nodes = (Node("a", "relu", ("x",), "a"), Node("fc", "linear", ("x", "a"), "fc"))
    tensors = {name: TensorInfo((2,)) for name in ("x", "a", "fc")}
    graph = Graph("float", ("x",), ("fc",), nodes, tensors, {"unused": np.zeros(1)})
    with pytest.raises(GraphError, match=r"fc: the weight of a linear must be a parameter, got the activation 'a'"):
        network_facts(graph)


def test_facts_say_where_a_relu_acts_when_a_concat_joins_both_signs():
    graph = FloatGraph(2, 4, 4)
    left, right = graph.conv("left", "x", 3, (1, 1), relu=True), graph.conv("right", "x", 2, (1, 1))
    both = graph.add_node("cat", "concat", (left, right))
    facts = _facts(graph.build(graph.conv("last", both, 2, (1, 1), relu=True)))
    assert [(d.name, d.nonnegative, d.clipped) for d in facts.decisions if d.kind == "activation"] == [
        ("x", False, False),
        ("cat", False, True),
        ("last", True, True),
    ]
    assert NetworkFacts.from_json(facts.to_json()) == facts


def test_group_size_is_refused_when_layers_cannot_have_it():
    config = QuantConfig(weight=Format(8, signed=True, granularity="group", group_size=4))
    message = (
        r"group_size 4 must divide .* in every layer; it does not in stem\.weight \(27\), branch\.weight \(18\)\. "
        r"Sizes that all layers can have: 1; or use granularity 'channel'"
    )
    with pytest.raises(QuantError, match=message):
        network_facts(_residual(), config)


def test_group_size_lists_the_sizes_that_all_layers_can_have():
    config = QuantConfig(weight=Format(8, signed=True, granularity="group", group_size=8))
    with pytest.raises(QuantError, match=r"it does not in fc0\.weight \(12\)\. .* can have: 1, 2, 4;"):
        network_facts(mlp((12, 8, 16, 3)), config)
