"""Target `engine`: the program compiled for our own CPU engine, one file that is mapped and run where it lies.

Used through `TARGETS`. `dyadiq.engine` compiles and runs; this file joins the two with what a target must do.
Normative text of the file: docs/spec/engine.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from dyadiq.core.errors import UnknownNameError
from dyadiq.core.native import native_state
from dyadiq.core.storage import make_folder
from dyadiq.engine import EngineProgram, compile_measured, compile_program, find_uncompilable, write_engine_file
from dyadiq.ir.check import check_graph
from dyadiq.ir.integer import IntegerProgram
from dyadiq.targets.base import Codes, Problems, Target

__all__ = ["EngineConfig", "EngineTarget"]

_CHOICES = ("measured", "rule")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the program is compiled and run.

    Attributes:
        threads: That share the work of a sample.
        algorithms: ``rule``, so that the file is the same on every machine, or ``measured``: the fastest of this one
            with that many threads, as the file then says.
    """

    threads: int = 1
    algorithms: str = "rule"


class EngineTarget(Target):
    """The CPU engine; emulated by running it."""

    name: ClassVar[str] = "engine"
    filename: ClassVar[str] = "program.dyqe"
    options: ClassVar[type | None] = EngineConfig

    def __init__(self, config: EngineConfig = EngineConfig()) -> None:  # frozen
        """Take options; all default.

        Raises:
            UnknownNameError: There is no such way to choose algorithms.
        """
        if config.algorithms not in _CHOICES:
            raise UnknownNameError("choice of algorithms", config.algorithms, _CHOICES)
        self.config = config

    def check(self, program: IntegerProgram) -> list[str]:
        """Say where the engine is not built; it can be written all the same.

        Raises:
            ExportError: Names every node whose values may leave 32 bits.
            GraphError: It is not a legal graph.
            ProofError: A tensor may leave its declared type.
        """
        check_graph(program.graph)
        problems = Problems(self.name)
        for node, reason in find_uncompilable(program):
            problems.add(node, reason)
        problems.raise_if_any()
        state = native_state()
        return [] if state.module is not None else [f"the engine cannot run here: the native module is {state.found}"]

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Compile the program and return the one file made.

        Raises:
            ConfigError: Algorithms cannot be measured with that many threads, or with the kernels of ``DYADIQ_ISA``.
            ExportError: As `check`.
            GraphError: As `check`.
            MissingToolError: Algorithms are to be measured, and the native module was not built.
            ProofError: As `check`.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        file = self.file(path)
        make_folder(file.parent)
        measures = self.config.algorithms == "measured"
        plan = compile_measured(program, threads=self.config.threads) if measures else compile_program(program)
        write_engine_file(plan, file)
        return [file]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Map the file and run it.

        Raises:
            ArtifactError: No such file, or one that does not load.
            ConfigError: A number of threads that means nothing.
            DataError: Inputs missing, of the wrong shape, or not finite.
            MissingToolError: The native module was not built.
            UnknownNameError: ``DYADIQ_ISA`` names kernels that this machine does not have.
        """
        return EngineProgram(self.existing_file(path), threads=self.config.threads).run(inputs)
