from dataclasses import replace

import numpy as np
import pytest
import torch

from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.dyadic import to_dyadic
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.reference import run_reference
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.quant.snap import widest_dyadic
from trainable import MODELS, captured, samples_of

NARROW = 24  # as for executors in float32
CONFIGS = {
    "channel": QuantConfig(),
    "tensor": QuantConfig(weight=Format(8, signed=True)),
    "asymmetric": QuantConfig(Format(8, "asymmetric", granularity="channel"), Format(8, "asymmetric")),
    "group": QuantConfig(weight=Format(8, signed=True, granularity="group", group_size=2)),
}


def quantized(name, bits, config, n=64):
    model, graph = captured(name)
    if name == "joins" and config.weight.granularity == "group":
        config = replace(config, weight=replace(config.weight, group_size=1))
    x = samples_of(model, n)
    return quantize(graph, uniform_plan(network_facts(canonicalize(graph), config), *bits), [x], config=config), x


def ratio_errors(program):
    """Relative error of every requantization of a dot product, from the scales that the program carries."""
    graph, errors = program.graph, {}
    for node in graph.nodes:
        if node.op != "requantize" or graph.producer(node.inputs[0]).op not in ("conv2d", "linear"):
            continue
        ratio = np.atleast_1d(graph.tensors[node.inputs[0]].scale) / graph.tensors[node.output].scale
        dyadic = graph.params[node.inputs[1]] / 2.0 ** graph.params[node.inputs[2]]
        errors[node.name] = float(np.abs(dyadic / ratio - 1).max())
    return errors


def slow_choice(ratio, partial, bits, limit):
    for width in range(bits, 0, -1):
        multiplier, shift = to_dyadic(ratio, width)
        if partial * multiplier + (1 << shift - 1 if shift else 0) < limit:
            return multiplier, shift
    return None


@pytest.mark.parametrize("limit_bits", [12, 18, 24, 40])
@pytest.mark.parametrize("bits", [1, 5, 16, 31])
def test_choice_is_that_of_lowering(bits, limit_bits):
    rng = np.random.default_rng(bits)
    ratio = np.concatenate([2.0 ** rng.uniform(-20, 3, 60), 2.0 ** np.arange(-20, 3), 0.75 * 2.0 ** np.arange(-20, 3)])
    partial = np.floor(2.0 ** rng.uniform(0, 20, len(ratio)))
    given = torch.from_numpy(ratio), torch.from_numpy(partial)
    got = widest_dyadic(*given, bits=bits, limit=2.0**limit_bits)
    for i in range(len(ratio)):
        want = slow_choice(float(ratio[i]), int(partial[i]), bits, 1 << limit_bits)
        dyadic, multiplier, rounding = (float(v[i]) for v in got)
        if want is None:
            assert (dyadic, multiplier, rounding) == (ratio[i], 0, 0)
        else:
            assert (dyadic, multiplier) == (want[0] / 2 ** want[1], want[0])
            assert rounding == (2 ** (want[1] - 1) if want[1] else 0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("narrow", [{"product_bits": NARROW}, {"multiplier_bits": 3}])
def test_ratios_of_dot_products_are_exact_when_multipliers_are_narrow(name, config, narrow):
    qmod, x = quantized(name, (3, 4), replace(CONFIGS[config], **narrow))
    program = lower(qmod)
    assert max(ratio_errors(program).values()) < 1e-12
    multipliers = [program.graph.params[n.inputs[1]].max() for n in program.graph.nodes if n.op == "requantize"]
    assert max(multipliers) < 1 << 16
    got = qmod.set_mode_("exact")(x)
    assert np.array_equal(got.numpy(), run_reference(program, x.numpy())[program.graph.outputs[0]])


@pytest.mark.parametrize("name", ["residual", "perceptron"])
def test_fake_values_are_nearer_to_the_integers_when_scales_are_snapped(name):
    errors = {}
    for snapped in (True, False):
        qmod, x = quantized(name, (3, 4), QuantConfig(product_bits=18))
        if not snapped:
            qmod._snapped = set()
        program = lower(qmod)
        exact = program.dequantize(run_reference(program, x.numpy()))[program.graph.outputs[0]]
        fake = qmod.double().eval()(x.double()).detach().numpy()
        errors[snapped] = np.sqrt(((fake - exact) ** 2).mean()) / exact.std()
    assert errors[True] < 0.6 * errors[False]
    assert errors[True] < 0.02


def test_scales_are_the_quantizers_own_when_multipliers_are_wide():
    qmod, _ = quantized("residual", (3, 4), QuantConfig())
    for name, quant in qmod.weight_quants().items():
        assert np.array_equal(quant.scale, qmod.quantizers_by_name()[name].affine_params().scale)


def test_weight_quantizers_get_gradients_when_their_scales_are_snapped():
    qmod, x = quantized("residual", (3, 4), QuantConfig(product_bits=NARROW))
    qmod.train()(x).square().sum().backward()
    for name in qmod.weight_quants():
        gain = qmod.quantizers_by_name()[name].log2_gain
        assert torch.isfinite(gain.grad).all(), name
        assert gain.grad.abs().sum() > 0, name
