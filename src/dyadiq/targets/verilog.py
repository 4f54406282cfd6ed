"""Target `verilog`: the whole network as pipelined logic, one sample per clock cycle, with a bench that tests it.

Used through `TARGETS`; `dyadiq.fpga` does the work. The folder holds ``network.v``, ``testbench.v`` with vectors whose
answers come from the reference, ``interface.json`` (ports, types, input quantizers, latency), a Makefile and a README.
The input quantizer is software: the circuit starts at input codes, and `emulate` makes them as the reference does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.core.qtype import QType
from dyadiq.fpga.interface import FILENAME, carried_codes, carried_type_of, describe, read_interface
from dyadiq.fpga.limits import MAX_LUTS, check_size, guess_luts
from dyadiq.fpga.pipeline import schedule
from dyadiq.fpga.simulate import SIMULATORS, bench_text, pack_vectors, simulate, unpack_vectors
from dyadiq.fpga.trace import Port, find_untraceable, trace
from dyadiq.fpga.verilog import TOP, module_text, verilog_ports
from dyadiq.ir.integer import IntegerProgram, input_grid
from dyadiq.ir.proof import prove
from dyadiq.ir.reference import run_reference
from dyadiq.targets.base import Codes, Problems, Target, checked_feeds, save_bytes

__all__ = ["VerilogConfig", "VerilogTarget"]


@dataclass(frozen=True, slots=True)
class VerilogConfig:
    """How the circuit is made; no option changes an integer.

    Attributes:
        depth: Most adders in a row between two registers: fewer for a faster clock, more for fewer registers.
        n_vectors: Vectors for the bench.
        seed: Seed of the vectors.
        max_luts: A program of more, by a quick guess, is refused; default: the largest known part.
        simulator: What `emulate` runs: ``iverilog``, or ``verilator`` for very many samples.
    """

    depth: int = 4
    n_vectors: int = 1000
    seed: int = 0
    simulator: str = "iverilog"
    max_luts: int = MAX_LUTS

    def __post_init__(self) -> None:
        """Refuse what makes no circuit.

        Raises:
            ConfigError: A number is too small.
            UnknownNameError: No such simulator.
        """
        if self.simulator not in SIMULATORS:
            raise UnknownNameError("simulator", self.simulator, SIMULATORS)
        for name, least in (("depth", 1), ("n_vectors", 1), ("seed", 0), ("max_luts", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"verilog: {name} must be at least {least}, got {getattr(self, name)}.")


class VerilogTarget(Target):
    """Pipelined Verilog, fully unrolled; emulated by simulating it with Icarus Verilog or Verilator.

    Attributes:
        config: Options.
    """

    name: ClassVar[str] = "verilog"
    filename: ClassVar[str] = f"{TOP}.v"
    options: ClassVar[type] = VerilogConfig

    def __init__(self, config: VerilogConfig = VerilogConfig()) -> None:  # frozen
        """Take options; all default."""
        self.config = config

    def check(self, program: IntegerProgram) -> list[str]:
        """Return a note on the input quantizer.

        Raises:
            ExportError: A weight is too wide.
            TooLargeError: The network is too large to unroll.
            ProofError: A tensor may leave its declared type.
        """
        prove(program)
        problems = Problems(self.name)
        for node, reason in find_untraceable(program):
            problems.add(node, reason)
        problems.raise_if_any()
        check_size(guess_luts(program), self.config.max_luts)
        return ["the circuit starts at input codes: the input quantizer is software"]

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write the module, its bench with vectors, a Makefile, a README and ``interface.json``.

        Raises:
            ExportError: As `check`.
            MissingDependencyError: da4ml is not installed.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        circuit = trace(program, max_luts=self.config.max_luts)
        plan = schedule(circuit, self.config.depth)
        file = self.file(path)
        inputs, outputs = verilog_ports(circuit)
        interface = describe(program.graph, circuit, plan)
        vectors = self._vectors(program)
        answers = run_reference(program, vectors, taps=[p.tensor for p in circuit.inputs])
        texts = {
            file.name: module_text(circuit, plan, _head(interface)),
            "testbench.v": bench_text(inputs, outputs, plan.latency_cycles),
            "vectors_in.hex": _packed(circuit.inputs, answers),
            "vectors_out.hex": _packed(circuit.outputs, answers),
            FILENAME: json.dumps(interface, indent=2) + "\n",
            "Makefile": _MAKEFILE,
            "README.md": _readme(interface),
        }
        return [save_bytes(file.parent / name, text.encode()) for name, text in texts.items()]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Quantize real inputs as the reference does, simulate the written circuit, return its output codes.

        Raises:
            ArtifactError: No such file, or an ``interface.json`` that is not ours.
            DataError: Inputs missing, of the wrong shape, or not finite.
            MissingToolError: The simulator is not installed.
            ToolError: The simulation failed.
        """
        folder = self.existing_file(path).parent
        interface = read_interface(folder)
        shapes = {port["input"]: tuple(port["shape"]) for port in interface["inputs"]}
        feeds, _ = checked_feeds(shapes, inputs)
        qtypes = [carried_type_of(port) for port in interface["inputs"]]
        codes = [carried_codes(port, feeds[port["input"]]) for port in interface["inputs"]]
        counts = [int(np.prod(port["shape"])) for port in interface["outputs"]]
        types = [QType.parse(port["type"]) for port in interface["outputs"]]
        given = simulate(folder, pack_vectors(codes, qtypes), simulator=self.config.simulator)
        columns = unpack_vectors(given, counts, types)
        return {
            port["tensor"]: array.reshape(len(array), *port["shape"])
            for port, array in zip(interface["outputs"], columns, strict=True)
        }

    def _vectors(self, program: IntegerProgram) -> dict[str, NDArray[np.float64]]:
        """Return real inputs on the grid of the input quantizers, every code equally likely."""
        graph, rng = program.graph, np.random.default_rng(self.config.seed)
        real = {}
        for node in graph.nodes:
            if node.op != "quantize" or node.inputs[0] in real:
                continue
            info = graph.tensors[node.output]
            assert info.qtype is not None, "prove has checked that every tensor has a type"
            scale, zero_point = (graph.params[name] for name in node.inputs[1:3])
            grid, shape = input_grid(graph, node), (self.config.n_vectors, *info.shape)
            if grid is None:
                codes = rng.integers(info.qtype.qmin, info.qtype.qmax, shape, endpoint=True)
            else:
                top = np.broadcast_to(grid.along(grid.high - grid.low, len(shape)), shape)
                codes = grid.codes_of(rng.integers(0, top, endpoint=True))
            real[node.inputs[0]] = np.asarray((codes - int(zero_point)) * float(scale), dtype=np.float64)
        return real


def _packed(ports: Sequence[Port], codes: Mapping[str, NDArray[np.int64]]) -> str:
    return pack_vectors([port.elements(codes[port.tensor]) for port in ports], [port.carried for port in ports])


def _head(interface: Mapping[str, Any]) -> str:
    lines = [
        "Made by Dyadiq. One sample per clock; outputs are valid "
        f"{interface['latency_cycles']} cycles after their inputs.",
        "Element k of a port is at bits [k * width +: width], two's complement, elements in row-major order:",
    ]
    for port in (*interface["inputs"], *interface["outputs"]):
        lines.append(f"  {port['port']}: {port['tensor']} {port['shape']} {port['type']}, width {port['bits']}")
    return "\n".join(lines)


_MAKEFILE = f"""# make: simulate the bench with Icarus Verilog; it says PASS or FAIL.
test: bench.vvp
\tvvp bench.vvp

bench.vvp: {TOP}.v testbench.v
\tiverilog -g2005 -Wall -o $@ {TOP}.v testbench.v

clean:
\trm -f bench.vvp

.PHONY: test clean
"""


def _readme(interface: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| `{p['port']}` | {side} | {p['tensor']} | {p['shape']} | {p['type']} | {p['bits']} | "
        f"{p['scale'] if not isinstance(p['scale'], list) else 'per channel'} | {p['zero_point']} |"
        for side in ("inputs", "outputs")
        for p in interface[side]
    )
    return f"""# A network as logic

`{TOP}.v` takes one sample per clock cycle (initiation interval 1).
Its outputs are valid {interface["latency_cycles"]} cycles after their inputs: {interface["stages"]} stages of at most
{interface["adders_per_stage"]} adders in a row, between registered inputs and registered outputs.
There is no reset and no stall; undefined values leave after {interface["latency_cycles"]} cycles.

| port | side | tensor | shape | type | bits per element | scale | zero point |
|---|---|---|---|---|---|---|---|
{rows}

Element k of a port, in row-major order, is at bits `[k * bits +: bits]` in two's complement
(`bipolar`: one bit, set for +1).
Inputs with a `grid` in `interface.json` carry the number of the step instead, `code / 2^shift - low`, unsigned, with
shift and low those of the element's channel; a channel's unused upper bits are 0.
Real values: `(code - zero_point) * scale`.
The input quantizer is software: the circuit starts at codes,
`clip(floor(x / scale + 1/2) + zero_point, lowest code, highest code)` in float64.

`make` runs the bench: it feeds `vectors_in.hex`, compares with `vectors_out.hex` (from Dyadiq's reference
interpreter), and says PASS or FAIL.
`interface.json` says all this to programs.
"""
