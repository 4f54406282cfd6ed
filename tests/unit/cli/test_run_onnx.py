"""``dyadiq run net.onnx``: a float network of others through the whole chain."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dyadiq.core.errors import ConfigError
from dyadiq.ir.execute import run_graph
from dyadiq.ir.serialize import load_graph
from dyadiq.recipe import load_recipe, onnx_recipe
from dyadiq.zoo import build_model
from dyadiq.zoo.npz_data import load_npz_dataset
from float_onnx import FloatModel, run_onnxruntime
from qdq_models import Quantized
from tiny_run import write_tiny_recipe

pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")


def network(path, seed):
    m = FloatModel(16, seed=seed)
    x = m.op("Relu", m.op("Gemm", "x", m.weight("fc1.weight", 200, 16), m.weight("fc1.bias", 200), transB=1))
    x = m.op("Gemm", x, m.weight("fc2.weight", 5, 200), m.weight("fc2.bias", 5), transB=1, output="logits")
    m.op("Softmax", x)
    path.write_bytes(m.proto().SerializeToString())
    return m.proto("logits")


def test_onnx_file_goes_through_the_chain_and_is_read_again_when_it_changes(cli, tmp_path):
    write_tiny_recipe(tmp_path)
    path, run = tmp_path / "net.onnx", tmp_path / "run"
    sets = ("analyze.n_samples=64", f"out={run}", "model.args.output=logits", "verify.if_available=[]")
    command = ("run", path, "--data", tmp_path / "tiny.npz", "--budget", "size=70%", "--json")
    x = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    for seed in (0, 1):
        proto = network(path, seed)
        result = cli(*command, *(f"--set={text}" for text in sets))
        assert result.exit_code == 0, result.stderr
        summary = json.loads(result.stdout)
        assert summary["name"] == "net"
        assert summary["verify"]["exact"]["mismatches"] == 0
        assert summary["size_bytes"] <= 0.7 * summary["size_float_bytes"]
        assert set(summary["weight_bits"]) == {"fc1.weight", "fc2.weight"}
        (found,) = run_graph(load_graph(run / "capture" / "graph.safetensors"), torch.from_numpy(x))
        wanted = run_onnxruntime(proto, x)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_recipe_finds_the_file_beside_itself_and_says_what_is_wrong(cli, tmp_path):
    network(tmp_path / "net.onnx", 0)
    recipe = write_tiny_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace('"jet_tagger"', '"net.onnx"'))
    assert load_recipe(recipe).model.name == str(tmp_path / "net.onnx")
    refused = cli("run", recipe, "--set", f"out={tmp_path / 'run'}")
    assert refused.exit_code == 2
    assert "Softmax in 'softmax_3' (makes softmax_3): no such operator" in " ".join(refused.stderr.split())
    recipe.write_text(recipe.read_text().replace('"net.onnx"', '"absent.onnx"'))
    with pytest.raises(ConfigError, match=r"model\.name: no such file: .*absent\.onnx\. Expected an ONNX file"):
        load_recipe(recipe)


def test_data_are_asked_for(cli, tmp_path):
    network(tmp_path / "net.onnx", 0)
    for arguments, message in (
        ((tmp_path / "net.onnx",), "an ONNX file holds no data, and choosing bits needs samples. Give --data"),
        ((tmp_path / "absent.onnx", "--data", "digits"), "no such file. Give the path of an ONNX file"),
        ((write_tiny_recipe(tmp_path), "--data", "digits"), "names its data itself. Use --set data.name="),
    ):
        result = cli("run", *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    assert onnx_recipe(tmp_path / "net.onnx", None, ["data.name=digits"]).data.name == "digits"


def test_onnx_file_is_a_module_whose_parameters_may_change(tmp_path):
    proto = network(tmp_path / "net.onnx", 0)
    model = build_model(str(tmp_path / "net.onnx"), output="logits")
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    wanted = run_onnxruntime(proto, x.numpy())
    np.testing.assert_allclose(model(x).detach().numpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not model(x).any()
    assert all(not values.any() for values in model.graph().params.values())
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_network_without_parameters_is_refused(tmp_path):
    m = FloatModel(16)
    m.op("Relu", "x")
    (tmp_path / "net.onnx").write_bytes(m.proto().SerializeToString())
    with pytest.raises(ConfigError, match="a network without parameters: there is nothing to quantize"):
        build_model(str(tmp_path / "net.onnx"))


def quantized_network(path):
    """A linear layer between quantizers, as wide as the tiny data."""
    m = Quantized(16)
    m.q(
        m.op("Gemm", m.op("Relu", m.q(m.op("Gemm", m.q("x"), m.w(16, 20, axis=1)), scale=0.3)), m.w(20, 5, axis=1)), 2.0
    )
    path.write_bytes(m.proto().SerializeToString())
    return m.proto()


def test_quantized_file_is_compared_measured_and_exported(cli, tmp_path):
    write_tiny_recipe(tmp_path)
    proto = quantized_network(tmp_path / "qdq.onnx")
    command = ("run", tmp_path / "qdq.onnx", "--data", tmp_path / "tiny.npz", "--set", f"out={tmp_path / 'run'}")
    result = cli(*command, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == "dyadiq.imported/1"
    assert document["verify"]["exact"]["mismatches"] == 0
    assert document["verify"]["onnx"]["samples"] == 100
    assert document["size_bytes"] == Path(document["artifacts"]["dyq"]).stat().st_size
    data = load_npz_dataset(path=tmp_path / "tiny.npz")
    theirs = (run_onnxruntime(proto, data.test.x).argmax(axis=1) == data.test.y).mean()
    assert document["accuracy"]["integer"] == pytest.approx(theirs, abs=0.02)
    shown = cli(*command)
    assert shown.exit_code == 0
    assert "compared with the reference" in shown.stdout
    refused = cli(*command, "--budget", "size=25%")
    assert refused.exit_code == 2
    assert "is quantized already, so that no bits are left to choose" in " ".join(refused.stderr.split())


def test_quantized_file_needs_data_of_its_shape_and_a_folder_of_its_own(cli, tmp_path):
    quantized_network(tmp_path / "qdq.onnx")
    wrong = cli("run", tmp_path / "qdq.onnx", "--data", "digits", "--set", f"out={tmp_path / 'run'}")
    assert wrong.exit_code == 2
    assert "samples of shape [1, 8, 8], but" in " ".join(wrong.stderr.split())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text("{}")
    other = cli("run", tmp_path / "qdq.onnx", "--data", "digits", "--set", f"out={tmp_path / 'other'}")
    assert other.exit_code == 2
    assert "holds another run. Say where: --set out=FOLDER" in " ".join(other.stderr.split())
