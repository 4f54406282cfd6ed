"""QuantModule in training: gradients, batch norms live and frozen, several processes."""

import copy

import pytest
import torch
from torch import distributed, nn

from dyadiq.core.errors import DataError
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.capture import capture
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.quantize import quantize
from quantized_modules import FLOAT_CLOSE, Plain, plain, quantized
from trainable import MODELS, samples_of


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("bits", [(4, 4), (1, 2)])
def test_every_parameter_has_a_finite_gradient_when_training(name, bits, frozen):
    _, qmod, x = quantized(name, bits, freeze_bn=frozen)
    qmod.train()(x).square().sum().backward()
    for key, parameter in qmod.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert any(p.grad.abs().sum() > 0 for n, p in qmod.named_parameters() if n.startswith("quantizers."))


def test_gradients_are_those_of_the_model_when_in_float_mode(name):
    model, qmod, x = quantized(name, freeze_bn=False)
    model.double().train()(x.double()).square().sum().backward()
    qmod.double().set_mode_("float").train()(x.double()).square().sum().backward()
    own = dict(qmod.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(own[key].grad, parameter.grad, rtol=1e-4, atol=1e-4)


def test_live_batchnorm_equals_torch_when_training_in_float_mode(name):
    model, qmod, x = quantized(name, freeze_bn=False)
    model.train()
    qmod.set_mode_("float").train()
    for part in x.chunk(2):
        torch.testing.assert_close(qmod(part), model(part), **FLOAT_CLOSE)
    for key, value in model.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(qmod.state_dict()[key], value, **FLOAT_CLOSE)
    torch.testing.assert_close(qmod.eval()(x), model.eval()(x), **FLOAT_CLOSE)


@pytest.mark.parametrize("how", ["frozen at once", "frozen later", "eval"])
def test_running_statistics_stay_when_batchnorm_is_not_live(name, how):
    _, qmod, x = quantized(name, freeze_bn=how == "frozen at once")
    if how == "frozen later":
        qmod.freeze_batchnorm_()
    qmod.train(how != "eval")
    before = copy.deepcopy(qmod.state_dict())
    output = qmod(x)
    assert all(torch.equal(before[k], v) for k, v in qmod.state_dict().items())
    assert torch.equal(output, qmod.eval()(x))


def test_live_batchnorm_is_refused_when_a_channel_has_one_value():
    _, qmod, x = quantized("perceptron", freeze_bn=False)
    with pytest.raises(DataError, match=r"bn1: batch norm in training needs more than one value .* shape \[1, 12\]"):
        qmod.train()(x[:1])
    qmod.freeze_batchnorm_()(x[:1])


def test_training_lowers_the_loss_when_bits_are_few(name):
    model, qmod, x = quantized(name, (2, 3))
    target = model(x).detach()
    optimizer = torch.optim.Adam(qmod.train().parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (qmod(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-20:]) < 0.8 * losses[0]


def test_no_scale_is_a_parameter_when_scales_are_not_learned(name):
    model, qmod, _ = quantized(name, learn_scales=False)
    assert {k for k, _ in qmod.named_parameters()} == {k for k, _ in model.named_parameters()}


def test_gradients_are_averaged_when_distributed(tmp_path):
    _, qmod, x = quantized("residual", (4, 4))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(qmod.train())
        for _ in range(2):
            parallel(x).sum().backward()
    finally:
        distributed.destroy_process_group()
    assert all(p.grad is not None for p in qmod.parameters())


def test_live_batchnorm_has_the_momentum_and_counter_of_the_model():
    model, qmod, x = plain(freeze_bn=False)
    model.train()
    qmod.set_mode_("float").train()
    for part in x.chunk(3):
        torch.testing.assert_close(qmod(part), model(part), **FLOAT_CLOSE)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(qmod.state_dict()[key], value, **FLOAT_CLOSE)
    assert (int(qmod.state_dict()["bn1.num_batches_tracked"]), int(qmod.state_dict()["bn2.num_batches_tracked"])) == (
        10,
        3,
    )


def test_live_batchnorm_takes_the_momentum_of_the_module_when_it_is_given():
    _, qmod, x = plain(freeze_bn=False)
    qmod.batchnorm_momentum = 1.0
    qmod.set_mode_("float").train()(x)
    with torch.no_grad():
        result = nn.functional.conv2d(x, qmod.state_dict()["conv.weight"], qmod.state_dict()["conv.bias"])
    torch.testing.assert_close(qmod.state_dict()["bn1.running_mean"], result.mean((0, 2, 3)), **FLOAT_CLOSE)


def test_parameters_ask_for_no_gradient_when_those_of_the_model_did_not():
    model = Plain().eval()
    model.conv.weight.requires_grad_(False)
    x = samples_of(model, 8)
    graph = capture(model, (x,))
    qmod = quantize(graph, uniform_plan(network_facts(canonicalize(graph)), 8, 8), [x])
    frozen = {k for k, p in qmod.named_parameters() if not p.requires_grad}
    assert frozen == {"conv.weight"}
