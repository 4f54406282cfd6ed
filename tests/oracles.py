"""Slow, obvious versions of what the package computes fast. Float64, dense, no shortcuts.

Append; do not change what others compare with.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from dyadiq.core.affine import dequantize, quantize
from dyadiq.ir.execute import graph_params, run_graph

__all__ = [
    "best_codes",
    "gauss_newton_blocks",
    "gptq_row",
    "hessian",
    "hessian_blocks",
    "hessian_traces",
    "nearest_output_error",
    "softmax_root",
]


def hessian(function, point):
    """Dense Hessian ``[n, n]`` of a scalar function of a vector: reverse mode twice.

    `torch.func.hessian` goes forward over reverse, which this torch cannot do without a deprecation warning.
    """
    return torch.func.jacrev(torch.func.grad(function))(point)


def hessian_traces(graph, inputs, name, labels=None):
    """Trace of the dense Hessian of each sample's loss in one weight or activation tensor, ``[N]``.

    The loss is the cross-entropy of ``labels``; without labels the sum of squared differences to zero targets.
    """
    params = graph_params(graph, torch.float64)
    traces = []
    for i in range(len(inputs)):
        x = torch.as_tensor(inputs[i : i + 1], dtype=torch.float64)
        seen = {}
        run_graph(graph, x, params, lambda key, value, seen=seen: seen.update({key: value}))
        is_weight = name in graph.params

        def loss(flat, x=x, i=i, is_weight=is_weight, shape=params[name].shape if is_weight else seen[name].shape):
            value = flat.reshape(shape)
            if is_weight:
                (z,) = run_graph(graph, x, {**params, name: value})
            else:
                (z,) = run_graph(graph, x, params, lambda key, old: value if key == name else old)
            return z.square().sum() if labels is None else F.cross_entropy(z, torch.tensor([labels[i]]))

        start = (params[name] if is_weight else seen[name]).flatten()
        traces.append(hessian(loss, start).trace())
    return torch.stack(traces).numpy()


def softmax_root(logits):
    """Return the dense matrix ``S = diag(sqrt p) - p sqrt(p)^T`` of one sample."""
    p = logits.softmax(0)
    return torch.diag(p.sqrt()) - torch.outer(p, p.sqrt())


def gptq_row(row, second, steps, low, high):
    """Codes of one weight row by optimal brain surgery, one column at a time, largest second moment first.

    ``H^-1`` is that of the columns that are left: after each column, its row and column are eliminated from it.
    """
    row, inverse = row.astype(np.float64).copy(), np.linalg.inv(second)
    codes = np.zeros(len(row))
    for k in np.argsort(-np.diag(second), kind="stable"):
        codes[k] = np.clip(np.floor(row[k] / steps[k] + 0.5), low, high)
        error = (row[k] - codes[k] * steps[k]) / inverse[k, k]
        row = row - error * inverse[k]
        inverse = inverse - np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return codes


def best_codes(row, second, step, low, high):
    """The least ``(q s - w) H (q s - w)^T`` over all codes of a row, and those codes, by trying every one."""
    found = (np.inf, None)
    for codes in itertools.product(range(low, high + 1), repeat=len(row)):
        difference = np.array(codes) * step - row
        found = min(found, (difference @ second @ difference, codes))
    return found


def nearest_output_error(weight, params, rows):
    """``E |W x - Q(W) x|^2`` of nearest rounding, row by row of the inputs."""
    difference = dequantize(quantize(weight, params), params).reshape(len(weight), -1) - weight.reshape(len(weight), -1)
    return float(np.mean([np.sum((difference @ x) ** 2) for x in rows]))


def _tensor_to_outputs(graph, x, name):
    """Return ``flat tensor -> outputs [C]`` of one sample, and the tensor's present value."""
    params = graph_params(graph, torch.float64)
    seen = {}
    run_graph(graph, x, params, lambda key, value: seen.update({key: value}))
    start = params[name] if name in graph.params else seen[name]

    def outputs(flat):
        value = flat.reshape(start.shape)
        if name in graph.params:
            return run_graph(graph, x, {**params, name: value})[0][0]
        return run_graph(graph, x, params, lambda key, old: value if key == name else old)[0][0]

    return outputs, start.flatten()


def hessian_blocks(graph, inputs, name, labels):
    """Dense Hessian of each sample's cross entropy in one tensor, ``[N, d, d]``."""
    blocks = []
    for x, label in zip(torch.as_tensor(inputs, dtype=torch.float64), labels, strict=True):
        outputs, start = _tensor_to_outputs(graph, x[None], name)
        blocks.append(hessian(lambda v, f=outputs, y=int(label): -f(v).log_softmax(0)[y], start))
    return torch.stack(blocks).numpy()


def gauss_newton_blocks(graph, inputs, name):
    """Dense ``J^T S S^T J`` of each sample in one tensor, cross entropy, ``[N, d, d]``."""
    blocks = []
    for x in torch.as_tensor(inputs, dtype=torch.float64):
        outputs, start = _tensor_to_outputs(graph, x[None], name)
        half = softmax_root(outputs(start)).T @ torch.func.jacrev(outputs)(start)
        blocks.append(half.T @ half)
    return torch.stack(blocks).numpy()
