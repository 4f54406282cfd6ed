"""``dyadiq synth``: how large a program is as logic, and how fast on a part with open timing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dyadiq.cli.guard import command
from dyadiq.cli.output import print_json, print_table, print_text, stderr_console

__all__ = ["synth"]


@command("synth", "Count LUTs and flip-flops of a program as logic; place it.")
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--family", "families", multiple=True, help="Yosys family: xcup, xc7, ecp5, ice40, asic; repeatable.")
@click.option("--device", "devices", multiple=True, help="Place and route on hx8k or ecp5-85; repeatable.")
@click.option("--depth", type=click.IntRange(min=1), default=4, show_default=True, help="Adders between registers.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the placer.")
@click.option("--timeout", "timeout_s", type=click.IntRange(min=1), default=3600, show_default=True, help="Seconds.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: verilog in the run folder.")
def synth(
    program: Path,
    families: tuple[str, ...],
    devices: tuple[str, ...],
    depth: int,
    seed: int,
    timeout_s: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write PROGRAM (a run folder, .safetensors or .dyq) as Verilog and synthesise it.

    Results stay in the folder and are used again while the circuit is the same. Without --family and --device: xcup.
    """
    from dyadiq.cli.commands.programs import load_any_program
    from dyadiq.fpga.interface import read_interface
    from dyadiq.fpga.place import place
    from dyadiq.fpga.synth import synthesize
    from dyadiq.targets.verilog import VerilogConfig, VerilogTarget

    _check(program, families, devices, out)
    folder = out if out is not None else program / "verilog"
    VerilogTarget(VerilogConfig(depth=depth)).write(load_any_program(program), folder)
    interface = read_interface(folder)
    console = stderr_console()
    results: list[dict[str, Any]] = []
    for name in families or (() if devices else ("xcup",)):
        console.print(f"  yosys {name} ...")
        results.append(synthesize(folder, name, timeout_s=timeout_s).to_json())
    for name in devices:
        console.print(f"  place and route {name} ...")
        results.append(place(folder, name, seed=seed, timeout_s=timeout_s).to_json())
    if as_json:
        facts = {key: interface[key] for key in ("latency_cycles", "initiation_interval", "stages", "adders_per_stage")}
        print_json({"schema": "dyadiq.synth/1", "folder": str(folder), **facts, "hardware": results})
        return
    print_text(f"{folder}: latency {interface['latency_cycles']} cycles, one sample per cycle")
    columns = {
        "lut": "LUT",
        "ff": "FF",
        "carry": "carry",
        "gate_equivalents": "gates",
        "fmax_mhz": "MHz",
        "latency_ns": "ns",
    }
    rows = [
        (
            r.get("family") or r["device"],
            r["kind"],
            *(r.get(column) for column in columns),
            f"{r['tool']} {r['version']}",
        )
        for r in results
    ]
    print_table(("", "kind", *columns.values(), "tool"), rows)
    for r in results:
        if r.get("used"):
            print_text(f"{r['device']}: " + ", ".join(f"{n} {cell}" for cell, n in r["used"].items()))


def _check(program: Path, families: tuple[str, ...], devices: tuple[str, ...], out: Path | None) -> None:
    """Refuse what is wrong before any work.

    Raises:
        UnknownNameError: No such family or device.
        ConfigError: There is no folder for the results.
    """
    from dyadiq.core.errors import ConfigError, UnknownNameError
    from dyadiq.fpga.place import DEVICES
    from dyadiq.fpga.synth import FAMILIES

    for name in families:
        if name not in FAMILIES:
            raise UnknownNameError("family", name, FAMILIES)
    for name in devices:
        if name not in DEVICES:
            raise UnknownNameError("device", name, DEVICES)
    if out is None and not program.is_dir():
        raise ConfigError(f"synth {program}: a program file has no folder of its own. Give --out FOLDER.")
