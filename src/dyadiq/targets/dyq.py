"""Target `dyq`: our own packed file, memory-mappable, its size known before it is written.

Used through `TARGETS`; `read_dyq` and `dyq_size_bytes` also stand alone. `ir.packed` makes the parts of a program, the
byte layout in `core.container`; this file joins them and turns their errors into those of a target.
Normative text: docs/spec/dyq.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dyadiq.core.container import read_container, write_container
from dyadiq.core.errors import ArtifactError, ConfigError, GraphError
from dyadiq.core.storage import make_folder
from dyadiq.ir.check import check_graph
from dyadiq.ir.integer import SPEC_VERSION, IntegerProgram
from dyadiq.ir.packed import find_unpackable, pack_program, packed_size_parts
from dyadiq.ir.reference import run_reference
from dyadiq.ir.unpacked import unpack_program
from dyadiq.targets.base import Codes, Problems, Target

__all__ = ["DyqTarget", "dyq_size_bytes", "dyq_size_parts", "read_dyq", "write_dyq"]


def _check(program: IntegerProgram) -> None:
    """Check that a program can be packed.

    Raises:
        ExportError: It cannot; lists every reason.
        GraphError: It is not a legal graph.
    """
    check_graph(program.graph)
    problems = Problems("dyq")
    for node, reason in find_unpackable(program):
        problems.add(node, reason)
    problems.raise_if_any()


def write_dyq(program: IntegerProgram, path: Path) -> int:
    """Write a program to one `.dyq` file, whole or not at all, and return its bytes.

    Raises:
        ExportError: The file format cannot hold it; lists every reason.
        GraphError: It is not a legal graph.
        StorageError: The disk is full or not writable.
    """
    _check(program)
    structure, tensors = pack_program(program)
    return write_container(path, structure, tensors)


def read_dyq(path: Path) -> IntegerProgram:
    """Read a program back: it computes the same integers, and its outputs have their scales.

    It lacks scales per channel of tensors that are no output, the order in which tensors and parameters are listed,
    node sources, ``meta`` and ``provenance``; all else is equal to the program written.

    Raises:
        ArtifactError: Missing, damaged or newer file, or one that holds no legal program.
    """
    container = read_container(path)
    try:
        program = unpack_program(container.structure, container.specs, container.array)
        check_graph(program.graph)
    except (
        ConfigError, GraphError, ValueError, KeyError, TypeError, IndexError, ArithmeticError, RecursionError
    ) as err:  # fmt: skip
        reason = str(err).rstrip(".")
        raise ArtifactError(f"{path}: holds no legal integer program: {reason}. Export the program again.") from err
    if not 1 <= program.spec_version <= SPEC_VERSION:
        raise ArtifactError(
            f"{path}: the program follows version {program.spec_version} of the integer specification, this Dyadiq "
            f"implements versions up to {SPEC_VERSION}. Upgrade Dyadiq, or export the program again."
        )
    return program


def dyq_size_bytes(program: IntegerProgram) -> int:
    """Return the size of the file that `write_dyq` makes, without writing it.

    Raises:
        ExportError: The file format cannot hold it.
        GraphError: It is not a legal graph.
    """
    fixed, parts = dyq_size_parts(program)
    return fixed + sum(parts.values())


def dyq_size_parts(program: IntegerProgram) -> tuple[int, dict[str, int]]:
    """Return the bytes of the file that no weight width changes, and the bytes of every weight by name.

    Raises:
        ExportError: The file format cannot hold it.
        GraphError: It is not a legal graph.
    """
    _check(program)
    return packed_size_parts(program)


class DyqTarget(Target):
    """Our packed file; emulated by reading it back and running the reference."""

    name = "dyq"
    filename = "program.dyq"

    def check(self, program: IntegerProgram) -> list[str]:
        """Return no notes: whatever can be packed is expressed as it is.

        Raises:
            ExportError: The file format cannot hold the program; lists every reason.
            GraphError: It is not a legal graph.
        """
        _check(program)
        return []

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write the program and return the one file made.

        Raises:
            ExportError: As `check`.
            GraphError: As `check`.
            StorageError: The disk is full or not writable.
        """
        file = self.file(path)
        make_folder(file.parent)
        write_dyq(program, file)
        return [file]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Read the file back and run the reference on real inputs ``[N, ...]`` by name.

        Raises:
            ArtifactError: No such file, or one that does not load.
            DataError: Inputs missing, or of the wrong shape.
        """
        return run_reference(read_dyq(self.existing_file(path)), inputs)
