"""What benchmarks/tflite_maker.py makes of a quantized network: operators, codes and grids; and that LiteRT runs it."""

import functools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.zoo import build_model

SCRIPT = "tflite_maker"
PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


@functools.cache
def quantized(bits=8):
    batch = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = dq.capture(build_model("cifar_resnet20", width=4).eval(), batch[:1])
    return dq.quantize(graph, uniform_plan(network_facts(canonicalize(graph)), bits, bits), [batch.numpy()]), batch


def real(values, name):
    value = values[name]
    shape = (-1, *[1] * (len(value.shape) - 1))
    return torch.from_numpy(value.data * np.array(value.scale).reshape(shape) if len(value.scale) else value.data)


def run_in_reals(steps, values, first, last, x):
    """What the operators say, with codes times scales as weights and no rounding of activations; channels last."""
    found = {first: x.permute(0, 2, 3, 1).double()}
    for step in steps:
        source, words = found[step.inputs[0]], step.options
        others = [found[name] if name in found else real(values, name) for name in step.inputs[1:]]
        if step.op == "CONV_2D":
            pad, stride = (others[0].shape[1] // 2 if words["padding"] == "SAME" else 0), words["strideH"]
            kernel = others[0].permute(0, 3, 1, 2)
            out = F.conv2d(source.permute(0, 3, 1, 2), kernel, others[1], stride, pad).permute(0, 2, 3, 1)
        elif step.op == "FULLY_CONNECTED":
            out = source @ others[0].T + others[1]
        elif step.op == "ADD":
            out = source + others[0]
        elif step.op == "MEAN":
            out = source.mean(tuple(others[0].tolist()))
        elif step.op == "PAD":
            out = F.pad(source, others[0].flip(0).flatten().tolist())
        elif step.op == "STRIDED_SLICE":
            begin, end, stride = (table[1:].tolist() for table in others)
            out = source[:, *(slice(*ends) for ends in zip(begin, end, stride, strict=True))]
        else:
            out = source
        found[step.output] = out.relu() if words.get("fusedActivationFunction") == "RELU" else out
        assert out.shape[1:] == values[step.output].shape[1:], step.output
    return found[last]


@pytest.mark.parametrize("slices", [False, True])
def test_operators_say_what_the_network_says(script, slices):
    module, batch = quantized()
    steps, values, first, last = script.steps_of(module, batch, slices)
    shortcuts = {"STRIDED_SLICE": 2, "PAD": 4, "CONV_2D": 19} if slices else {"PAD": 2, "CONV_2D": 21}
    assert Counter(step.op for step in steps) == shortcuts | {"QUANTIZE": 1, "ADD": 9, "MEAN": 1, "FULLY_CONNECTED": 1}
    with torch.no_grad():
        expected = module.set_mode_("float")(batch).double()
        module.set_mode_("fake")
        found = run_in_reals(steps, values, first, last, batch)
    # Weights of 8 bits move the logits by about a hundredth; a row of padding on the wrong side, by a tenth or more.
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_codes_and_grids_are_those_of_the_module(script):
    module, batch = quantized()
    _, values, _, _ = script.steps_of(module, batch)
    for name, weight in module.weight_quants().items():
        assert np.array_equal(np.moveaxis(values[name].data, -1, 1), weight.codes)
        assert np.array_equal(values[name].scale, np.broadcast_to(weight.scale, len(weight.codes)))
    for name, quant in module.activation_quants().items():
        if quant.qtype.bits == 8:
            assert (values[name].scale, values[name].zero_point) == ([quant.scale], 0 if quant.qtype.signed else -128)
    for name in module.sites.wide:  # the range of the batch, with 0 on the grid
        assert -128 <= values[name].zero_point <= 127


def test_other_widths_are_refused(script):
    with pytest.raises(ValueError, match="LiteRT's codes have 8 bits"):
        script.steps_of(*quantized(bits=4))


def test_litert_runs_the_file_and_both_forms_of_shortcuts_give_the_same_integers(script):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT (ai-edge-litert) is not installed")
    module, batch = quantized()
    program, found = dq.lower(module), []
    for slices in (False, True):
        steps = script.steps_of(module, batch, slices)
        interpreter = interpreters.Interpreter(model_content=script.tflite_bytes(*steps), num_threads=1)
        interpreter.allocate_tensors()
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        rows = []
        for image in batch:
            interpreter.set_tensor(source["index"], image.permute(1, 2, 0).contiguous().numpy()[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(target["index"])[0].copy())
        found.append(np.array(rows))
    assert np.array_equal(*found)
    scale, zero_point = target["quantization"]
    expected = program.dequantize(dq.run_reference(program, {"x": batch.numpy()}))["linear"]
    error = (found[0].astype(float) - zero_point) * scale - expected
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(expected)


def test_page_says_how_far_litert_agrees():
    rows = json.loads((PAGE.parents[1] / "benchmarks/results/litert_agreement.json").read_text())
    row, ours = rows["litert"], rows["ours"]
    said = f"{row['same_class_percent']} % ({ours['accuracy_percent']} and {row['accuracy_percent']} % right)"
    assert f"| {said} |" in PAGE.read_text()
