"""Biases of more than 31 bits, as wide weights and activations bring them, through every exact way to run a program."""

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.core.errors import ProofError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.capture import capture
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets import TARGETS
from dyadiq.targets.dyq import dyq_size_bytes, write_dyq
from dyadiq.targets.verify import verify


class Net(nn.Module):
    """A convolution and a linear layer with biases far above their weights."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * 16, 3)
        with torch.no_grad():
            self.conv.weight[1] *= 0.01
            self.conv.bias.copy_(torch.tensor([1.0, 2.0, -3.0, 0.5]))
            self.fc.bias.copy_(torch.tensor([1.0, -5.0, 2.0]))

    def forward(self, x):
        return self.fc(torch.flatten(torch.relu(self.conv(x)), 1))


def program_of(model, shape, **options):
    x = torch.randn(32, *shape, generator=torch.Generator().manual_seed(0)) / 4
    graph = capture(model.eval(), (x,))
    config = QuantConfig(input_bits=16, output_bits=16, **options)
    facts = network_facts(canonicalize(graph), config)
    qmod = quantize(graph, uniform_plan(facts, 16, 16), [x], config=config)
    return lower(qmod), qmod, model, x, facts


def nets():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        with torch.no_grad():
            linear[0].bias.fill_(1.5)
        return {"conv": (Net(), (2, 4, 4)), "linear": (linear, (6,))}


@pytest.mark.parametrize("name", ["conv", "linear"])
def test_executors_agree_when_biases_are_wide(name, tmp_path):
    program, qmod, model, x, facts = program_of(*nets()[name])
    biases = [v for key, v in program.graph.params.items() if key.endswith(":bias")]
    assert max(int(np.abs(b).max()) for b in biases) >= 1 << 31
    verify(program, x.numpy(), against=["exact", "onnx", "dyq"])
    (output,) = program.graph.outputs
    real = program.dequantize({output: qmod.set_mode_("exact")(x).numpy()})[output]
    expected = model(x).detach().numpy()
    assert np.abs(real - expected).max() < 2e-4 * np.abs(expected).max()
    weights = sum(d.n_elements for d in facts.decisions if d.kind == "weight")
    size = write_dyq(program, tmp_path / "p.dyq")
    assert size == dyq_size_bytes(program) == (tmp_path / "p.dyq").stat().st_size
    assert facts.fixed_size_bytes < size <= facts.fixed_size_bytes + 2 * weights + 64 * 2


def test_executors_in_float32_are_not_proven_when_biases_are_wide():
    program, *_ = program_of(*nets()["linear"])
    assert TARGETS["qonnx"].unproven(program)


def test_lowering_refuses_when_products_must_be_narrow():
    with pytest.raises(ProofError, match="Use fewer weight or activation bits, or a larger product_bits"):
        program_of(*nets()["conv"], product_bits=31)
