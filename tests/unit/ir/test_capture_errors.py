"""What capture refuses: every reason is listed at once, with operator, module path, source line and what to do."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

from cases import Function, build
from dyadiq.core.errors import CaptureError, DataError
from dyadiq.ir import capture as capture_module
from dyadiq.ir.capture import capture
from dyadiq.ir.execute import run_graph

IMAGE = (3, 4, 4)


def capture_function(function):
    return capture(Function(function), torch.randn(1, *IMAGE))


def stale_view(m, x):
    y = m.conv(x)
    rows = y.flatten(1)
    y.relu_()
    return rows, y


def stale_base(m, x):
    y = m.conv(x)
    y.view(y.shape).relu_()
    return y


UNSUPPORTED = [
    (lambda m, x: F.mish(x), r"aten.mish.default \(.*\): an activation function that has neither limits nor a table"),
    (lambda m, x: F.elu(x), "aten.elu.default .*Train with nn.ReLU"),
    (lambda m, x: x.softmax(1), "aten.softmax.int .*leave the last activation to the loss"),
    (lambda m, x: x * 2, "aten.mul.Tensor .*arithmetic other than the sum"),
    (lambda m, x: x + 1, "aten.add.Tensor .*adds a constant or parameter"),
    (
        lambda m, x: x + m.conv.bias.view(1, 3, 1, 1),
        "aten.view.default .*got parameter 'conv.bias' where an activation is expected",
    ),
    (lambda m, x: torch.add(x, x, alpha=2), "adds with alpha=2, expected 1"),
    (lambda m, x: x + x.mean((2, 3), keepdim=True), r"expected equal ones \(no broadcasting\)"),
    (lambda m, x: torch.cat([x, x], 2), r"concatenates along dimension 2, expected 1 \(channels\)"),
    (lambda m, x: x[:, :2], "aten.slice.Tensor .*takes a part of dimension 1"),
    (lambda m, x: x.chunk(3, 1)[0], "aten.chunk.default .*takes tensors apart"),
    (lambda m, x: x.permute(0, 2, 3, 1), "aten.permute.default .*takes tensors apart or turns them"),
    (lambda m, x: x.flatten(), r"reshapes \[N, 3, 4, 4\] to \[48\*N\], which does not keep dimension 0"),
    (lambda m, x: x.view(-1, 3), r"reshapes \[N, 3, 4, 4\] to \[16\*N, 3\]"),
    (lambda m, x: x.mean(2), "averages dimensions .*only a mean over H and W"),
    (lambda m, x: F.relu(x.flatten(2)), r"reads 'x' of shape \[N, 3, 4, 4\] reshaped to \[N, 3, 16\]; only flattening"),
    (lambda m, x: m.fc(x.view(x.shape[0], 16, 3)), r"reads 'x' .*reshaped to \[N, 16, 3\]"),
    (lambda m, x: F.linear(x, torch.eye(4)), "aten.eye.default .*computes from parameters or constants alone"),
    (lambda m, x: F.conv2d(x, m.conv.weight * 2), r"aten.mul.Tensor .*remove_parametrizations"),
    (lambda m, x: F.dropout(x), "dropout that is active in eval mode"),
    (lambda m, x: F.batch_norm(x, None, None, training=True), "statistics of the batch, also in eval mode"),
    (lambda m, x: F.group_norm(x, 3), "normalises with statistics of the sample"),
    (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override=3, expected None"),
    (lambda m, x: F.adaptive_avg_pool2d(x, 3), r"pools \[N, 3, 4, 4\] to \(3, 3\) with windows of different sizes"),
    (lambda m, x: F.adaptive_max_pool2d(x, 1), "use nn.MaxPool2d with a fixed kernel"),
    (lambda m, x: F.conv2d(x, m.conv.weight[:, :, :2], padding="same"), "aten.slice.Tensor .*computes from parameters"),
    (lambda m, x: x.double(), "changes the type of values from torch.float32 to torch.float64"),
    (lambda m, x: torch.linalg.norm(x, dim=1), "no such operator in the float dialect"),
    (stale_view, "output 0: reads a tensor that shares memory with one changed in place"),
    (stale_base, "output 0: reads a tensor that shares memory with one changed in place"),
    (lambda m, x: (F.relu(x), None), "output 1: got None where an activation is expected"),
    (lambda m, x: (F.relu(x), 3), "output 1: got 3 where an activation is expected"),
    (lambda m, x: (F.relu(x), m.conv.weight), "output 1: got parameter 'conv.weight'"),
    (lambda m, x: [F.relu(x)] * 2, "output 1: 'relu' is an output already"),
    (lambda m, x: F.relu(x).flatten(2), r"output 0: reads 'relu' .*only flattening"),
]


@pytest.mark.parametrize(("function", "message"), UNSUPPORTED)
def test_unsupported_operator_is_named_with_its_reason(function, message):
    with pytest.raises(CaptureError, match=message) as caught:
        capture_function(function)
    assert "Function cannot be captured, for 1 reason(s):" in str(caught.value)


def test_asymmetric_same_padding_is_refused():
    with pytest.raises(CaptureError, match=r"padding='same' with kernel \(2, 2\) .*pads one side more"):
        capture(nn.Conv2d(3, 3, 2, padding="same"), torch.randn(1, *IMAGE))


def test_plain_tensor_as_weight_is_refused():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.eye(3)

        def forward(self, x):
            return F.linear(x, self.matrix)

    with pytest.raises(CaptureError, match=r"its weight is a plain tensor. Register it with register_buffer"):
        capture(Plain(), torch.randn(2, 3))


def test_buffer_that_forward_writes_is_refused_and_left_alone():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return F.relu(x)

    model = Counter()
    with pytest.raises(CaptureError, match=r"1 reason\(s\):\n.*forward writes into 'count', a parameter or buffer"):
        capture(model, torch.randn(2, 3))
    assert model.count == 0


def test_parametrized_weight_is_refused():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    with pytest.raises(CaptureError, match=r"1 reason\(s\):\n.*_weight_norm.*remove_parametrizations"):
        capture(model, torch.randn(2, 3))


def test_all_unsupported_operators_are_listed_at_once():
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Mish()
            self.stages = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.ELU()), nn.LayerNorm(3)])
            self.last = nn.Linear(3, 3)

        def forward(self, x):
            x = self.act(x)
            for stage in self.stages:
                x = stage(x)
            return self.last(x).softmax(1), None

    with pytest.raises(CaptureError) as caught:
        capture(Bad(), torch.randn(2, 3))
    lines = str(caught.value).splitlines()
    assert lines[0] == "Bad cannot be captured, for 5 reason(s):"
    for line, start in zip(
        lines[1:],
        [
            "  1. aten.mish.default in 'act' (ir/test_capture_errors.py:",
            "  2. aten.elu.default in 'stages.0.1' (ir/test_capture_errors.py:",
            "  3. aten.layer_norm.default in 'stages.1' (ir/test_capture_errors.py:",
            "  4. aten.softmax.int (ir/test_capture_errors.py:",
            "  5. output 1: got None",
        ],
        strict=True,
    ):
        assert line.startswith(start)


def branches(m, x):
    return x if x.sum() > 0 else -x


def wrong_shape(m, x):
    return m.fc(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (branches, r"failed with GuardOnDataDependentSymNode .*\n.*data-dependent expression"),
        (wrong_shape, r"same reduction dim"),
        (lambda m, x: x.no_such_method(), "failed with AttributeError.*\n.*no_such_method"),
        (lambda m, x: {}[3], "failed with KeyError"),
    ],
)
def test_failure_of_export_is_explained(function, message):
    with pytest.raises(CaptureError, match=message) as caught:
        capture_function(function)
    assert caught.value.__cause__ is not None
    assert "Dimension 0 of every input must be the batch" in str(caught.value)
    assert "Raised at ir/test_capture_errors.py:" in str(caught.value)


@pytest.mark.parametrize("function", [lambda m, x: F.relu(x).view(2, 48), lambda m, x: x.view(len(x), -1)])
def test_fixed_batch_size_is_explained(function):
    with pytest.raises(CaptureError, match=r"specialized it to be a constant \(2\)(.|\n)*use x.shape\[0\]"):
        capture_function(function)


def test_squeezed_batch_is_explained():
    with pytest.raises(CaptureError, match=r"gives shape \[3, 4, 4\], its graph \[1, 3, 4, 4\]. x.squeeze\(\) without"):
        capture_function(lambda m, x: F.relu(x).squeeze())


def test_missing_batch_dimension_is_explained():
    with pytest.raises(CaptureError, match=r"Constraints violated(.|\n)*Dimension 0 of every input must be the batch"):
        capture(nn.Conv2d(3, 3, 3), torch.randn(3, 8, 8))


def test_failed_export_prints_nothing(capfd):
    with pytest.raises(CaptureError):
        capture_function(branches)
    assert capfd.readouterr() == ("", "")
    assert not any(handler.filters for handler in logging.getLogger("torch").handlers)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 6, dtype=torch.int64), "example input 0 is torch.int64, expected float32"),
        (torch.zeros(2, 6, dtype=torch.float16), "example input 0 is torch.float16"),
        (torch.zeros(6), r"has shape \[6\], expected \[N, ...\] with N >= 1: dimension 0 is the batch"),
        (torch.zeros(0, 6), r"has shape \[0, 6\], expected"),
        (torch.tensor([[0.0, np.nan]]), "example input 0 holds NaN or infinite values"),
        ([torch.zeros(1, 6), torch.zeros(2, 6)], r"different batch sizes: \[1, 2\]"),
        ([torch.zeros(1, 6), 3], "example input 1 must be a tensor, got int"),
        ((), "example_inputs must be a tensor or a sequence of tensors, got tuple"),
        (np.zeros((1, 6)), "example_inputs must be a tensor or a sequence of tensors, got ndarray"),
    ],
)
def test_unusable_example_inputs_are_refused(inputs, message):
    with pytest.raises(DataError, match=message):
        capture(build("mlp")[0], inputs)


def test_wrong_number_of_inputs_is_explained():
    with pytest.raises(CaptureError, match=r"failed with TypeError.*\n.*too many positional arguments"):
        capture(build("mlp")[0], [torch.zeros(1, 6)] * 2)


def test_anything_but_a_module_is_refused():
    with pytest.raises(CaptureError, match=r"needs a torch.nn.Module, got function"):
        capture(F.relu, torch.zeros(1, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_parameters_are_named(value):
    model, inputs = build("mlp_batchnorm")
    with torch.no_grad():
        model[0].weight[0, 0] = value
        model[1].running_var[1:3] = value
    with pytest.raises(CaptureError) as caught:
        capture(model, inputs)
    assert "parameter '0.weight' holds 1 values that are NaN or infinite, of 48" in str(caught.value)
    assert "parameter '1.running_var' holds 2 values" in str(caught.value)


def test_bad_parameter_is_no_problem_when_nothing_reads_it():
    model, inputs = build("two_inputs")
    nn.init.constant_(model.unused.weight, np.nan)
    capture(model, inputs)


def test_parameters_of_another_type_are_named():
    with pytest.raises(CaptureError, match=r"parameter 'weight' is torch.bfloat16, but the inputs are torch.float32"):
        capture(nn.Linear(3, 2).bfloat16(), torch.zeros(1, 3))


class Fickle(nn.Module):
    """Traced, it is the identity; run, it does what it was told."""

    def __init__(self, when_run):
        super().__init__()
        self.when_run = when_run

    def forward(self, x):
        y = F.relu(x)
        return y if torch.compiler.is_exporting() else self.when_run(y)


def crash(y):
    raise ValueError("no rows left")


@pytest.mark.parametrize(
    ("when_run", "message"),
    [
        (
            lambda y: y + 0.01,
            r"output 'relu' on the example inputs: the graph differs from the model by 0.01, expected at",
        ),
        (lambda y: y if len(y) == 2 else 2 * y, "on a batch of 3: the graph differs"),
        (lambda y: y / 0, "the model gives NaN or infinite values"),
        (lambda y: y.flatten(1), r"the model gives shape \[2, 48\], its graph \[2, 3, 4, 4\]"),
        (lambda y: (y, y), "gives 2 outputs, its graph 1"),
        (crash, "the model fails on the example inputs: no rows left"),
    ],
)
def test_graph_that_differs_from_the_model_is_refused(when_run, message):
    with pytest.raises(CaptureError, match=f"Fickle: .*{message}"):
        capture(Fickle(when_run), torch.ones(2, *IMAGE))


def test_keyboard_interrupt_passes_through():
    def interrupted(m, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_function(interrupted)


def test_translation_error_would_be_noticed(monkeypatch):
    monkeypatch.setattr(capture_module, "run_graph", lambda graph, inputs: [2 * run_graph(graph, inputs)[0]])
    model, inputs = build("mlp")
    with pytest.raises(CaptureError, match="the graph differs from the model"):
        capture(model, inputs)
