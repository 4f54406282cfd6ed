"""Target `c`: the program as a C99 project of its own, for machines where nothing else runs.

Used through `TARGETS`. A header and one source file: weights as constant arrays, one call a step, the kernels it
needs, one arena with the offsets in it; no library beyond memcpy, no allocation. A third file reads samples and writes
codes, for tests on a host. `c_program` writes the text; this file has it compiled by the system, and runs it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, ConfigError, DataError, MissingToolError, ToolError
from dyadiq.ir.check import check_graph
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import prove
from dyadiq.targets.base import Codes, Problems, Target, checked_feeds, save_bytes
from dyadiq.targets.c_files import MAIN
from dyadiq.targets.c_program import generate

__all__ = ["CConfig", "CTarget"]

_INT32 = 2**31 - 1
_NOT_FINITE = 3  # exit status of main.c
_SHAPES = " * shapes: "


@dataclass(frozen=True, slots=True)
class CConfig:
    """Options of target `c`.

    Attributes:
        prefix: Of the public names, upper case in macros; lets several programs live in one firmware.
        compiler: What `verify` compiles with, flags included.
        runner: What runs the result, such as ``qemu-aarch64``; nothing on the machine itself.

    Raises:
        ConfigError: The prefix is no name of C.
    """

    prefix: str = "program"
    compiler: str = "cc -O2"
    runner: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no name.

        Raises:
            ConfigError: The prefix is no name of C.
        """
        if not (self.prefix.isidentifier() and self.prefix.isascii()):
            raise ConfigError(f"option prefix of target 'c' must be a name of C, got {self.prefix!r}.")


class CTarget(Target):
    """A C99 project; emulated by compiling and running it."""

    name: ClassVar[str] = "c"
    filename: ClassVar[str] = "program.c"
    options: ClassVar[type] = CConfig

    def __init__(self, config: CConfig = CConfig()) -> None:  # frozen
        """Take options; all default."""
        self.config = config

    def check(self, program: IntegerProgram) -> list[str]:
        """Say where no compiler is here; the project can be written all the same.

        Raises:
            ExportError: Names every node with an output or multiplier that C code of this target does not hold.
            GraphError: It is not a legal graph.
            ProofError: A tensor may leave its declared type.
        """
        check_graph(program.graph)
        problems, graph = Problems(self.name), program.graph
        bounds = prove(program)
        for node in graph.nodes:
            bound = bounds[node.output]
            if node.output in graph.outputs and max(abs(int(bound.low.min())), abs(int(bound.high.max()))) > _INT32:
                problems.add(node, "its codes leave 32 bits. Use fewer output bits")
            if node.op == "requantize" and int(np.max(graph.params[node.inputs[1]])) > _INT32:
                problems.add(node, "its multiplier leaves 32 bits. Use fewer multiplier bits")
        problems.raise_if_any()
        command = self._command()
        return [] if shutil.which(command) else [f"it cannot be compiled here: there is no {command}"]

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write the project and return its files: source, header, and a main program for hosts.

        Raises:
            ExportError: As `check`.
            GraphError: As `check`.
            ProofError: As `check`.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        prefix, graph = self.config.prefix, program.graph
        folder, made = self.file(path).parent, generate(program, prefix)
        shapes = ";".join(
            ",".join(f"{name}:{'x'.join(map(str, graph.tensors[name].shape))}" for name in names)
            for names in (graph.inputs, graph.outputs)
        )
        texts = {f"{prefix}.c": made.source, f"{prefix}.h": made.header, "main.c": self._main(graph, shapes)}
        return [save_bytes(folder / name, text.encode()) for name, text in texts.items()]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Compile the project, for inputs of double, and run it.

        Raises:
            ArtifactError: No such file, or a project that this version did not write.
            DataError: Inputs missing, of the wrong shape, or not finite.
            MissingToolError: No such compiler or runner.
            ToolError: The compiler refused it, or the program failed.
        """
        folder, prefix = self.file(path).parent, self.config.prefix
        source, main = folder / f"{prefix}.c", folder / "main.c"
        for file in (source, main):
            if not file.is_file():
                raise ArtifactError(f"target 'c': there is no file {file}. Write the program first.")
        ins, outs = _shapes(main)
        feeds, n_samples = checked_feeds(ins, inputs)
        raw = np.concatenate([feed.reshape(n_samples, -1) for feed in feeds.values()], axis=1)
        with tempfile.TemporaryDirectory() as temporary:
            binary = Path(temporary) / "program"
            self._run([*self._words(self.config.compiler), "-std=c99", f"-D{prefix.upper()}_REAL=double",
                       str(source), str(main), "-o", str(binary)], b"")  # fmt: skip
            told = self._run([*self._words(self.config.runner), str(binary)], raw.astype("<f8").tobytes())
        sizes = [int(np.prod(shape)) for shape in outs.values()]
        codes = np.frombuffer(told, dtype="<i4").astype(np.int64)
        if len(codes) != n_samples * sum(sizes):
            raise ToolError(f"target 'c': the program gave {len(codes)} codes, expected {n_samples * sum(sizes)}.")
        parts = np.split(codes.reshape(n_samples, -1), np.cumsum(sizes)[:-1], axis=1)
        return {name: part.reshape(n_samples, *shape) for (name, shape), part in zip(outs.items(), parts, strict=True)}

    def _command(self) -> str:
        return (shlex.split(self.config.compiler) or ["cc"])[0]

    def _words(self, command: str) -> list[str]:
        """Return a command's words.

        Raises:
            MissingToolError: It is not installed.
        """
        words = shlex.split(command)
        if words and shutil.which(words[0]) is None:
            raise MissingToolError(words[0], f"apt-get install {_PACKAGES.get(words[0], words[0])}")
        return words

    def _run(self, words: list[str], data: bytes) -> bytes:
        """Return what a command wrote.

        Raises:
            DataError: An input is not finite.
            ToolError: It failed.
        """
        done = subprocess.run(words, input=data, capture_output=True, check=False)
        if done.returncode == _NOT_FINITE:
            raise DataError("target 'c': an input is NaN or infinite. Clean the data first.")
        if done.returncode:
            raise ToolError(
                f"target 'c': {shlex.join(words[:3])} ... failed: {done.stderr.decode(errors='replace')[-500:]}"
            )
        return done.stdout

    def _main(self, graph: Any, shapes: str) -> str:
        prefix, upper = self.config.prefix, self.config.prefix.upper()
        ends = [("x", "INPUT", f"{prefix}_real", graph.inputs), ("codes", "OUTPUT", "int32_t", graph.outputs)]
        arrays = [
            (f"{short}{i}", f"{upper}_{kind}{i}_SIZE", ctype)
            for short, kind, ctype, names in ends
            for i in range(len(names))
        ]
        reads = "".join(
            f"        if (fread({name}, sizeof *{name}, {size}, stdin) != {size}) return 0;\n"
            for name, size, _ in arrays[: len(graph.inputs)]
        )
        writes = "".join(
            f"        fwrite({name}, sizeof *{name}, {size}, stdout);\n"
            for name, size, _ in arrays[len(graph.inputs) :]
        )
        declared = "".join(f"static {ctype} {name}[{size}];\n" for name, size, ctype in arrays)
        call = ", ".join([*(name for name, _, _ in arrays), "arena"])
        return MAIN.format(
            prefix=prefix, upper=upper, shapes=_SHAPES + shapes, reads=reads, writes=writes, declared=declared,
            call=call, status=_NOT_FINITE,
        )  # fmt: skip


def _shapes(main: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the shapes of inputs and outputs, which main.c notes.

    Raises:
        ArtifactError: It has no such line.
    """
    (line,) = [row for row in main.read_text().splitlines() if row.startswith(_SHAPES)] or [""]
    halves = line.removeprefix(_SHAPES).split(";")
    if len(halves) != 2:
        raise ArtifactError(f"{main}: was not written by this version. Export the program again.")
    ins, outs = (
        {
            name: tuple(int(d) for d in shape.split("x"))
            for name, _, shape in (e.rpartition(":") for e in half.split(","))
        }
        for half in halves
    )
    return ins, outs


_PACKAGES = {
    "cc": "gcc",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-aarch64": "qemu-user",
    "qemu-arm": "qemu-user",
}
