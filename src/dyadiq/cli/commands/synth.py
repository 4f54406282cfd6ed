"""``dyadiq synth``: how large a program is as logic, and how fast on a part with open timing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dyadiq.cli.guard import EXIT_NO, command
from dyadiq.cli.output import RichProgress, print_json, print_table, print_text, stderr_console

__all__ = ["synth"]


@command("synth", "Count LUTs and flip-flops of a program as logic; place it.")
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--family", "families", multiple=True, help="Yosys family: xcup, xc7, ecp5, ice40, asic; repeatable.")
@click.option("--device", "devices", multiple=True, help="A part of `dyadiq list devices`; repeatable.")
@click.option("--place/--count-only", "placing", default=True, show_default=True, help="Place parts with open timing.")
@click.option("--target", type=click.Choice(["verilog", "verilog_stream"]), default="verilog", help="What is written.")
@click.option("--depth", type=click.IntRange(min=1), help="Adders between registers; default: what suits the part.")
@click.option(
    "--seed", "seeds", type=click.IntRange(min=0), multiple=True, default=(1,), help="Of the placer; repeatable."
)
@click.option("--target-mhz", type=click.FloatRange(min=1), default=150.0, show_default=True, help="The placer's aim.")
@click.option("--timeout", "timeout_s", type=click.IntRange(min=1), default=3600, show_default=True, help="Seconds.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder; default: one of the target's name in the run folder."
)
def synth(
    program: Path,
    families: tuple[str, ...],
    devices: tuple[str, ...],
    placing: bool,
    target: str,
    depth: int | None,
    seeds: tuple[int, ...],
    target_mhz: float,
    timeout_s: int,
    out: Path | None,
    as_json: bool,
) -> int:
    """Write PROGRAM (a run folder, .safetensors or .dyq) as Verilog, synthesise it, and place it.

    Results stay in the folder and are used again while the circuit is the same. Without --family and --device: xcup.
    Nanoseconds of parts without open timing are modelled with the clock that `dyadiq list devices` assumes.
    """
    from dyadiq.cli.commands.programs import load_any_program
    from dyadiq.fpga.devices import find_device
    from dyadiq.fpga.hardware import measure
    from dyadiq.fpga.interface import read_interface
    from dyadiq.fpga.synth import default_depth, synthesize
    from dyadiq.targets import get_target

    devices = tuple(name.lower() for name in devices)
    _check(program, families, devices, out)
    names = families or (() if devices else ("xcup",))
    if depth is None:
        depth = default_depth(find_device(devices[0]).family if devices else names[0])
    folder = out if out is not None else program / target
    get_target(target).configured(depth=depth).write(load_any_program(program), folder)
    interface = read_interface(folder)
    console = stderr_console()
    results: list[dict[str, Any]] = []
    for name in names:
        console.print(f"  yosys {name} ...")
        results.append(synthesize(folder, name, timeout_s=timeout_s).to_json())
    progress = RichProgress(console)
    try:
        for name in devices:
            row = measure(
                folder,
                name,
                placing=placing,
                seeds=seeds,
                target_mhz=target_mhz,
                timeout_s=timeout_s,
                progress=progress,
            )
            results.append(row.to_json())
    finally:
        progress.close()
    refused = [r["refusal"] for r in results if r.get("refusal")]
    if as_json:
        facts = {key: interface[key] for key in ("latency_cycles", "initiation_interval", "stages", "adders_per_stage")}
        print_json({"schema": "dyadiq.synth/1", "folder": str(folder), **facts, "hardware": results})
    else:
        print_text(
            f"{folder}: latency {interface['latency_cycles']} cycles, one sample per {_cycles(interface)}, "
            f"at most {interface['adders_per_stage']} adders between registers"
        )
        _print(results)
    return EXIT_NO if refused else 0


def _print(results: list[dict[str, Any]]) -> None:
    columns = {"lut": "LUT", "ff": "FF", "carry": "carry", "gate_equivalents": "gates", "fmax_mhz": "MHz"}
    rows = []
    for r in results:
        kinds = [r["kind"]] if isinstance(r["kind"], str) else list(dict.fromkeys((r["kind"]["lut"], _timing(r))))
        tools = r.get("tools") or {r["tool"]: r["version"]}
        found = ", ".join(f"{tool} {version}" for tool, version in tools.items())
        rows.append((r.get("device") or r["family"], ", ".join(kinds), *(r.get(c) for c in columns), found))
    print_table(("", "kind", *columns.values(), "tool"), rows)
    for r in results:
        if not r.get("device"):
            continue
        use = r["utilisation"]
        parts = [
            f"{100 * use[name]['frac']:.1f} % of {use[name]['available']:,} {name.upper()}" for name in ("lut", "ff")
        ]
        print_text(f"{r['device']} ({r['part']}): {', '.join(parts)}")
        if r["latency_ns"] is not None:
            print_text(
                f"{r['device']}: latency {r['latency_cycles']} cycles / {r['fmax_mhz']:g} MHz = {r['latency_ns']:g} ns"
                f", {_timing(r)}"
            )
        if r["cells"]:
            cells = ", ".join(f"{n:,} of {r['cells_available'][cell]:,} {cell}" for cell, n in r["cells"].items())
            spread = f" ± {r['fmax_mhz_stdev']:g}" if r["fmax_mhz_stdev"] is not None else ""
            wrapped = "; pins replaced by shift registers" if r["wrapped"] else ""
            print_text(f"{r['device']}: {cells}{wrapped}")
            print_text(
                f"{r['device']}: {r['fmax_mhz_mean']:g}{spread} MHz over seeds "
                + ", ".join(f"{seed}: {mhz:g}" for seed, mhz in r["seeds"].items())
            )
        if r["refusal"]:
            print_text(f"Does not fit: {r['refusal']}")


def _cycles(interface: dict[str, Any]) -> str:
    interval = interface["initiation_interval"]
    return "cycle" if interval == 1 else f"{interval} cycles"


def _timing(row: dict[str, Any]) -> str:
    return str(row["kind"].get("fmax_mhz", "not timed"))


def _check(program: Path, families: tuple[str, ...], devices: tuple[str, ...], out: Path | None) -> None:
    """Refuse what is wrong before any work.

    Raises:
        UnknownNameError: No such family or device.
        ConfigError: There is no folder for the results.
    """
    from dyadiq.core.errors import ConfigError, UnknownNameError
    from dyadiq.fpga.devices import find_device
    from dyadiq.fpga.synth import FAMILIES

    for name in families:
        if name not in FAMILIES:
            raise UnknownNameError("family", name, FAMILIES)
    for name in devices:
        find_device(name)
    if out is None and not program.is_dir():
        raise ConfigError(f"synth {program}: a program file has no folder of its own. Give --out FOLDER.")
