"""QuantModule: what it computes in every mode, its state, and what it refuses. Training: `test_module_training`."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.core.affine import quantize as codes_of
from dyadiq.core.errors import ConfigError, DataError, QuantError, UnknownNameError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.execute import run_graph
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.reference import run_reference
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from quantized_modules import CONFIGS, FLOAT_CLOSE, POW2_CONFIGS, Plain, plain, quantized
from trainable import MODELS, captured, samples_of


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def test_state_dict_has_the_names_of_the_model_when_quantizers_are_left_out(name):
    model, qmod, _ = quantized(name)
    own = {k: v for k, v in qmod.state_dict().items() if not k.startswith("quantizers.")}
    assert set(own) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(own[key], value), key
    parameters = {k for k, _ in qmod.named_parameters() if not k.startswith("quantizers.")}
    assert parameters == {k for k, _ in model.named_parameters()}
    decisions = set(qmod.plan.formats)
    assert {k.removeprefix("quantizers.").rpartition(".")[0] for k in qmod.state_dict()} >= decisions


def test_output_equals_the_model_when_in_float_mode(name):
    model, qmod, x = quantized(name)
    qmod.set_mode_("float").eval()
    torch.testing.assert_close(qmod(x), model(x), **FLOAT_CLOSE)


@pytest.mark.parametrize("config", [c for c in CONFIGS if c != "percentile"])  # which clips by intent
def test_output_is_close_to_the_model_when_at_sixteen_bits(name, config):
    model, qmod, x = quantized(name, (16, 16), replace(CONFIGS[config], input_bits=16))
    error = (qmod.eval()(x) - model(x)).abs().max() / model(x).abs().max()
    assert error < 1e-3


@pytest.mark.parametrize("bits", [(8, 8), (4, 3), (2, 2), (1, 8), (1, 1)])
@pytest.mark.parametrize("config", POW2_CONFIGS)
def test_fake_values_are_the_integers_times_the_scale_when_scales_are_powers_of_two(name, config, bits):
    if name == "joins" and bits == (1, 1) and config != "asymmetric":
        with pytest.raises(ConfigError, match="1 bit of both signs"):
            quantized(name, bits, POW2_CONFIGS[config])
        return
    _, qmod, x = quantized(name, bits, POW2_CONFIGS[config])
    qmod.double().eval()
    program = lower(qmod)
    expected = program.dequantize(run_reference(program, x.double().numpy()))[program.graph.outputs[0]]
    assert np.array_equal(qmod(x.double()).detach().numpy(), expected)
    assert len(np.unique(expected)) > 2


@pytest.mark.parametrize("config", CONFIGS)
def test_exact_mode_returns_the_integers_of_the_reference(name, config):
    _, qmod, x = quantized(name, (4, 5), CONFIGS[config])
    program = lower(qmod)
    got = qmod.set_mode_("exact").eval()(x)
    assert got.dtype == torch.int64
    assert np.array_equal(got.numpy(), run_reference(program, x.numpy())[program.graph.outputs[0]])


def test_exact_mode_follows_the_weights_when_they_change(name):
    _, qmod, x = quantized(name)
    before = qmod.set_mode_("exact")(x)
    assert torch.equal(qmod(x), before)
    with torch.no_grad():
        next(p for n, p in qmod.named_parameters() if not n.startswith("quantizers")).mul_(-1)
    after = qmod(x)
    assert not torch.equal(after, before)
    assert np.array_equal(after.numpy(), run_reference(lower(qmod), x.numpy())[qmod.graph.outputs[0]])


@pytest.mark.parametrize("config", CONFIGS)
def test_every_activation_lies_on_its_grid_when_in_fake_mode(name, config):
    _, qmod, x = quantized(name, (4, 3), CONFIGS[config])
    seen = {}
    quantizers = qmod.quantizers_by_name()
    for decision in qmod.activation_quants():
        quantizers[decision].register_forward_hook(lambda _m, _i, out, key=decision: seen.update({key: out}))
    qmod.double()(x.double())
    assert set(seen) == set(qmod.activation_quants())
    for decision, quant in qmod.activation_quants().items():
        codes = seen[decision].detach().numpy() / quant.scale + quant.zero_point
        assert np.array_equal(codes, np.round(codes)) or np.abs(codes - np.round(codes)).max() < 1e-9
        assert np.round(codes).min() >= quant.qtype.qmin
        assert np.round(codes).max() <= quant.qtype.qmax


def test_input_codes_are_those_of_the_integers_when_float32_would_round_to_the_other_side_of_a_tie():
    _, qmod, _ = quantized("perceptron")
    quantizer = qmod.quantizers_by_name()["x"]
    params = quantizer.affine_params()
    ties = ((np.arange(-900, 900) / 8 + 0.5) * params.scale[0]).astype(np.float32)
    x = torch.from_numpy(np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))]))
    seen = []
    quantizer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    qmod.eval()(x.reshape(-1, 8))
    codes = codes_of(x.numpy(), params)
    assert np.array_equal(np.round(seen[0].detach().numpy().ravel() / params.scale[0]), codes)
    assert not np.array_equal(np.floor(x.numpy() / np.float32(params.scale[0]) + np.float32(0.5)), codes)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_activation_quants_say_whether_the_format_is_symmetric(scheme):
    _, qmod, _ = quantized("residual", config=QuantConfig(activation=Format(8, scheme)))
    assert {quant.symmetric for quant in qmod.activation_quants().values()} == {scheme == "symmetric"}


def test_unsigned_codes_are_used_when_values_cannot_be_negative():
    _, qmod, x = quantized("residual")
    types = {name: str(quant.qtype) for name, quant in qmod.activation_quants().items()}
    assert types["relu"] == types["layer1.0.relu2"] == types["avgpool"] == "uint8"
    assert (types["x"], types["fc"]) == ("int8", "int16")
    _, graph = captured("residual")
    positive = quantize(graph, qmod.plan, [x.abs()])
    assert str(positive.activation_quants()["x"].qtype) == "uint8"


def test_folded_graph_is_the_canonical_graph_when_nothing_was_trained(name):
    _, qmod, _ = quantized(name)
    folded, canonical = qmod.folded_graph(), canonicalize(qmod.graph)
    assert set(folded.params) == set(canonical.params)
    for key, value in canonical.params.items():
        assert folded.params[key].dtype == np.float64
        assert np.array_equal(folded.params[key], value), key


def test_folded_graph_computes_the_network_when_it_was_trained(name):
    _, qmod, x = quantized(name)
    with torch.no_grad():
        for key, parameter in qmod.named_parameters():
            if not key.startswith("quantizers."):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 10)
    qmod.set_mode_("float").eval()
    torch.testing.assert_close(run_graph(qmod.folded_graph(), x.double())[0].float(), qmod(x), **FLOAT_CLOSE)


def test_weight_codes_are_those_of_numpy_on_the_folded_weight(name):
    _, qmod, _ = quantized(name, (4, 8))
    folded = qmod.folded_graph()
    for key, quant in qmod.weight_quants().items():
        params = qmod.quantizers_by_name()[key].affine_params()
        assert np.array_equal(quant.codes, codes_of(folded.params[key], params))
        assert quant.codes.shape == folded.params[key].shape


def test_copy_is_independent_when_deep(name):
    _, qmod, x = quantized(name)
    before = qmod.eval()(x)
    twin = copy.deepcopy(qmod)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    assert torch.equal(qmod(x), before)
    assert not torch.equal(twin(x), before)


def test_state_dict_brings_everything_back_when_loaded_into_another(name):
    _, first, x = quantized(name, (4, 4))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.05)
    _, second, _ = quantized(name, (4, 4))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.eval()(x), first.eval()(x))


def test_float_state_dict_of_the_model_loads_by_name(name):
    _, qmod, x = quantized(name)
    other, _ = captured(name, seed=7)
    qmod.load_float_state_dict_(other.state_dict()).set_mode_("float").eval()
    torch.testing.assert_close(qmod(x), other(x), **FLOAT_CLOSE)


def test_float_state_dict_is_refused_when_names_differ():
    model, qmod, _ = quantized("perceptron")
    state = dict(model.state_dict())
    state["fc3.weight"] = state.pop("fc2.weight")
    with pytest.raises(QuantError, match=r"missing \['fc2.weight'\], unknown \['fc3.weight'\]"):
        qmod.load_float_state_dict_(state)


def test_output_is_float_when_all_quantizers_are_disabled():
    _, qmod, x = quantized("perceptron", (2, 2))
    fake = qmod.eval()(x)
    for quantizer in qmod.quantizers_by_name().values():
        quantizer.enabled = False
    disabled = qmod(x)
    torch.testing.assert_close(disabled, qmod.set_mode_("float")(x), **FLOAT_CLOSE)
    assert not torch.equal(disabled, fake)


@pytest.mark.parametrize("scope", ["channel", "tensor"])
def test_zero_weights_are_quantized_when_a_channel_or_all_of_them_are_zero(scope):
    _, graph = captured("residual")
    for key in ("conv1.weight", "fc.weight"):
        graph.params[key][: 1 if scope == "channel" else None] = 0
    plan = uniform_plan(network_facts(canonicalize(graph), QuantConfig()), 4, 8)
    x = samples_of(MODELS["residual"], 16)
    qmod = quantize(graph, plan, [x])
    fake, exact = qmod.eval()(x), qmod.set_mode_("exact")(x)
    quant = qmod.activation_quants()["fc"]
    assert (fake / quant.scale - exact).abs().max() <= 40  # of 65536 steps
    assert not qmod.weight_quants()["fc.weight"].codes[0].any()


def test_model_is_refused_when_it_has_its_own_quantizers():
    _, graph = captured("perceptron")
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    node = graph.nodes[-1]
    own = "quantizers.weight"
    renamed = graph.replace(
        nodes=(*graph.nodes[:-1], type(node)(node.name, node.op, (node.inputs[0], own), node.output)),
        params={**graph.params, own: graph.params["fc2.weight"]},
    ).without_unused((*graph.nodes[:-1], type(node)(node.name, node.op, (node.inputs[0], own), node.output)))
    plan = uniform_plan(network_facts(canonicalize(renamed)), 8, 8)
    with pytest.raises(QuantError, match=r"quantizers\.weight: the name 'quantizers' is taken"):
        quantize(renamed, plan, [samples_of(MODELS["perceptron"], 4)])


def test_mode_is_refused_when_unknown():
    _, qmod, _ = quantized("perceptron")
    with pytest.raises(UnknownNameError, match="unknown mode 'exat'; did you mean 'exact'"):
        qmod.set_mode_("exat")


@pytest.mark.parametrize("mode", ["float", "fake", "exact"])
def test_inputs_are_refused_when_their_number_or_shape_is_wrong(mode):
    _, qmod, x = quantized("perceptron")
    qmod.set_mode_(mode)
    with pytest.raises(DataError, match=r"inputs \['x'\]: got shapes \[\[64, 7\]\], expected \[\['N', 8\]\]"):
        qmod(x[:, :7])
    with pytest.raises(DataError, match=r"got shapes \[\[64, 8\], \[64, 8\]\]"):
        qmod(x, x)


def test_inputs_are_refused_when_not_finite_in_exact_mode():
    _, qmod, x = quantized("perceptron")
    x[0, 0] = np.nan
    with pytest.raises(DataError, match="input 'x': 1 values are NaN or infinite"):
        qmod.set_mode_("exact")(x)


def test_plan_is_refused_when_it_does_not_fit():
    _, graph = captured("perceptron")
    other = uniform_plan(network_facts(canonicalize(captured("residual")[1])), 8, 8)
    with pytest.raises(ConfigError, match="the plan does not fit the network: missing"):
        quantize(graph, other, [samples_of(MODELS["perceptron"], 4)])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_model_is_refused_by_parameter_when_not_finite(bad):
    _, graph = captured("perceptron")
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    graph.params["fc2.weight"][0, 1] = bad
    graph.params["bn1.running_mean"][0] = bad
    with pytest.raises(
        QuantError, match=r"NaN or infinite values: bn1\.running_mean \(1 of 12\), fc2\.weight \(1 of 48\)"
    ):
        quantize(graph, plan, [samples_of(MODELS["perceptron"], 4)])


def test_lowering_is_refused_by_parameter_when_training_diverged():
    _, qmod, _ = quantized("perceptron")
    with torch.no_grad():
        qmod.get_parameter("fc2.weight").fill_(float("nan"))
    with pytest.raises(QuantError, match=r"fc2\.weight: 48 of 48 values are NaN"):
        lower(qmod)


def test_exact_mode_follows_edits_that_torch_does_not_count(name):
    _, qmod, x = quantized(name)
    before = qmod.set_mode_("exact")(x)
    next(p for n, p in qmod.named_parameters() if not n.startswith("quantizers")).data.mul_(-1)
    after = qmod(x)
    assert not torch.equal(after, before)
    assert np.array_equal(after.numpy(), run_reference(lower(qmod), x.numpy())[qmod.graph.outputs[0]])


def test_exact_mode_runs_when_in_inference_mode():
    _, qmod, x = quantized("residual")
    expected = qmod.set_mode_("exact")(x)
    with torch.inference_mode():
        assert torch.equal(qmod(x), expected)
    _, fresh, _ = quantized("residual")
    with torch.inference_mode():
        assert torch.equal(fresh.set_mode_("exact")(x), expected)
    assert torch.equal(fresh(x), expected)


def test_exact_mode_and_lowering_are_refused_when_a_quantizer_is_disabled():
    _, qmod, x = quantized("perceptron")
    qmod.set_mode_("exact")(x)
    qmod.quantizers_by_name()["fc1.weight"].enabled = False
    with pytest.raises(QuantError, match=r"quantizers of fc1\.weight are disabled"):
        qmod(x)
    with pytest.raises(QuantError, match=r"Set enabled = True before lowering"):
        lower(qmod)


def test_lower_is_refused_when_the_module_is_not_quantized():
    with pytest.raises(ConfigError, match=r"got Linear\. Call quantize\(graph, plan, batches\) first"):
        lower(nn.Linear(2, 2))


@pytest.mark.parametrize("calibration", [7, torch.zeros(4, 8), np.zeros((4, 8))])
def test_calibration_is_refused_when_it_is_no_list_of_batches(calibration):
    _, graph = captured("perceptron")
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    with pytest.raises(DataError, match=r"Pass a list of batches: \[x\]"):
        quantize(graph, plan, calibration)


@pytest.mark.parametrize("mode", ["float", "fake", "exact"])
def test_inputs_are_refused_when_there_are_none(mode):
    _, qmod, x = quantized("perceptron")
    with pytest.raises(DataError, match="have no samples"):
        qmod.set_mode_(mode)(x[:0])


def test_state_dict_of_the_model_fits_when_a_batch_norm_has_no_affine_parameters():
    model, qmod, x = plain()
    own = {k for k in qmod.state_dict() if not k.startswith("quantizers.")}
    assert own == set(model.state_dict())
    assert {k for k, _ in qmod.named_parameters() if not k.startswith("quantizers.")} == dict(
        model.named_parameters()
    ).keys()
    other = Plain().eval()
    other.bn1.running_mean.fill_(0.5)
    qmod.load_float_state_dict_(other.state_dict()).set_mode_("float").eval()
    torch.testing.assert_close(qmod(x), other(x), **FLOAT_CLOSE)
