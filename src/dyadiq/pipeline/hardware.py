"""Stage ``hardware``: the program as Verilog, synthesised for every device of the recipe, placed where a tool can.

Nothing is done without a section ``[hardware]``. Tools work in the scratch folder, which survives a crash, a timeout
and Ctrl-C: logs stay there, and the same command continues after the last finished tool. Only circuits and numbers
become files of the stage; how long a tool took does not, so that the same run gives the same bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dyadiq.pipeline.stage import Stage, StageContext, write_json
from dyadiq.pipeline.targets import CIRCUIT, circuit_target

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.fpga.hardware import measure
    from dyadiq.fpga.tools import tool_version
    from dyadiq.ir.serialize import load_program

    section = context.recipe.hardware
    if section is None:
        write_json(context.folder / "hardware.json", None)
        return
    program = load_program(context.path("lower", "program.safetensors"))
    tool_version("yosys")  # missing tools are told of before anything is traced
    rows: list[dict[str, Any]] = []
    for device in dict.fromkeys(name.lower() for name in section.devices):
        circuit = context.scratch / device
        made = circuit_target(context.recipe, device).write(program, circuit)
        row = measure(
            circuit,
            device,
            placing=section.place,
            seeds=section.seeds,
            target_mhz=section.target_mhz,
            timeout_s=section.timeout_s,
            progress=context.progress,
        )
        rows.append({**row.to_json(), "circuit": _keep(made, context.folder / device)})
    write_json(context.folder / "hardware.json", rows)


def _keep(files: list[Path], folder: Path) -> str:
    """Copy a circuit and return the place of its module, inside the stage's folder."""
    folder.mkdir()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return f"{folder.name}/{files[0].name}"


# Not the time limit: a tool that ran out of it continues under a longer one.
_SECTIONS = (*CIRCUIT, "hardware.place", "hardware.seeds", "hardware.target_mhz", "export.options")

STAGE = Stage("hardware", "synthesise and place", ("lower",), _SECTIONS, _run)
