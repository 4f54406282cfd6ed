"""Quantization sites: which tensors are decisions, which are wide, which share one."""

import pytest

from cases import build
from dyadiq.core.errors import GraphError
from dyadiq.ir.capture import capture
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.sites import find_clipped, find_sites


def graph_of(nodes, inputs=("x",), outputs=None, shape=(4, 6, 6)):
    """A graph of same-shaped tensors from ``(name, op, inputs, attrs)``; find_sites looks at no shapes."""
    made = tuple(Node(name, op, tuple(reads), name, attrs) for name, op, reads, attrs in nodes)
    names = [*inputs, *(node.output for node in made)]
    params = {i: None for node in made for i in node.inputs if i.endswith(".w")}
    return Graph("float", inputs, outputs or (made[-1].output,), made, dict.fromkeys(names, TensorInfo(shape)), params)


def conv(name, x, relu=False):
    return (name, "conv2d", (x, f"{name}.w"), {"activation": "relu"} if relu else {})


def sites_of_case(name):
    model, inputs = build(name)
    return find_sites(canonicalize(capture(model, inputs)))


def test_chain_quantizes_input_and_every_layer():
    sites = find_sites(graph_of([conv("a", "x", relu=True), conv("b", "a")]))
    assert sites.decisions == ("x", "a", "b")
    assert (sites.inputs, sites.outputs, sites.wide) == ({"x"}, {"b"}, frozenset())
    assert sites.nonnegative == {"a"}


@pytest.mark.parametrize("join", ["add", "concat"])
def test_branches_are_wide_when_only_a_join_reads_them(join):
    sites = find_sites(graph_of([conv("a", "x"), conv("b", "x"), ("j", join, ("a", "b"), {})]))
    assert sites.wide == {"a", "b"}
    assert sites.decisions == ("x", "j")
    assert not {"a", "b"} & set(sites.decision_of)


def test_identity_branch_of_a_residual_is_a_decision():
    sites = find_sites(graph_of([conv("a", "x", relu=True), conv("b", "a"), ("j", "add", ("a", "b"), {})]))
    assert (sites.decisions, sites.wide) == (("x", "a", "j"), {"b"})


def test_one_decision_when_a_tensor_has_several_consumers():
    nodes = [conv("a", "x"), conv("b", "a"), conv("c", "a"), ("j", "add", ("a", "b"), {}), conv("d", "j")]
    sites = find_sites(graph_of([*nodes, ("k", "add", ("d", "c"), {})]))
    assert sites.decisions.count("a") == 1
    assert sites.wide == {"b", "c", "d"}


def test_layer_is_no_wide_tensor_when_it_is_added_to_itself():
    sites = find_sites(graph_of([conv("a", "x"), ("j", "add", ("a", "a"), {})]))
    assert (sites.decisions, sites.wide) == (("x", "a", "j"), frozenset())


def test_layer_is_no_wide_tensor_when_it_is_an_output():
    nodes = [conv("a", "x"), conv("b", "x"), ("j", "add", ("a", "b"), {})]
    sites = find_sites(graph_of(nodes, outputs=("a", "j")))
    assert (sites.wide, sites.outputs) == ({"b"}, {"a", "j"})


def test_joins_are_decisions_when_joins_read_them():
    nodes = [("j", "add", ("x", "y"), {}), ("k", "concat", ("j", "x"), {}), ("l", "add", ("k", "k"), {})]
    sites = find_sites(graph_of(nodes, inputs=("x", "y")))
    assert (sites.decisions, sites.wide) == (("x", "y", "j", "k", "l"), frozenset())


@pytest.mark.parametrize("op", ["max_pool2d", "flatten", "relu"])
def test_codes_pass_through_when_an_operator_only_selects(op):
    sites = find_sites(graph_of([conv("a", "x"), ("p", op, ("a",), {}), ("q", op, ("p",), {}), conv("b", "q")]))
    assert sites.decisions == ("x", "a", "b")
    assert sites.decision_of["q"] == sites.decision_of["p"] == "a"


def test_layer_keeps_its_decision_when_a_pool_comes_before_the_join():
    sites = find_sites(graph_of([conv("a", "x"), ("p", "max_pool2d", ("a",), {}), ("j", "add", ("p", "x"), {})]))
    assert (sites.decisions, sites.wide) == (("x", "a", "j"), frozenset())


def test_output_decision_is_found_through_operators_that_only_select():
    sites = find_sites(graph_of([conv("a", "x"), ("f", "flatten", ("a",), {})]))
    assert sites.outputs == {"a"}


def test_average_pool_is_wide_when_only_a_concat_reads_it():
    nodes = [("p", "avg_pool2d", ("x",), {}), conv("a", "x"), ("j", "concat", ("p", "a"), {})]
    assert find_sites(graph_of(nodes)).wide == {"p", "a"}


def test_sign_is_inherited_when_all_branches_are_nonnegative():
    nodes = [conv("a", "x", relu=True), ("m", "max_pool2d", ("a",), {}), conv("b", "x", relu=True), conv("c", "x")]
    nodes += [("j", "concat", ("m", "b"), {}), ("k", "concat", ("b", "c"), {}), ("v", "avg_pool2d", ("j",), {})]
    sites = find_sites(graph_of(nodes, outputs=("k", "v")))
    assert sites.nonnegative == {"a", "b", "j", "v"}


def test_join_of_lone_relus_is_nonnegative():
    nodes = [("r", "relu", ("x",), {}), ("s", "relu", ("y",), {}), ("j", "add", ("r", "s"), {})]
    assert find_sites(graph_of(nodes, inputs=("x", "y"))).nonnegative == {"j"}


def test_layer_before_a_lone_relu_is_signed():
    nodes = [conv("a", "x"), ("r", "relu", ("a",), {}), ("j", "add", ("a", "r"), {})]
    sites = find_sites(graph_of(nodes))
    assert sites.nonnegative == frozenset()
    assert sites.decision_of["r"] == "a"


def test_resnet_ties_residual_tensors():
    sites = sites_of_case("resnet")
    assert sites.wide == {"layer1.0.bn2", "layer2.0.bn2", "layer2.0.downsample.1", "layer2.1.bn2"}
    assert sites.decisions == (
        "x",
        "relu",
        "layer1.0.relu",
        "layer1.0.relu:1",
        "layer2.0.relu",
        "layer2.0.relu:1",
        "layer2.1.relu",
        "layer2.1.relu:1",
        "avgpool",
        "fc",
    )
    assert sites.nonnegative == set(sites.decisions) - {"x", "fc"}
    assert (sites.inputs, sites.outputs) == ({"x"}, {"fc"})


def test_densenet_reads_its_features_many_times():
    sites = sites_of_case("densenet")
    assert "stem" in sites.decisions  # read by three concats
    assert "convs.1" in sites.wide  # read by the last concat only


def test_squeezenet_expands_straight_into_the_concat():
    sites = sites_of_case("squeezenet")
    assert len(sites.wide) == 2
    assert "0.3:concat" in sites.nonnegative


def clipped_of(*args, **options):
    graph = graph_of(*args, **options)
    return find_clipped(graph, find_sites(graph))


def test_relu_clips_the_concat_when_a_wide_branch_ends_in_it():
    nodes = [conv("a", "x", relu=True), conv("b", "x"), ("j", "concat", ("a", "b"), {}), conv("c", "j")]
    assert clipped_of(nodes) == {"j"}


def test_relu_of_a_wide_branch_does_not_clip_the_sum():
    assert clipped_of([conv("a", "x", relu=True), conv("b", "x"), ("j", "add", ("a", "b"), {})]) == frozenset()


def test_lone_relu_clips_the_decision_it_reads_through_operators_that_only_select():
    nodes = [conv("a", "x"), ("p", "max_pool2d", ("a",), {}), ("r", "relu", ("p",), {}), ("j", "add", ("p", "r"), {})]
    assert clipped_of(nodes) == {"a"}


def test_batch_norm_is_refused():
    model, inputs = build("mlp_batchnorm")
    with pytest.raises(GraphError, match=r"1: batch norm must be folded .* Call canonicalize"):
        find_sites(capture(model, inputs))


def test_output_that_is_an_input_is_refused():
    with pytest.raises(GraphError, match="a network output is a network input"):
        find_sites(graph_of([("r", "relu", ("x",), {})]))
