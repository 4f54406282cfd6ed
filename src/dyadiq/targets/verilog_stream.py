"""Target `verilog_stream`: an image network as a pipeline of line buffers, one position of the image per clock cycle.

Used through `TARGETS`; `dyadiq.fpga.stream` does the work. Beside target `verilog`, which takes a whole sample per
cycle and unrolls it in space, this one needs the logic of one position per layer, and as many cycles per image as it
has positions. The folder holds the same files; `emulate` simulates what was written.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ToolError
from dyadiq.core.qtype import QType
from dyadiq.fpga.interface import FILENAME, input_codes, read_interface
from dyadiq.fpga.simulate import pack_vectors, simulate, unpack_vectors
from dyadiq.fpga.stream import find_unstreamable, make_pipeline
from dyadiq.fpga.stream_interface import describe_stream, stream_readme
from dyadiq.fpga.stream_parts import Pipeline
from dyadiq.fpga.stream_verilog import stream_bench_text, stream_text
from dyadiq.fpga.verilog import TOP
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.reference import run_reference
from dyadiq.targets.base import Codes, Problems, Target, checked_feeds, save_bytes
from dyadiq.targets.verilog import VerilogConfig

__all__ = ["VerilogStreamConfig", "VerilogStreamTarget"]


@dataclass(frozen=True, slots=True)
class VerilogStreamConfig(VerilogConfig):
    """Options of target `verilog`; ``n_vectors`` counts images."""

    n_vectors: int = 32


class VerilogStreamTarget(Target):
    """Pipelined Verilog in line-buffer form; emulated by simulating it with Icarus Verilog or Verilator.

    Attributes:
        config: Options.
    """

    name: ClassVar[str] = "verilog_stream"
    filename: ClassVar[str] = f"{TOP}.v"
    options: ClassVar[type] = VerilogStreamConfig

    def __init__(self, config: VerilogStreamConfig = VerilogStreamConfig()) -> None:  # frozen
        """Take options; all default."""
        self.config = config

    def check(self, program: IntegerProgram) -> list[str]:
        """Return a note on the input quantizer.

        Raises:
            ExportError: The network has no single image as its input, or cannot be streamed; lists every node.
            ProofError: A tensor may leave its declared type.
        """
        problems = Problems(self.name)
        for node, reason in find_unstreamable(program):
            problems.add(node, reason)
        problems.raise_if_any()
        return ["the circuit starts at input codes: the input quantizer is software"]

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write the modules, their bench with vectors, a Makefile, a README and ``interface.json``.

        Raises:
            ExportError: As `check`.
            MissingDependencyError: da4ml is not installed.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        pipeline = make_pipeline(program, self.config.depth)
        file = self.file(path)
        interface = describe_stream(program.graph, pipeline)
        answers = run_reference(program, self._images(program, pipeline), taps=[pipeline.source.tensor])
        texts = {
            file.name: stream_text(pipeline, _head(interface)),
            "testbench.v": stream_bench_text(pipeline),
            "vectors_in.hex": _packed(answers[pipeline.source.tensor], pipeline.source.qtype),
            **{
                f"vectors_out_{k}.hex": _packed(answers[name], pipeline.streams[name].qtype)
                for k, name in enumerate(pipeline.outputs)
            },
            FILENAME: json.dumps(interface, indent=2) + "\n",
            "Makefile": _MAKEFILE,
            "README.md": stream_readme(interface),
        }
        return [save_bytes(file.parent / name, text.encode()) for name, text in texts.items()]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Quantize real images as the reference does, simulate the written circuit, return its output codes.

        Raises:
            ArtifactError: No such file, or an ``interface.json`` that is not ours.
            DataError: Inputs missing, of the wrong shape, or not finite.
            MissingToolError: The simulator is not installed.
            ToolError: The simulation failed.
        """
        folder = self.existing_file(path).parent
        interface = read_interface(folder)
        (port,) = (entry for entry in interface["inputs"] if "input" in entry)
        feeds, _ = checked_feeds({port["input"]: tuple(port["tensor_shape"])}, inputs)
        codes = input_codes(port, feeds[port["input"]])
        text = simulate(folder, _packed(codes, QType.parse(port["type"])), simulator=self.config.simulator)
        lines: dict[str, list[str]] = defaultdict(list)
        for line in text.splitlines():
            key, _, digits = line.partition(" ")
            lines[key].append(digits)
        ports = [entry for entry in interface["outputs"] if "tensor" in entry]
        return {entry["tensor"]: _unpacked(lines[str(k)], entry, len(codes)) for k, entry in enumerate(ports)}

    def _images(self, program: IntegerProgram, pipeline: Pipeline) -> NDArray[np.float64]:
        """Return real images on the grid of the input quantizer, every code equally likely."""
        graph, source = program.graph, pipeline.source
        (node,) = (node for node in graph.nodes if node.op == "quantize")
        scale, zero_point = (graph.params[name] for name in node.inputs[1:3])
        shape = (self.config.n_vectors, *graph.tensors[source.tensor].shape)
        codes = np.random.default_rng(self.config.seed).integers(
            source.qtype.qmin, source.qtype.qmax, shape, endpoint=True
        )
        return np.asarray((codes - int(zero_point)) * float(scale), dtype=np.float64)


def _packed(codes: NDArray[np.int64], qtype: QType) -> str:
    """Return the lines of codes ``[N, C, H, W]`` or ``[N, F]``, one per position."""
    return pack_vectors([np.moveaxis(codes, 1, -1).reshape(-1, codes.shape[1])], [qtype])


def _unpacked(lines: list[str], entry: Mapping[str, Any], n_samples: int) -> NDArray[np.int64]:
    """Return codes ``[N, C, H, W]`` or ``[N, F]`` from lines, one per position.

    Raises:
        ToolError: The simulation left out positions, or put out unknown bits.
    """
    channels, *positions = entry["tensor_shape"]
    (codes,) = unpack_vectors("\n".join(lines), [channels], [QType.parse(entry["type"])])
    if len(codes) != n_samples * int(np.prod(positions)):
        raise ToolError(f"the simulated circuit put out {len(codes)} positions of {entry['tensor']!r}, too few.")
    return np.ascontiguousarray(np.moveaxis(codes.reshape(n_samples, *positions, channels), -1, 1))


def _head(interface: Mapping[str, Any]) -> str:
    (port,) = (entry for entry in interface["inputs"] if "input" in entry)
    return (
        f"Made by Dyadiq. One position of {port['tensor']} {port['tensor_shape']} per clock with in_valid high,\n"
        f"{interface['initiation_interval']} per frame, frames back to back, rst before the first. README.md says more."
    )


_MAKEFILE = f"""# make: simulate the bench with Icarus Verilog; it says PASS or FAIL.
test: bench.vvp
\tvvp bench.vvp
\tvvp bench.vvp +gaps=1

bench.vvp: {TOP}.v testbench.v
\tiverilog -g2005 -Wall -o $@ {TOP}.v testbench.v

clean:
\trm -f bench.vvp

.PHONY: test clean
"""
