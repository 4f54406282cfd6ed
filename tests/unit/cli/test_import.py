"""``dyadiq import``: a QONNX file to a program that the other commands take."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from dyadiq.core.data_folder import data_folder
from dyadiq.ir.reference import run_reference
from dyadiq.ir.serialize import load_program
from dyadiq.targets import get_target
from dyadiq.targets.dyq import read_dyq
from programs import mlp, raw_inputs
from qdq_models import Quantized, body

ZOO = data_folder() / "models" / "qkeras_jettagging.onnx"


@pytest.fixture
def model(tmp_path):
    (file,) = get_target("qonnx").write(mlp(np.random.default_rng(0), (4, 3, 2), dyadic=False), tmp_path)
    return file


@pytest.mark.parametrize("suffix", [".dyq", ".safetensors"])
def test_imported_programs_can_be_verified(cli, model, tmp_path, suffix):
    program = mlp(np.random.default_rng(0), (4, 3, 2), dyadic=False)
    result = cli("import", model, "--out", tmp_path / f"p{suffix}", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["schema"], document["tensors"][0]["type"]) == ("dyadiq.import/1", "int8")
    back = read_dyq(tmp_path / "p.dyq") if suffix == ".dyq" else load_program(tmp_path / "p.safetensors")
    x = raw_inputs(program, np.random.default_rng(1))["x0"]
    (want,), (got,) = (run_reference(p, x).values() for p in (program, back))
    np.testing.assert_array_equal(got, want)
    np.save(tmp_path / "x.npy", x)
    verified = cli("verify", tmp_path / f"p{suffix}", "--inputs", tmp_path / "x.npy", "--against", "onnx")
    assert verified.exit_code == 0, verified.stderr


def test_tensors_and_notes_are_shown(cli, model, tmp_path):
    result = cli("import", model, "--out", tmp_path / "p.dyq")
    assert result.exit_code == 0, result.stderr
    assert "int8" in result.stdout


def test_every_offending_node_is_listed(cli, model, tmp_path):
    proto = onnx.load(model)
    last = proto.graph.output[0].name
    proto.graph.node.append(helper.make_node("Sin", [last], ["a"], name="wave"))
    proto.graph.node.append(helper.make_node("Softmax", [last], ["b"], name="soft"))
    proto.graph.output[0].name = "a"
    proto.graph.output.append(helper.make_tensor_value_info("b", 1, None))
    onnx.save(proto, tmp_path / "bad.onnx")
    result = cli("import", tmp_path / "bad.onnx", "--out", tmp_path / "p.dyq")
    assert result.exit_code == 2
    assert "2 parts cannot be expressed" in result.stderr
    assert "wave (Sin)" in result.stderr
    assert "soft (Softmax)" in result.stderr
    assert not (tmp_path / "p.dyq").exists()


@pytest.mark.skipif(not ZOO.is_file(), reason="needs DYADIQ_DATA with models/qkeras_jettagging.onnx")
def test_inputs_without_quantizers_get_their_type_and_softmax_is_cut_off(cli, tmp_path):
    options = ("--output", "Add_3_out0", "--input-type", "global_in=int16:2^-10")
    result = cli("import", ZOO, "--out", tmp_path / "p.safetensors", *options)
    assert result.exit_code == 0, result.stderr
    assert "global_in" in result.stdout
    assert load_program(tmp_path / "p.safetensors").graph.nodes[0].op == "quantize"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "p.txt"), "expected a file that ends in .dyq or .safetensors"),
        (("--out", "p.dyq", "--input-type", "x:int8"), "--input-type x:int8: expected NAME=TYPE:SCALE"),
        (("--out", "p.dyq", "--input-type", "x=int8:2^x"), "expected NAME=TYPE:SCALE"),
        (("--out", "p.dyq", "--input-type", "x=int8:-1"), "expected NAME=TYPE:SCALE"),
        (("--out", "p.dyq", "--input-type", "x=byte:1"), "unknown input 'x'"),
        (("--out", "p.dyq", "--output", "t9"), "unknown tensor 't9'"),
    ],
)
def test_wrong_options_are_refused(cli, model, arguments, message):
    result = cli("import", model, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_files_with_quantizers_of_onnx_are_read_exactly_or_nearly_and_say_so(cli, tmp_path):
    m = Quantized(3, 6, 12)
    body(m)
    (tmp_path / "qdq.onnx").write_bytes(m.proto().SerializeToString())
    refused = cli("import", tmp_path / "qdq.onnx", "--out", tmp_path / "p.dyq")
    assert refused.exit_code == 2
    assert "or allow near ones (nearest=True; --nearest)" in " ".join(refused.stderr.split())
    near = cli("import", tmp_path / "qdq.onnx", "--out", tmp_path / "p.dyq", "--nearest")
    assert near.exit_code == 0, near.stderr
    assert "roundings have near integer forms, not exact ones: codes may differ by one" in " ".join(near.stderr.split())
    assert read_dyq(tmp_path / "p.dyq").graph.outputs
