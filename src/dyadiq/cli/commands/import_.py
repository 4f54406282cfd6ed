"""``dyadiq import``: quantized ONNX written by others as an integer program that every other command takes."""

from __future__ import annotations

from pathlib import Path

import click

from dyadiq.cli.guard import command
from dyadiq.cli.output import print_json, print_table, stderr_console

__all__ = ["import_"]


@command("import", "Turn a QONNX or QDQ file of others into a program.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File: .dyq (packed) or .safetensors.")
@click.option("--output", "outputs", multiple=True, help="Tensor to end at, e.g. before a softmax; repeatable.")
@click.option(
    "--input-type",
    "input_types",
    multiple=True,
    metavar="NAME=TYPE:SCALE",
    help="Type and step of an input that the model does not quantize itself, e.g. x=int16:2^-10; repeatable.",
)
@click.option(
    "--nearest",
    is_flag=True,
    help="Let QuantizeLinear nodes without an exact integer form have a near one, told by name.",
)
def import_(
    model: Path,
    out: Path,
    outputs: tuple[str, ...],
    input_types: tuple[str, ...],
    nearest: bool,
    as_json: bool,
) -> None:
    """Read MODEL, quantized ONNX, and write the integer program that it means.

    MODEL is a QONNX file (Brevitas, QKeras, HGQ, dyadiq), or one with QuantizeLinear and DequantizeLinear (onnxruntime,
    PyTorch, TensorRT). What has no exact integer form is refused, every node of it with the reason. The result can be
    verified, exported and synthesised like a program of our own.
    """
    from dyadiq.ir.qonnx_import import import_qonnx
    from dyadiq.ir.serialize import save_program
    from dyadiq.targets.dyq import write_dyq

    _check_suffix(out)
    types = dict(_input_type(text) for text in input_types)
    program = import_qonnx(model, outputs=outputs, input_types=types, nearest=nearest)
    if out.suffix == ".dyq":
        write_dyq(program, out)
    else:
        save_program(out, program)
    graph, notes = program.graph, list(program.provenance["notes"])
    tensors = [
        {"side": side, "name": name, "shape": list(graph.tensors[name].shape), "type": str(graph.tensors[code].qtype)}
        for side, pairs in (
            ("input", [(n.inputs[0], n.output) for n in graph.nodes if n.op == "quantize"]),
            ("output", [(name, name) for name in graph.outputs]),
        )
        for name, code in pairs
    ]
    if as_json:
        document = {"schema": "dyadiq.import/1", "program": str(out), "nodes": len(graph.nodes), "tensors": tensors}
        print_json(document | {"outputs": dict(program.provenance["outputs"]), "notes": notes})
        return
    print_table(("side", "tensor", "shape", "codes"), [tuple(map(str, tensor.values())) for tensor in tensors])
    for note in notes:
        stderr_console().print(f"  {note}")


def _check_suffix(out: Path) -> None:
    """Refuse a file of an unknown kind before any work.

    Raises:
        ConfigError: Neither .dyq nor .safetensors.
    """
    from dyadiq.core.errors import ConfigError

    if out.suffix not in (".dyq", ".safetensors"):
        raise ConfigError(f"--out {out}: expected a file that ends in .dyq or .safetensors.")


def _input_type(text: str) -> tuple[str, tuple[str, float]]:
    """Return name, type and scale of ``NAME=TYPE:SCALE``; the scale is a number or a power like 2^-10.

    Raises:
        ConfigError: It is not of that form.

    Example:
        >>> _input_type("x=int8:2^-4"), _input_type("a=b=uint4:0.1")
        (('x', ('int8', 0.0625)), ('a=b', ('uint4', 0.1)))
    """
    from dyadiq.core.errors import ConfigError

    name, equals, value = text.rpartition("=")
    qtype, colon, scale = value.partition(":")
    base, power, exponent = scale.partition("^")
    try:
        number = float(base) ** int(exponent) if power else float(base)
    except (ValueError, ArithmeticError):
        number = float("nan")
    if not (name and equals and qtype and colon and number > 0):
        raise ConfigError(f"--input-type {text}: expected NAME=TYPE:SCALE, for example x=int16:2^-10 or x=uint8:0.5.")
    return name, (qtype, number)
