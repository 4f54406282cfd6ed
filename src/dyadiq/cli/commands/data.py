"""``dyadiq data jets``: make the data set of the jets recipes, by simulation or from published files.

A new data set is one command in the group below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dyadiq.cli.guard import command
from dyadiq.cli.output import RichProgress, print_json, print_table, print_text, stderr_console

__all__ = ["data", "jets"]

_COUNT = click.IntRange(min=1)


@command("jets", "Simulate the jets, or convert published ones.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for jets.npz and jets.json.")
@click.option("--n-train", type=_COUNT, help="Jets of the training split.  [default: 100000]")
@click.option("--n-test", type=_COUNT, help="Jets of the test split.  [default: 20000]")
@click.option("--seed", type=click.IntRange(min=0), help="Decides every jet.  [default: 0]")
@click.option("--workers", type=_COUNT, help="Processes; the jets do not depend on it.  [default: 2]")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Convert these published jets instead.")
def jets(
    out: Path,
    n_train: int | None,
    n_test: int | None,
    seed: int | None,
    workers: int | None,
    source: Path | None,
    as_json: bool,
) -> None:
    """Make jets.npz: sixteen features of five classes of jets, split into training and test.

    Simulates with Pythia and FastJet (pip install 'dyadiq[jets]'); interrupted, the same command goes on. With --from,
    reads a table of OpenML 42468 (ARFF, CSV, parquet) or the folder of .npy files of the hls4ml tutorial.
    Use it with: dyadiq run recipes/jets.toml --set data.options.path=FOLDER
    """
    numbers = {"n_train": n_train, "n_test": n_test, "seed": seed}
    given = {name: value for name, value in numbers.items() if value is not None}
    if source is not None:
        document = _convert(source, out, [*given, *(["workers"] if workers is not None else [])])
    else:
        document = _simulate(out, given, workers or 2)
    if as_json:
        print_json(document)
    else:
        _print(document)


def _convert(source: Path, out: Path, given: list[str]) -> dict[str, Any]:
    from dyadiq.core.errors import ConfigError
    from dyadiq.zoo.jets_published import convert_jets

    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--from takes all published jets as they are; got {flags} as well. Leave out one of both.")
    return convert_jets(source, out)


def _simulate(out: Path, given: dict[str, int], workers: int) -> dict[str, Any]:
    from dyadiq.core.errors import RunInterruptedError

    console = stderr_console()
    progress = RichProgress(console)
    try:
        from dyadiq.zoo.jets_job import JetsConfig, simulate_jets

        config = JetsConfig(**given)
        console.print(
            f"jets: {config.n_train:,} for training, {config.n_test:,} for test, seed {config.seed}, {workers} workers",
            soft_wrap=True,
        )
        return simulate_jets(out, config, n_workers=workers, progress=progress)
    except KeyboardInterrupt as err:
        raise RunInterruptedError(f"interrupted; finished jets are kept in {out}: the same command continues.") from err
    finally:
        progress.close()


def _print(document: dict[str, Any]) -> None:
    print_table(
        ("split", *document["n_per_class"]["train"], "jets"),
        [(split, *counts.values(), document["n"][split]) for split, counts in document["n_per_class"].items()],
    )
    if document["source"] == "simulated":
        chunks, rate = document["chunks"], document["jets_per_cpu_second"]
        speed = f", {rate:.0f} jets a second and core" if rate else ""
        print_text(
            f"{document['seconds']:.0f} s{speed}; chunks: {chunks['new']} new, {chunks['kept']} kept in "
            f"{chunks['folder']} (may be deleted)"
        )
    for note in document["notes"]:
        print_text(f"note: {note}")
    print_text(f"written: {document['file']}")


data = click.Group("data", commands={"jets": jets}, help="Make data sets of recipes.", short_help="Make data sets.")
