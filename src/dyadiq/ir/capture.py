"""Capture: from any ``nn.Module`` that torch.export takes to a float Graph that computes the same.

The first step of everything. The model is not rewritten, not changed, and left in the mode it was in; it is captured
as it evaluates (eval mode). Parameters keep their state-dict names, nodes are named by module path, every node knows
the line of the user's code it came from. Operators are translated by `ir.capture_ops`.

Nothing is believed: the graph is checked (`ir.check`), then run against the model on the example inputs and on a batch
of another size.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import operator
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyadiq.core.errors import CaptureError, DataError
from dyadiq.ir.capture_builder import Call, GraphBuilder, Ref
from dyadiq.ir.capture_ops import translate
from dyadiq.ir.check import check_graph
from dyadiq.ir.execute import run_graph
from dyadiq.ir.graph import Graph

__all__ = ["CAPTURE_TOLERANCE", "capture"]

# Graph and model call the same float32 kernels, so they differ at most by the order of sums: relative to the largest
# output, 1e5 additions of random sign lose about 300 * 2**-24.
CAPTURE_TOLERANCE = 1e-4

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_TORCH_FOLDER = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')

# What user code and torch.export raise in practice; KeyboardInterrupt, MemoryError and the like pass through.
_EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError)


def capture(model: nn.Module, example_inputs: Tensor | Sequence[Tensor]) -> Graph:
    """Return the Graph of a model, in eval mode, for any batch size.

    Args:
        model: Any module whose forward torch.export can trace. Of a (Distributed)DataParallel the module inside is
            captured, with its own names.
        example_inputs: One tensor, or one for each argument of forward. Dimension 0 is the batch. Values matter
            little: they are used to compare the graph with the model.

    Raises:
        CaptureError: torch.export failed; or operators, parameters or outputs that a Graph cannot hold, all of them
            listed with module path and source line; or the graph does not compute what the model does.
        DataError: Example inputs that are no float tensors, have no batch dimension, or hold NaN or infinity.
        GraphError: The captured graph is illegal, which is a bug of capture.

    Shapes:
        example_inputs ``[N, ...]`` with ``N >= 1``; rank 2 or 4 for every operator there is today.

    Example:
        >>> graph = capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(1, 4))
        >>> [(node.name, node.op, node.inputs) for node in graph.nodes]
        [('0', 'linear', ('input', '0.weight', '0.bias')), ('1', 'relu', ('0',))]
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"capture needs a torch.nn.Module, got {type(model).__name__}.")
    while isinstance(model, _WRAPPERS):
        model = model.module
    examples = _checked_examples(example_inputs)
    with _eval_mode(model), torch.no_grad():
        graph = _translated(model, _exported(model, examples))
        check_graph(graph)
        _compare(model, graph, examples)
    return graph


def _checked_examples(example_inputs: Any) -> list[Tensor]:
    """Return the example inputs as a list.

    Raises:
        DataError: They are unusable.
    """
    examples = [example_inputs] if isinstance(example_inputs, Tensor) else example_inputs
    if not isinstance(examples, (list, tuple)) or not examples:
        raise DataError(f"example_inputs must be a tensor or a sequence of tensors, got {type(examples).__name__}.")
    for position, example in enumerate(examples):
        where = f"example input {position}"
        if not isinstance(example, Tensor):
            raise DataError(f"{where} must be a tensor, got {type(example).__name__}.")
        if example.dtype not in (torch.float32, torch.float64):
            raise DataError(f"{where} is {example.dtype}, expected float32 (or float64). Use x.float().")
        if example.ndim < 2 or example.numel() == 0:
            raise DataError(
                f"{where} has shape {list(example.shape)}, expected [N, ...] with N >= 1: "
                "dimension 0 is the batch. Use x.unsqueeze(0) for a single sample."
            )
        if not torch.isfinite(example).all():
            raise DataError(f"{where} holds NaN or infinite values; the graph could not be compared with the model.")
    if len({len(example) for example in examples}) > 1:
        raise DataError(f"example inputs have different batch sizes: {[len(example) for example in examples]}.")
    return list(examples)


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and back into the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep torch.export's warnings, log lines and printed listings from the user; errors carry what matters."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    loggers = [entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger)]
    handlers = {handler for entry in loggers if entry.name.split(".")[0] == "torch" for handler in entry.handlers}
    with contextlib.ExitStack() as stack:
        for handler in handlers:
            handler.addFilter(drop)
            stack.callback(handler.removeFilter, drop)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _exported(model: nn.Module, examples: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Return torch.export's program, with dimension 0 of every input free.

    Raises:
        CaptureError: torch.export failed; its error is the cause.
    """
    # One row would be taken for a constant, and one tensor given twice for one input.
    rows = tuple(torch.cat([x, x]) if len(x) == 1 else x.clone() for x in examples)
    try:
        with _quiet_torch():
            return torch.export.export(model, rows, dynamic_shapes=_free_batch(model, rows), strict=False)
    except _EXPORT_ERRORS as err:
        frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(err.__traceback__)]
        first_lines = "\n  ".join(line for line in str(err).splitlines()[:3] if line.strip())
        line = _user_line(frames)
        raise CaptureError(
            f"{type(model).__name__}: torch.export failed with {type(err).__name__} on inputs of shape "
            f"{[list(x.shape) for x in rows]}:\n  {first_lines}\n"
            "Dimension 0 of every input must be the batch, of any size; forward must not branch on values of tensors "
            "or fix the batch size (len(x) does; use x.shape[0])." + (f" Raised at {line}." if line else "")
        ) from err


def _free_batch(model: nn.Module, rows: Sequence[Tensor]) -> dict[str, Any]:
    """Return the dynamic shapes that say: dimension 0 of each argument of forward may have any size."""
    free = {0: torch.export.Dim.DYNAMIC}
    arguments = inspect.signature(model.forward).bind(*rows).arguments
    return {name: tuple(free for _ in value) if isinstance(value, tuple) else free for name, value in arguments.items()}


def _user_line(frames: Sequence[tuple[str, int | str]]) -> str:
    """Return ``folder/file.py:line`` of the innermost frame that is neither torch's nor ours; empty if there is none.

    Only the last folder is kept, so that a graph is the same on every machine.
    """
    for file, line in reversed(frames):
        if not file.startswith(("<", _TORCH_FOLDER)) and Path(file) != Path(__file__) and Path(file).parts:
            return f"{'/'.join(Path(file).parts[-2:])}:{line}"
    return ""


def _translated(model: nn.Module, program: torch.export.ExportedProgram) -> Graph:
    """Return the graph that an exported program means.

    Raises:
        CaptureError: Everything in it that a Graph cannot hold.
    """
    signature = program.graph_signature
    dtype = next(str(n.meta["val"].dtype) for n in program.graph.nodes if n.name in signature.user_inputs)
    builder = GraphBuilder(type(model).__name__, dtype)
    tensors = _state_tensors(model)
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    outputs: Sequence[Any] = ()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            name, value = tensors[names[node.name]]
            widened = value.float() if value.dtype == torch.bfloat16 else value  # numpy has no bfloat16
            builder.add_param(node.name, name, widened.detach().cpu().numpy().copy(), str(value.dtype))
        elif node.op == "placeholder" and node.name in signature.user_inputs:
            builder.add_input(node.name, _sizes(node.meta["val"]))
        elif node.op in ("placeholder", "get_attr"):
            builder.add_constant(node.name)
        elif node.op == "output":
            outputs = [_plain(item) for item in node.args[0]]
        elif not isinstance(node.meta.get("val"), (type(None), int, float, bool, torch.SymInt, torch.SymBool)):
            translate(builder, _call(model, node))
    meta: dict[str, Any] = {"model": type(model).__qualname__, "torch": torch.__version__}
    frozen = sorted({tensors[n][0] for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad})
    idle = {node.name for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    parameters = dict(model.named_parameters())
    unused = sorted(
        name for node, target in names.items() if node in idle and (name := tensors[target][0]) in parameters
    )
    told = {"frozen_parameters": frozen, "unused_parameters": unused}
    return builder.finish(outputs, meta | {key: value for key, value in told.items() if value})


def _state_tensors(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Return every parameter and buffer by each of its names, with the first of its names."""
    first_name: dict[int, str] = {}
    tensors = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, value in named:
            tensors[name] = (first_name.setdefault(id(value), name), value)
    return tensors


def _call(model: nn.Module, node: torch.fx.Node) -> Call:
    """Return the record of one call of the exported program."""
    call_id, module = "", ""
    for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
        call_id, module = key, path
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    value = node.meta.get("val")
    result = value if isinstance(value, Tensor) else None
    return Call(
        name=node.name,
        operator="getitem" if node.target is operator.getitem else str(node.target),
        args=_arguments(node),
        shape=None if result is None else _sizes(result),
        dtype=None if result is None else str(result.dtype),
        n_users=len(node.users),
        module=module,
        call_id=call_id,
        is_leaf=next(model.get_submodule(module).children(), None) is None,
        source=_user_line(frames) or module,
    )


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Return the arguments of a call by name, with defaults; by position where torch gives no schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(i): _plain(item) for i, item in enumerate((*node.args, *node.kwargs.values()))}
    arguments = {}
    for position, expected in enumerate(schema.arguments):
        if position < len(node.args):
            arguments[expected.name] = _plain(node.args[position])
        elif expected.name in node.kwargs or expected.has_default_value():
            arguments[expected.name] = _plain(node.kwargs.get(expected.name, expected.default_value))
    return arguments


def _plain(item: Any) -> Any:
    """Return an argument with results as `Ref` and lists as tuples."""
    if isinstance(item, torch.fx.Node):
        return Ref(item.name)
    return tuple(_plain(i) for i in item) if isinstance(item, (list, tuple)) else item


def _sizes(value: Tensor) -> tuple[int | str, ...]:
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape)


def _compare(model: nn.Module, graph: Graph, examples: Sequence[Tensor]) -> None:
    """Run model and graph on the examples and on a batch of another size.

    Raises:
        CaptureError: Their outputs differ, the model's are not finite, or the model fails.
    """
    generator = torch.Generator().manual_seed(0)
    n_rows = 3 if len(examples[0]) != 3 else 4
    others = []
    for example in examples:
        rows = example[torch.arange(n_rows, device=example.device) % len(example)]
        noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype).to(rows.device)
        spread = float(example.std(correction=0))
        others.append(rows + noise * (spread if spread > 0 else 1.0))
    for what, batch in (("the example inputs", examples), (f"a batch of {n_rows}", others)):
        try:
            wanted = _flat_outputs(model(*(x.clone() for x in batch)))
        except _EXPORT_ERRORS as err:
            raise CaptureError(f"{type(model).__name__}: the model fails on {what}: {err}") from err
        got = run_graph(graph, batch)
        if len(wanted) != len(got):
            raise CaptureError(f"{type(model).__name__}: gives {len(wanted)} outputs, its graph {len(got)}.")
        for name, theirs, ours in zip(graph.outputs, wanted, got, strict=True):
            _compare_output(f"{type(model).__name__}: output {name!r} on {what}", theirs, ours)


def _compare_output(where: str, theirs: Tensor, ours: Tensor) -> None:
    """Compare one output.

    Raises:
        CaptureError: It differs, or the model's is not finite.
    """
    if not torch.isfinite(theirs).all():
        raise CaptureError(f"{where}: the model gives NaN or infinite values. Check its parameters and the inputs.")
    if theirs.shape != ours.shape:
        raise CaptureError(
            f"{where}: the model gives shape {list(theirs.shape)}, its graph {list(ours.shape)}. "
            "x.squeeze() without a dimension drops a batch of one; name the dimension."
        )
    error = float((theirs - ours).abs().max())
    allowed = CAPTURE_TOLERANCE * max(1.0, float(theirs.abs().max()))
    if error > allowed:
        raise CaptureError(
            f"{where}: the graph differs from the model by {error:.3g}, expected at most {allowed:.3g}. Does forward "
            "draw random numbers or depend on the batch? If not, this is a bug of capture; please report it."
        )


def _flat_outputs(outputs: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [tensor for item in outputs for tensor in _flat_outputs(item)]
    return [outputs]
