"""From calls of torch's aten operators to nodes of the float dialect: the rules of capture, one function each.

Used by `ir.capture`, which turns torch.export's program into `Call` records; knows no torch itself.
To support another operator: write a rule, name it in `_RULES`, and if the dialect grows, extend `FLOAT_OPS`,
`ir.shapes`, `ir.execute` and the lowering.

A rule reads its inputs (`GraphBuilder.read`, `.param`), emits nodes and returns the `Value` of its result, or raises
`UnsupportedError` with the reason. The builder collects all reasons and goes on, so that a user sees them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dyadiq.ir.activation import FUNCTIONS
from dyadiq.ir.capture_builder import Call, GraphBuilder, UnsupportedError, Value
from dyadiq.ir.capture_pools import adaptive_avg_pool2d, avg_pool2d, max_pool2d, mean, pair

__all__ = ["translate"]

Rule = Callable[[GraphBuilder, Call], Value]

_USUAL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"leaky_relu": {"negative_slope": 0.01}, "gelu": {"approximate": "none"}}
)
_LAST_INDEX = (1 << 63) - 1  # what torch writes for x[a:]


def translate(builder: GraphBuilder, call: Call) -> None:
    """Add what one call means to the builder, or the reason why it cannot be represented.

    Example:
        >>> from dyadiq.ir.capture_builder import Ref
        >>> builder = GraphBuilder("Net")
        >>> builder.add_input("x", ("N", 3, 8, 8))
        >>> translate(builder, Call("relu", "aten.relu.default", {"self": Ref("x")}, ("N", 3, 8, 8), module="act"))
        >>> [(node.name, node.op) for node in builder.finish([Ref("relu")], {}).nodes]
        [('act:relu', 'relu')]
    """
    if call.n_users == 0 and not call.is_inplace:
        return
    rule = _RULES.get(call.functional_operator)
    is_consequence = any(builder.is_failed(ref) for ref in call.refs)  # of a failure that is reported already
    try:
        builder.check_writes_no_param(call)
        value = _checked(call, rule(builder, call)) if rule else builder.fail(call, _hint(builder, call))
    except UnsupportedError as err:
        value = builder.fail(call, "" if is_consequence else str(err))
    builder.set_result(call, value)


def _checked(call: Call, value: Value) -> Value:
    """Return a rule's result if it has the shape that torch found.

    Raises:
        UnsupportedError: Another shape.
    """
    if call.shape is not None and value.shape != call.shape[1:]:
        raise UnsupportedError(f"makes shape {list(call.shape)}, not {['N', *value.shape]} as its operator says.")
    return value


def _conv2d(builder: GraphBuilder, call: Call) -> Value:
    args = call.args
    weight = builder.param(args["weight"], "weight")
    inputs = [builder.read(args["input"]), weight]
    if args["bias"] is not None:
        inputs.append(builder.param(args["bias"], "bias"))
    dilation = pair(args["dilation"])
    padding = args["padding"]
    if isinstance(padding, str):
        kernel = builder.param_arrays[weight].shape[2:]
        padding = _string_padding(padding, (kernel[0], kernel[1]), dilation)
    attrs = {"stride": pair(args["stride"]), "padding": pair(padding), "dilation": dilation, "groups": args["groups"]}
    return builder.emit(call, "conv2d", inputs, attrs)


def _string_padding(padding: str, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Return the padding on each side that ``valid`` or ``same`` stands for.

    Raises:
        UnsupportedError: ``same`` is not symmetric.
    """
    if padding == "valid":
        return (0, 0)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(t % 2 for t in total):
        raise UnsupportedError(
            f"padding='same' with kernel {kernel} and dilation {dilation} pads one side more than the other. "
            "Use an odd kernel, or explicit symmetric padding."
        )
    return (total[0] // 2, total[1] // 2)


def _linear(builder: GraphBuilder, call: Call) -> Value:
    inputs = [builder.read(call.args["input"]), builder.param(call.args["weight"], "weight")]
    if call.args["bias"] is not None:
        inputs.append(builder.param(call.args["bias"], "bias"))
    return builder.emit(call, "linear", inputs)


def _batch_norm(builder: GraphBuilder, call: Call) -> Value:
    args = call.args
    if args["training"] or args["running_mean"] is None or args["running_var"] is None:
        raise UnsupportedError(
            "normalises with the statistics of the batch, also in eval mode. Use track_running_stats=True."
        )
    x = builder.read(args["input"])
    mean, var = (builder.param(args[name], name) for name in ("running_mean", "running_var"))
    inputs, neutral_names = [x, "", "", mean, var], []
    prefix = mean.removesuffix("running_mean")
    for position, (name, neutral) in enumerate((("weight", 1.0), ("bias", 0.0)), start=1):
        if args[name] is not None:
            inputs[position] = builder.param(args[name], name)
        else:  # affine=False
            inputs[position] = builder.neutral_param(f"{prefix}{name}", mean, neutral)
            neutral_names.append(inputs[position])
    counter = builder.param_arrays.get(f"{prefix}num_batches_tracked")
    attrs = {
        "eps": float(args["eps"]),
        "momentum": float(args["momentum"]) or None,  # torch's BatchNorm in eval mode passes 0 for None
        "num_batches_tracked": None if counter is None else int(counter),
        **({"neutral": tuple(neutral_names)} if neutral_names else {}),
    }
    return builder.emit(call, "batch_norm", inputs, attrs)


def _relu(builder: GraphBuilder, call: Call) -> Value:
    return builder.emit(call, "relu", [builder.read(call.args["self"])])


def _clamp(builder: GraphBuilder, call: Call) -> Value:
    """A clamp by numbers, under its names relu6, hardtanh, clip and clamp.

    Raises:
        UnsupportedError: Limits that are no numbers, none at all, or in the wrong order.
    """
    args = call.args
    default = (0.0, 6.0) if "relu6" in call.operator else (None, None)
    low = args.get("min", args.get("min_val", default[0]))
    high = args.get("max", args.get("max_val", default[1]))
    are_numbers = all(v is None or type(v) in (int, float) for v in (low, high)) and (low, high) != (None, None)
    if not are_numbers or (low is not None and high is not None and low > high):
        raise UnsupportedError(f"clamps to [{low}, {high}], expected numbers in order.")
    if low == 0 and high is None:
        return _relu(builder, call)
    limits = tuple(None if v is None else float(v) for v in (low, high))
    return builder.emit(call, "clamp", [builder.read(args["self"])], {"limits": limits})


def _lookup(builder: GraphBuilder, call: Call) -> Value:
    """A function of single values, with its usual parameters.

    Raises:
        UnsupportedError: Parameters of its own.
    """
    name = call.functional_operator.split(".")[1]
    extra = {key: value for key, value in call.args.items() if key != "self"}
    if extra != _USUAL.get(name, {}):
        raise UnsupportedError(f"got {extra}, expected {dict(_USUAL.get(name, {}))}.")
    return builder.emit(call, "lookup", [builder.read(call.args["self"])], {"function": name})


def _add(builder: GraphBuilder, call: Call) -> Value:
    left, right = call.args["self"], call.args["other"]
    if call.args["alpha"] != 1:
        raise UnsupportedError(f"adds with alpha={call.args['alpha']}, expected 1.")
    if type(right) in (int, float) and right == 0:  # sum([...]) starts from 0
        return _alias(builder, call)
    if not (builder.is_activation(left) and builder.is_activation(right)):
        raise UnsupportedError("adds a constant or parameter; only sums of two activations are supported. Use a bias.")
    return builder.emit(call, "add", [builder.read(left), builder.read(right)])


def _concat(builder: GraphBuilder, call: Call) -> Value:
    tensors = [builder.read(item) for item in call.args["tensors"]]
    rank = len(builder.own_shape(tensors[0])) + 1
    dim = call.args["dim"]
    if dim % rank != 1:
        raise UnsupportedError(f"concatenates along dimension {dim}, expected 1 (channels).")
    return builder.emit(call, "concat", tensors) if len(tensors) > 1 else builder.view(call.args["tensors"][0])


def _slice(builder: GraphBuilder, call: Call) -> Value:
    """Every step-th row or column: a max pool of windows of one.

    Raises:
        UnsupportedError: Another part of the tensor.
    """
    args = call.args
    if not builder.is_activation(args["self"]):
        raise UnsupportedError(_hint(builder, call))
    shape = builder.view(args["self"]).shape
    axis, step = args["dim"] % (len(shape) + 1), args["step"]
    whole = args["start"] in (None, 0) and (axis == 0 or (args["end"] is None or args["end"] >= shape[axis - 1]))
    whole = whole and (axis > 0 or args["end"] in (None, _LAST_INDEX))
    if whole and step == 1:
        return _alias(builder, call)
    if not whole or axis < 2 or len(shape) != 3 or type(step) is not int:
        raise UnsupportedError(
            f"takes a part of dimension {axis}; only every n-th row and column, x[:, :, ::n, ::n], is supported."
        )
    stride = (step, 1) if axis == 2 else (1, step)
    attrs = {"kernel": (1, 1), "stride": stride, "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    return builder.emit(call, "max_pool2d", [builder.read(args["self"])], attrs)


def _pad(builder: GraphBuilder, call: Call) -> Value:
    args = call.args
    x = builder.read(args["self"])
    rank = len(builder.own_shape(x)) + 1
    mode, value, amounts = args.get("mode", "constant"), args.get("value"), list(args["pad"])
    if mode != "constant" or value not in (None, 0) or rank != 4:
        raise UnsupportedError(
            f"pads rank {rank} with mode {mode!r} and value {value}; only zeros around [N, C, H, W]."
        )
    amounts += [0] * (2 * rank - len(amounts))
    before, after = amounts[::2][::-1], amounts[1::2][::-1]  # torch starts from the last axis
    if not all(type(amount) is int for amount in amounts) or min(amounts) < 0 or before[0] or after[0]:
        raise UnsupportedError(f"pads by {tuple(args['pad'])}; expected amounts >= 0 on C, H and W.")
    return builder.emit(call, "pad", [x], {"before": tuple(before[1:]), "after": tuple(after[1:])})


def _dropout(builder: GraphBuilder, call: Call) -> Value:
    if call.args["train"]:
        raise UnsupportedError("dropout that is active in eval mode. Pass training=self.training, or use nn.Dropout.")
    return _alias(builder, call)


def _alias(builder: GraphBuilder, call: Call) -> Value:
    """The same values, perhaps in the same memory.

    Raises:
        UnsupportedError: The type of the values changes.
    """
    source = next(iter(call.args.values()))
    value = builder.view(source)
    if call.dtype not in (None, builder.dtype):
        raise UnsupportedError(f"changes the type of values from {builder.dtype} to {call.dtype}.")
    return value


def _copy(builder: GraphBuilder, call: Call) -> Value:
    """The same values in memory of their own."""
    value = _alias(builder, call)
    return Value(value.tensor, value.shape, value.batch, call.name)


def _view(builder: GraphBuilder, call: Call) -> Value:
    value = builder.view(next(iter(call.args.values())))
    return builder.reshape(call, value, call.shape or ())


def _getitem(builder: GraphBuilder, call: Call) -> Value:
    """No operator of the dialect makes several tensors, so what it reads has failed already.

    Raises:
        UnsupportedError: Always.
    """
    raise UnsupportedError("takes one of several results.")


def _hint(builder: GraphBuilder, call: Call) -> str:
    """Say what to do about an operator without a rule."""
    if not any(builder.is_activation(ref) for ref in call.refs):
        return (
            "computes from parameters or constants alone. Compute it before capture "
            "(torch.nn.utils.parametrize.remove_parametrizations) and keep the result as a parameter or buffer."
        )
    name = call.functional_operator.split(".")[1] if "." in call.operator else call.operator
    for names, hint in _HINTS:
        if name in names:
            return hint
    return "no such operator in the float dialect (ir.graph.FLOAT_OPS)."


_HINTS: Sequence[tuple[tuple[str, ...], str]] = (
    (
        ("elu", "selu", "celu", "prelu", "rrelu", "mish", "softplus", "softsign", "hardshrink", "threshold"),
        "an activation function that has neither limits nor a table (ir.activation). Train with nn.ReLU.",
    ),
    (
        ("softmax", "log_softmax", "logsigmoid"),
        "leave the last activation to the loss function (cross_entropy takes logits).",
    ),
    (
        ("mul", "sub", "div", "rsub", "neg"),
        "arithmetic other than the sum of two activations. Scale data before the model.",
    ),
    (("layer_norm", "group_norm", "instance_norm"), "normalises with statistics of the sample. Use batch norm."),
    (("matmul", "mm", "addmm", "bmm"), "a matrix product written by hand. Use nn.Linear on [N, F]."),
    (("conv1d", "conv3d", "conv_transpose2d"), "only two-dimensional convolution (nn.Conv2d) is supported."),
    (("slice", "select", "chunk", "split", "index", "permute", "transpose"), "takes tensors apart or turns them."),
    (("max_pool2d_with_indices", "adaptive_max_pool2d", "amax"), "use nn.MaxPool2d with a fixed kernel."),
    (
        ("lstm", "gru", "embedding", "scaled_dot_product_attention"),
        "recurrent and attention networks are not supported.",
    ),
)

_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "aten.conv2d.default": _conv2d,
        "aten.conv2d.padding": _conv2d,
        "aten.linear.default": _linear,
        "aten.batch_norm.default": _batch_norm,
        "aten.relu.default": _relu,
        "aten.relu6.default": _clamp,
        "aten.hardtanh.default": _clamp,
        "aten.clamp.default": _clamp,
        "aten.clip.default": _clamp,
        "aten.clamp_min.default": _clamp,
        "aten.clamp_max.default": _clamp,
        **{f"aten.{name}.default": _lookup for name in FUNCTIONS},
        "aten.add.Tensor": _add,
        "aten.cat.default": _concat,
        "aten.concat.default": _concat,
        "aten.concatenate.default": _concat,
        "aten.max_pool2d.default": max_pool2d,
        "aten.avg_pool2d.default": avg_pool2d,
        "aten.slice.Tensor": _slice,
        "aten.pad.default": _pad,
        "aten.constant_pad_nd.default": _pad,
        "aten.adaptive_avg_pool2d.default": adaptive_avg_pool2d,
        "aten.mean.dim": mean,
        "aten.dropout.default": _dropout,
        "aten.feature_dropout.default": _dropout,
        "aten.alpha_dropout.default": _dropout,
        "aten.feature_alpha_dropout.default": _dropout,
        "aten.alias.default": _alias,
        "aten.contiguous.default": _alias,
        "aten.detach.default": _alias,
        "aten.to.dtype": _alias,
        "aten.to.dtype_layout": _alias,
        "aten.to.device": _alias,
        "aten.clone.default": _copy,
        "aten.view.default": _view,
        "aten.reshape.default": _view,
        "aten.flatten.using_ints": _view,
        "aten.unflatten.int": _view,
        "aten.squeeze.default": _view,
        "aten.squeeze.dim": _view,
        "aten.squeeze.dims": _view,
        "aten.unsqueeze.default": _view,
        "getitem": _getitem,
    }
)
