"""Graphs and programs to files and back: values, dtypes and every order."""

import numpy as np
import pytest

from dyadiq.core.artifact import write_artifact
from dyadiq.core.errors import ArtifactError, GraphError
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.serialize import graph_to_payload, load_graph, load_program, save_graph, save_program
from programs import PROGRAMS


def assert_equal_graphs(a, b):
    assert (a.dialect, a.inputs, a.outputs, a.nodes) == (b.dialect, b.inputs, b.outputs, b.nodes)
    assert (dict(a.meta), list(a.param_types.items())) == (dict(b.meta), list(b.param_types.items()))
    assert list(a.tensors) == list(b.tensors)
    for name, info in a.tensors.items():
        other = b.tensors[name]
        assert (info.shape, info.qtype, info.zero_point) == (other.shape, other.qtype, other.zero_point)
        assert (info.scale is None) == (other.scale is None)
        if info.scale is not None:
            assert (info.scale.shape, info.scale.tobytes()) == (other.scale.shape, other.scale.tobytes())
    assert list(a.params) == list(b.params)
    for name, value in a.params.items():
        other = b.params[name]
        assert (value.dtype, value.shape, value.tobytes()) == (other.dtype, other.shape, other.tobytes())


def float_graph():
    nodes = (
        Node("conv", "conv2d", ("x", "z.weight", "a.bias"), "relu", {"stride": (1, 2), "groups": 1}, "model.py:3"),
        Node("fc", "linear", ("relu", "fc.weight"), "fc", {"activation": "relu"}),
    )
    params = {
        "z.weight": np.array([[0.1, -0.0]], dtype=np.float32),
        "a.bias": np.array([1e-310]),
        "fc.weight": np.zeros((0, 2), dtype=np.float32),
    }
    tensors = {"x": TensorInfo((1, 2)), "relu": TensorInfo(()), "fc": TensorInfo((0,))}
    return Graph("float", ("x",), ("fc",), nodes, tensors, params, meta={"model": "Net", "versions": ["1", None]})


def test_float_graph_round_trips(tmp_path):
    save_graph(tmp_path / "g", float_graph())
    assert_equal_graphs(load_graph(tmp_path / "g"), float_graph())


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_round_trips(tmp_path, name):
    made = PROGRAMS[name](np.random.default_rng(0))
    program = IntegerProgram(made.graph, provenance={"seed": 1, "plan": {"w": [4, 0.1]}})
    save_program(tmp_path / "p", program)
    back = load_program(tmp_path / "p")
    assert_equal_graphs(back.graph, program.graph)
    assert (back.spec_version, back.provenance) == (program.spec_version, program.provenance)


def test_bytes_are_equal_when_programs_are(tmp_path):
    for file in ("a", "b"):
        save_program(tmp_path / file, PROGRAMS["mlp"](np.random.default_rng(0)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_lists_in_attributes_come_back_as_tuples(tmp_path):
    graph = float_graph()
    nodes = (Node("conv", "conv2d", ("x",), "relu", {"padding": [[1, 2], {"a": [3]}]}),)
    save_graph(tmp_path / "g", graph.replace(nodes=nodes))
    assert load_graph(tmp_path / "g").nodes[0].attrs == {"padding": ((1, 2), {"a": (3,)})}


def test_save_refuses_when_an_attribute_is_not_json(tmp_path):
    nodes = (Node("conv", "conv2d", ("x",), "relu", {"stride": np.int64(1)}),)
    with pytest.raises(ArtifactError, match="cannot be stored as JSON"):
        save_graph(tmp_path / "g", float_graph().replace(nodes=nodes))


def test_load_refuses_when_program_follows_a_newer_specification(tmp_path):
    save_program(tmp_path / "p", IntegerProgram(PROGRAMS["mlp"](np.random.default_rng(0)).graph, spec_version=4))
    with pytest.raises(ArtifactError, match=r"version 4 of the integer specification.*implements versions up to 3"):
        load_program(tmp_path / "p")


def test_programs_have_the_oldest_version_that_says_all_they_use():
    versions = {name: PROGRAMS[name](np.random.default_rng(0)).spec_version for name in ("pow2_mlp", "pow2_grids")}
    assert versions == {"pow2_mlp": 1, "pow2_grids": 2}


def test_grids_in_a_program_of_version_1_are_refused():
    graph = PROGRAMS["pow2_grids"](np.random.default_rng(0)).graph
    with pytest.raises(GraphError, match=r"quantize0: a grid for every channel is part of version 2 .* says version 1"):
        IntegerProgram(graph, spec_version=1)


def test_load_refuses_when_a_float_graph_is_called_a_program(tmp_path):
    payload, arrays = graph_to_payload(float_graph())
    document = {"graph": payload, "spec_version": 1, "provenance": {}}
    write_artifact(tmp_path / "p", "dyadiq.program/1", document, arrays)
    with pytest.raises(ArtifactError, match="not a valid integer program: an IntegerProgram needs the integer dialect"):
        load_program(tmp_path / "p")


def test_load_refuses_when_a_parameter_is_missing(tmp_path):
    payload, arrays = graph_to_payload(float_graph())
    del arrays["param.a.bias"]
    write_artifact(tmp_path / "g", "dyadiq.graph/1", payload, arrays)
    with pytest.raises(ArtifactError, match=r"not a valid graph: 'param\.a\.bias' is missing"):
        load_graph(tmp_path / "g")


def test_load_refuses_when_file_holds_another_noun(tmp_path):
    save_graph(tmp_path / "g", float_graph())
    with pytest.raises(ArtifactError, match=r"holds a dyadiq\.graph, expected a dyadiq\.program"):
        load_program(tmp_path / "g")
