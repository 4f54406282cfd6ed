"""What ``dyadiq show`` prints of a compiled program: its steps, and which algorithm runs each layer, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyadiq.cli.output import print_json, print_table, print_text

__all__ = ["show_engine_file"]


def show_engine_file(path: Path, *, as_json: bool) -> None:
    """Print a compiled program.

    Raises:
        ArtifactError: Missing, damaged, or no compiled program.
    """
    from dyadiq.engine.file import read_structure

    structure = read_structure(path)
    if as_json:
        steps = [_named(step) for step in structure["steps"]]
        size = path.stat().st_size
        measured = structure.get("measured")
        print_json({"schema": "dyadiq.dyqe/1", "size_bytes": size, "steps": steps, "measured": measured})
        return
    measured = structure.get("measured")
    layers = {} if measured is None else measured["layers"]
    rows = []
    for step in map(_named, structure["steps"]):
        times = layers.get(step.get("layer"), {})
        cells = ", ".join(f"{name} {first:.1f} ({again:.1f})" for name, (first, again) in times.items())
        rows.append((step["op"], step["name"], step.get("layer"), step.get("algorithm"), cells or None))
    print_text(f"compiled program, {path.stat().st_size:,} bytes")
    print_table(("step", "node", "layer", "algorithm", "measured, us in place (again at once)"), rows)
    if measured is None:
        print_text("algorithms by the rule of compile_program, or by name: the file depends on no machine")
    else:
        print_text(f"algorithms by measurement: kernels {measured['isa']}, threads {measured['threads']}")


def _named(step: list[Any]) -> dict[str, Any]:
    return dict(zip(("op", "name", "layer", "algorithm"), step, strict=False))
