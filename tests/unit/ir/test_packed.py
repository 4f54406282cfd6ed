"""Programs as parts of a packed file: what fits, what does not, and sizes that depend on widths only."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dyadiq.core.container import tensor_payload_bytes
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.qtype import QType
from dyadiq.ir.integer import WIDE_BIAS, IntegerProgram
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.packed import find_unpackable, pack_program, packed_size_parts
from dyadiq.ir.probe import probe_program
from dyadiq.ir.quantized import ActivationQuant, WeightQuant
from dyadiq.ir.sites import find_sites
from dyadiq.ir.unpacked import unpack_program
from graphs import NETWORKS
from programs import PROGRAMS


def lowered(graph, weight_bits, activation_bits, seed=0, product_bits=None):
    """A program of a float graph with random codes and scales."""
    rng = np.random.default_rng(seed)
    weights = {}
    for node in graph.nodes:
        if node.op in ("conv2d", "linear"):
            shape = graph.params[node.inputs[1]].shape
            qtype = QType(weight_bits, signed=True, bipolar=weight_bits == 1)
            codes = rng.choice([-1, 1], shape) if qtype.bipolar else rng.integers(qtype.qmin, qtype.qmax + 1, shape)
            scale = rng.uniform(0.01, 0.02, shape[0])
            weights[node.inputs[1]] = WeightQuant(codes, qtype, scale, np.zeros(shape[0], dtype=np.int64))
    qtype = QType(activation_bits, signed=False)
    activations = {name: ActivationQuant(qtype, rng.uniform(0.1, 0.2)) for name in find_sites(graph).decisions}
    return lower_graph(graph, weights, activations, QuantConfig(product_bits=product_bits))


@pytest.mark.parametrize("product_bits", [None, 31])
@pytest.mark.parametrize("name", NETWORKS)
def test_fixed_size_equals_the_probe_when_bits_and_values_change(name, product_bits):
    graph = NETWORKS[name]()
    config = QuantConfig(weight=Format(8, granularity="channel"), product_bits=product_bits)
    fixed, _ = packed_size_parts(probe_program(graph, config))
    for weight_bits, activation_bits, seed in ((1, 8, 0), (3, 1, 1), (8, 4, 2), (16, 16, 3)):
        if product_bits is not None and weight_bits == 16:
            continue
        program = lowered(graph, weight_bits, activation_bits, seed, product_bits)
        got, parts = packed_size_parts(program)
        assert got == fixed
        for weight, n_bytes in parts.items():
            assert n_bytes == tensor_payload_bytes(program.graph.params[weight].size, weight_bits)


@pytest.mark.parametrize("name", PROGRAMS)
def test_parts_round_trip(name):
    program = PROGRAMS[name](np.random.default_rng(0))
    structure, tensors = pack_program(program)
    values = {spec.name: array for spec, array in tensors}
    back = unpack_program(structure, {spec.name: spec for spec, _ in tensors}, values.__getitem__)
    assert back.graph.nodes == program.graph.nodes
    assert set(back.graph.tensors) == set(program.graph.tensors)
    assert back.graph.params.keys() == program.graph.params.keys()
    for spec, array in tensors:
        assert spec.shape == array.shape


def changed(program, node=None, params=None, **graph_changes):
    """Return a program with one node, some parameters or other fields of its graph exchanged."""
    graph = program.graph
    if node is not None:
        graph = graph.replace(nodes=tuple(node if n.name == node.name else n for n in graph.nodes))
    if params is not None:
        graph = graph.replace(params={**graph.params, **params})
    return IntegerProgram(graph.replace(**graph_changes))


@pytest.fixture
def mlp():
    return PROGRAMS["mlp"](np.random.default_rng(0))


def find_node(program, op):
    return next(n for n in program.graph.nodes if n.op == op)


def test_nothing_is_unpackable_when_program_is_ordinary(mlp):
    assert find_unpackable(mlp) == []


@pytest.mark.parametrize(
    ("op", "position", "values", "reason"),
    [
        ("linear", 1, lambda v: v + 99, r"has values from .* it is stored as int6n \(-31 to 31\)"),
        ("linear", 2, lambda v: v + 2**31, r"has values from .* it is stored as int32"),
        ("linear", 2, lambda v: v.astype(float), "has dtype float64, expected integers"),
        ("requantize", 1, lambda v: v - 1000, "it is stored as uint32"),
        ("requantize", 2, lambda v: v + 256, "it is stored as uint8"),
        ("quantize", 1, lambda v: v.astype(np.float32), "has dtype float32, expected float64"),
    ],
)
def test_parameter_is_unpackable_when_it_does_not_fit_its_role(mlp, op, position, values, reason):
    node = find_node(mlp, op)
    name = node.inputs[position]
    problems = find_unpackable(changed(mlp, params={name: values(mlp.graph.params[name])}))
    assert [n.name for n, _ in problems] == [node.name]
    assert re.search(reason, problems[0][1])


def test_weight_is_unpackable_when_it_has_no_type_or_a_wide_one(mlp):
    name = find_node(mlp, "linear").inputs[1]
    types = dict(mlp.graph.param_types)
    del types[name]
    assert "has no code type" in find_unpackable(changed(mlp, param_types=types))[0][1]
    types[name] = QType(33, signed=True)
    assert "at most 32 bits" in find_unpackable(changed(mlp, param_types=types))[0][1]


def test_parameter_is_unpackable_when_its_name_is_taken(mlp):
    node = find_node(mlp, "requantize")
    renamed = replace(node, inputs=(node.inputs[0], "@types", node.inputs[2]))
    problems = find_unpackable(changed(mlp, renamed, params={"@types": np.array([1])}))
    assert "begins with '@', which is kept" in problems[0][1]


def test_parameter_is_unpackable_when_it_has_two_roles(mlp):
    node = find_node(mlp, "requantize")
    problems = find_unpackable(changed(mlp, replace(node, inputs=(*node.inputs[:2], node.inputs[1]))))
    assert any("is used in two roles; give each its own" in reason for _, reason in problems)


def test_node_is_unpackable_when_it_has_an_unknown_attribute(mlp):
    node = find_node(mlp, "requantize")
    problems = find_unpackable(changed(mlp, replace(node, attrs={**node.attrs, "rounding": "up"})))
    assert problems[0][1] == "attribute 'rounding' is not part of the operator; leave it out"


def test_node_is_unpackable_when_a_bound_does_not_fit(mlp):
    node = find_node(mlp, "requantize")
    problems = find_unpackable(changed(mlp, replace(node, attrs={**node.attrs, "clip_max": 1 << 63})))
    assert "clip_max 9223372036854775808 does not fit 64 bits" in problems[0][1]


def test_node_is_unpackable_when_its_zero_point_does_not_fit(mlp):
    node = find_node(mlp, "requantize")
    info = replace(mlp.graph.tensors[node.output], zero_point=-(1 << 31) - 1)
    problems = find_unpackable(changed(mlp, tensors={**mlp.graph.tensors, node.output: info}))
    assert f"tensor '{node.output}' has zero point -2147483649, outside int32" in problems[0][1]


@pytest.mark.parametrize("attribute", ["zero_point", "pad_value"])
def test_node_is_unpackable_when_a_zero_point_among_its_attributes_does_not_fit(attribute):
    program = PROGRAMS["zero_points"](np.random.default_rng(0))
    node = find_node(program, "requantize" if attribute == "zero_point" else "conv2d")
    problems = find_unpackable(changed(program, replace(node, attrs={**node.attrs, attribute: 1 << 31})))
    assert [reason for _, reason in problems] == [f"{attribute} 2147483648 does not fit 32 bits; narrow the tensor"]


def test_input_is_unpackable_when_its_zero_point_does_not_fit(mlp):
    (name,) = mlp.graph.inputs
    info = replace(mlp.graph.tensors[name], zero_point=1 << 31)
    ((node, reason),) = find_unpackable(changed(mlp, tensors={**mlp.graph.tensors, name: info}))
    assert node.op == "quantize"
    assert f"tensor {name!r} has zero point 2147483648, outside int32" in reason


def test_output_is_unpackable_when_its_scale_has_another_shape(mlp):
    (name,) = mlp.graph.outputs
    for shape in ((2,), (5, 1)):
        info = replace(mlp.graph.tensors[name], scale=np.ones(shape))
        problems = find_unpackable(changed(mlp, tensors={**mlp.graph.tensors, name: info}))
        assert re.search(rf"has a scale of shape \[{shape[0]}.*\], expected \[\] or \[5\]", problems[0][1])


def test_parameter_is_unpackable_when_it_has_a_type_and_is_no_weight(mlp):
    name = find_node(mlp, "requantize").inputs[1]
    types = {**mlp.graph.param_types, name: QType(8, signed=False)}
    assert "is no weight, but has a code type" in find_unpackable(changed(mlp, param_types=types))[0][1]


def unpack(structure, tensors):
    values = {spec.name: array for spec, array in tensors}
    return unpack_program(structure, {spec.name: spec for spec, _ in tensors}, values.__getitem__)


def test_structure_is_short_when_names_are_usual():
    program = lowered(NETWORKS["mlp"](), 4, 8)
    structure, tensors = pack_program(program)
    assert b"multiplier" not in structure
    assert b":bias" not in structure
    assert b":requantize" not in structure
    assert unpack(structure, tensors).graph.nodes == tuple(replace(node, source="") for node in program.graph.nodes)


def test_parameters_are_stored_once_when_nodes_share_them(mlp):
    first, second = (n for n in mlp.graph.nodes if n.op == "requantize" and mlp.graph.params[n.inputs[1]].size != 5)
    shared = np.array([3])
    graph = mlp.graph.replace(
        nodes=tuple(
            replace(n, inputs=(n.inputs[0], *first.inputs[1:])) if n.name == second.name else n for n in mlp.graph.nodes
        ),
        params={n: v for n, v in mlp.graph.params.items() if n not in second.inputs}
        | dict.fromkeys(first.inputs[1:], shared),
    )
    structure, tensors = pack_program(IntegerProgram(graph))
    (multipliers,) = [values for spec, values in tensors if spec.name == "@multiplier"]
    assert multipliers.size == 1 + 5
    assert unpack(structure, tensors).graph.nodes == graph.nodes


_OTHER = "its structure and tables are not those that its program asks for"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["outputs"].append(99), "reference 99 to nothing"),
        (lambda d: d["outputs"].append(-1), "reference -1 to nothing"),
        (lambda d: d["nodes"][1][3].__setitem__(0, 3), "reference 3 to nothing that comes before it"),
        (lambda d: d["nodes"][0].__setitem__(0, "conv9d"), "unknown operator 'conv9d'"),
        (lambda d: d["nodes"][0].append(1), "longer"),
        (lambda d: d["nodes"][0].append(0.5), "attributes .0.5. of 'quantize'"),
        (lambda d: d["nodes"][0].__setitem__(1, 5), "name 5 or attributes"),
        (lambda d: d["nodes"][0].__setitem__(2, 5), "name 5 of a tensor"),
        (lambda d: d["inputs"][0].__setitem__(1, 16.0), "shape .16.0. of input"),
        (lambda d: d["nodes"][1][3][2].__setitem__(0, -1), "shape .-1. of values of table '@bias'"),
        (lambda d: d["nodes"][-1][3][2].__setitem__(0, 1 << 40), "table '@shift' is too short"),
        (lambda d: d["outputs"].__setitem__(0, True), _OTHER),
        (lambda d: d.__setitem__("more", 1), _OTHER),
        (lambda d: d["nodes"][-1][3][2].__setitem__(1, d["nodes"][-1][3][1][1]), _OTHER),  # two parameters of one name
    ],
)
def test_unpack_refuses_when_structure_does_not_fit_its_tensors(mlp, edit, message):
    structure, tensors = pack_program(mlp)
    document = json.loads(structure)
    edit(document)
    with pytest.raises(ValueError, match=message):
        unpack(json.dumps(document, separators=(",", ":")).encode(), tensors)


def test_unpack_refuses_when_structure_is_written_in_another_way(mlp):
    structure, tensors = pack_program(mlp)
    with pytest.raises(ValueError, match=_OTHER):
        unpack(structure + b" ", tensors)


@pytest.mark.parametrize("name", ["@type", "@zero_point", "@clip", "@scale", "@bias", "@multiplier", "@shift"])
def test_unpack_refuses_when_values_of_a_table_are_left_over(mlp, name):
    structure, tensors = pack_program(mlp)
    longer = []
    for spec, values in tensors:
        grown = np.concatenate([values, values[:1]]) if spec.name == name else values
        longer.append((replace(spec, shape=grown.shape), grown))
    with pytest.raises(ValueError, match=_OTHER):
        unpack(structure, longer)


def test_unpack_refuses_when_a_tensor_has_an_unknown_flag(mlp):
    structure, tensors = pack_program(mlp)
    for spec, values in tensors:
        if spec.name == "@type":
            values[3] |= 64
    with pytest.raises(ValueError, match=_OTHER):
        unpack(structure, tensors)


@pytest.mark.parametrize("name", NETWORKS)
def test_biases_come_back_when_they_are_wide(name):
    program = lowered(NETWORKS[name](), 8, 8)
    biases = [i for n in program.graph.nodes for i in n.inputs if program.graph.param_types.get(i) == WIDE_BIAS]
    values = np.random.default_rng(0)
    params = {i: values.integers(-(1 << 62), 1 << 62, program.graph.params[i].shape) for i in biases}
    program = changed(program, params=params)
    assert find_unpackable(program) == []
    back = unpack(*pack_program(program))
    assert back.graph.param_types == program.graph.param_types
    for i in biases:
        assert np.array_equal(back.graph.params[i], params[i])
    assert pack_program(back)[0] == pack_program(program)[0]


def test_bias_is_unpackable_when_others_have_another_type():
    program = lowered(NETWORKS["mlp"](), 8, 8)
    first = next(i for i, qtype in program.graph.param_types.items() if qtype == WIDE_BIAS)
    types = {i: qtype for i, qtype in program.graph.param_types.items() if i != first}
    reason = find_unpackable(changed(program, param_types=types))[0][1]
    assert re.search(r"has type None, expected int64: biases are all int64, or none has a type", reason)


def test_bias_is_unpackable_when_it_is_narrow_and_does_not_fit():
    program = lowered(NETWORKS["mlp"](), 8, 8, product_bits=31)
    name = next(i for node in program.graph.nodes for i in node.inputs if i.endswith(":bias"))
    params = {name: np.full_like(program.graph.params[name], 1 << 31)}
    assert "it is stored as int32" in find_unpackable(changed(program, params=params))[0][1]
