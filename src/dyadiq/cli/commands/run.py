"""``dyadiq run``: the whole pipeline, and the short table of what happened."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyadiq.cli.guard import EXIT_NO, command
from dyadiq.cli.output import (
    RichProgress,
    StageLines,
    bits_strip,
    print_json,
    print_table,
    print_text,
    stderr_console,
)

if TYPE_CHECKING:
    from dyadiq.pipeline.run import RunResult
    from dyadiq.recipe import Recipe

__all__ = ["execute", "print_summary", "resolve_recipe", "run", "with_budget"]

_PATIENCE = timedelta(days=30)  # the others wait while the first one trains


@command("run", "Run a recipe from training to report.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe value; repeatable.")
@click.option("--data", metavar="NAME|FILE.npz", help="Of an ONNX file: a data set (dyadiq list datasets), or arrays.")
@click.option(
    "--budget", "budgets", multiple=True, metavar="METRIC=AMOUNT", help="Instead of the recipe's; repeatable."
)
@click.option("--resume", is_flag=True, help="Continue an unfinished run: always done, stated for readability.")
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    data: str | None,
    budgets: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> int:
    """Run RECIPE (a .toml file, a run folder, or a float network in ONNX with --data) from training to report.

    An ONNX file is not trained: its bits are chosen under --budget (25 % of its size if not given), its ranges
    calibrated, and the result compared and exported; one that is quantized already is only compared, measured and
    exported. Stages whose inputs did not change are kept, so the same command continues a run that was stopped.
    """
    del resume
    resolved = resolve_recipe(recipe, overrides, data)
    if recipe.suffix == ".onnx" and _is_quantized(recipe, budgets):
        return _run_imported(resolved, as_json)
    result = execute(with_budget(resolved, budgets) if budgets else resolved, until=None)
    assert result.summary is not None
    if as_json:
        print_json(result.summary)
    else:
        print_summary(result.summary)
    return 0 if result.summary["accepted"] else EXIT_NO


def _is_quantized(model: Path, budgets: tuple[str, ...]) -> bool:
    """Return whether an ONNX file is quantized already.

    Raises:
        ConfigError: It is, and there is a budget.
    """
    from dyadiq.core.errors import ConfigError
    from dyadiq.ir.onnx_import import is_quantized_onnx

    quantized = is_quantized_onnx(model)
    if quantized and budgets:
        raise ConfigError(f"--budget {budgets[0]}: {model} is quantized already, so that no bits are left to choose.")
    return quantized


def _run_imported(recipe: Recipe, as_json: bool) -> int:
    from dyadiq.pipeline.imported import run_imported

    console = stderr_console()
    progress = RichProgress(console)
    try:
        document = run_imported(recipe, progress=progress)
    finally:
        progress.close()
    for note in document["notes"]:
        console.print(f"  {note}", soft_wrap=True)
    if as_json:
        print_json(document)
    else:
        accuracy = f"{100 * document['accuracy']['integer']:.2f} %"
        rows = [
            ("accuracy, integer", accuracy, f"{document['n_eval']:,} test samples"),
            ("size", f"{document['size_bytes']:,} bytes", "as packed"),
            ("bit operations", f"{document['bops']:,}", "per sample"),
        ]
        print_table((document["name"], "", ""), rows)
        _print_verification(document["verify"])
        print_table(("written", ""), document["artifacts"].items())
        for reason in document["refusals"]:
            print_text(f"Not accepted: {reason}")
    return 0 if document["accepted"] else EXIT_NO


def _print_verification(verify: dict[str, Any]) -> None:
    print_table(
        ("compared with the reference", "integers", "different", ""),
        [(name, v["compared"], v["mismatches"], v.get("kind")) for name, v in verify.items()],
    )


def resolve_recipe(path: Path, overrides: tuple[str, ...] = (), data: str | None = None) -> Recipe:
    """Return the recipe of a file, that of a run folder, or one for an ONNX file.

    Raises:
        ConfigError: Data are given for what is no ONNX file.
    """
    from dyadiq.core.errors import ConfigError
    from dyadiq.pipeline.run import open_run
    from dyadiq.recipe import load_recipe, onnx_recipe, parse_recipe

    if path.suffix == ".onnx":
        return onnx_recipe(path, data, overrides)
    if data is not None:
        raise ConfigError(f"--data {data}: {path} names its data itself. Use --set data.name=... to change them.")
    if not path.is_dir():
        return load_recipe(path, overrides)
    _, recipe = open_run(path)
    return parse_recipe(recipe.model_dump(mode="json"), overrides, where=str(path)) if overrides else recipe


def with_budget(recipe: Recipe, budgets: tuple[str, ...]) -> Recipe:
    """Return the recipe with another budget, in place of its own or of uniform bits.

    Raises:
        ConfigError: A text is no ``METRIC=AMOUNT``.
    """
    from dyadiq.core.errors import ConfigError
    from dyadiq.recipe import parse_recipe

    wanted = {}
    for text in budgets:
        metric, sign, amount = text.partition("=")
        if not (sign and metric.strip() and amount.strip()):
            raise ConfigError(f"--budget {text}: expected METRIC=AMOUNT, for example --budget lut=8000.")
        wanted[metric.strip()] = amount.strip()
    data = recipe.model_dump(mode="json")
    data["allocate"] |= {"budget": wanted, "uniform": None}
    return parse_recipe(data, where="--budget")


def execute(recipe: Recipe, until: str | None) -> RunResult:
    """Run the pipeline with progress on stderr; under torchrun, with the other processes.

    Those that only help end here, without output.
    """
    from dyadiq.core.errors import DyadiqError
    from dyadiq.pipeline.run import run_recipe

    with _process_group() as rank:
        if rank > 0:
            try:
                run_recipe(recipe, until=until)
            except DyadiqError as err:  # the first process meets it too, and tells it
                sys.exit(err.exit_code)
            sys.exit(0)
        console = stderr_console()
        progress = RichProgress(console)
        console.print(
            f"{recipe.name}: seed {recipe.seed}, {recipe.threads} threads, folder {recipe.folder}", soft_wrap=True
        )
        try:
            return run_recipe(recipe, until=until, progress=progress, listener=StageLines(console))
        finally:
            progress.close()


@contextlib.contextmanager
def _process_group() -> Iterator[int]:
    """Join the processes that torchrun started, if it did; yield this one's number."""
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        yield 0
        return
    # Its functions keep the group that exists when they are imported, as a default argument. Imported later, by
    # torch.export, they would keep this one's threads past its destruction, and a process may abort as it exits.
    import torch.distributed.nn.functional

    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def print_summary(summary: dict[str, Any]) -> None:
    """Print the short table of a finished run."""
    accuracy = summary["accuracy"]
    size, size_float = summary["size_bytes"], summary["size_float_bytes"]
    bops, bops_float = summary["bops"], summary["bops_float"]
    rows = [
        ("accuracy, float", f"{100 * accuracy['float']:.2f} %", f"{summary['n_eval']:,} test samples"),
        (
            "accuracy, integer",
            f"{100 * accuracy['integer']:.2f} %",
            f"{100 * (accuracy['integer'] - accuracy['float']):+.2f} points; measured on the integer program",
        ),
        ("size", f"{size:,} bytes", f"{100 * size / size_float:.1f} % of {size_float:,} bytes of float32"),
        ("bit operations", f"{bops:,}", f"{100 * bops / bops_float:.1f} % of float32, per sample"),
        ("weight bits", bits_strip(summary["weight_bits"].values()), "in order of execution (g is 16)"),
        ("activation bits", bits_strip(summary["activation_bits"].values()), "network input to output"),
    ]
    rows += [_hardware_row(row) for row in (summary["hardware"] or {"devices": ()})["devices"]]
    gap = summary["certificate"]["gap"]
    if gap is not None:
        rows.append(("plan", f"gap {gap:.3g}", "proven optimal for its sensitivities" if gap == 0 else "to the bound"))
    print_table((summary["name"], "", ""), rows)
    _print_verification(summary["verify"])
    if summary["uniform"]:
        print_table(
            ("uniform plans beside it", "accuracy", "bytes", "bit operations"),
            [(p["label"], f"{100 * p['accuracy']:.2f} %", p["size_bytes"], p["bops"]) for p in summary["uniform"]],
        )
    files = {**dict(sorted(summary["artifacts"].items())), "summary": summary["summary"], "report": summary["report"]}
    print_table(("written", ""), files.items())
    for reason in summary["refusals"]:
        print_text(f"Not accepted: {reason}")


def _hardware_row(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return the line of one device."""
    timing = "not timed"
    if row["fmax_mhz"] is not None:
        kind = row["kind"]["fmax_mhz"]
        timing = f"{row['latency_cycles']} cycles / {row['fmax_mhz']:g} MHz = {row['latency_ns']:g} ns, {kind}"
    counts = f"{row['lut']:,} LUT, {row['ff']:,} FF"
    return f"logic, {row['device']}", counts, timing if not row["refusal"] else "does not fit"
