"""``dyadiq verify`` and ``dyadiq export``: what can be done with a finished integer program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyadiq.cli.guard import EXIT_NO, command
from dyadiq.cli.output import RichProgress, print_json, print_table, print_text, stderr_console

if TYPE_CHECKING:
    from dyadiq.ir.integer import IntegerProgram
    from dyadiq.targets import Target

__all__ = ["export", "load_any_program", "verify"]

_PROGRAM = click.argument("program", type=click.Path(path_type=Path))


@command("verify", "Compare executors, integer for integer.")
@_PROGRAM
@click.option("--against", multiple=True, default=("exact", "onnx"), show_default=True, help="Executor; repeatable.")
@click.option("--inputs", type=click.Path(path_type=Path), help="Array of samples (.npy); needed without a run folder.")
@click.option("--n-samples", type=click.IntRange(min=1), help="Use only the first samples.")
@click.option("--option", "options", multiple=True, metavar="TARGET.NAME=VALUE", help="Option of a target; repeatable.")
def verify(
    program: Path,
    against: tuple[str, ...],
    inputs: Path | None,
    n_samples: int | None,
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compare executors of PROGRAM (a run folder, .safetensors or .dyq) with the reference, integer for integer.

    A run folder brings its own test split. Exit code 1 if an executor that promises equality differs, or is not
    proven to be equal for this program.
    """
    from dyadiq.targets.verify import verify as compare

    chosen = _configured(against, options)
    loaded = load_any_program(program)
    samples = _samples(program, inputs)
    console = stderr_console()
    progress = RichProgress(console)
    try:
        results = compare(loaded, samples[:n_samples], chosen, raise_on_mismatch=False, progress=progress)
    finally:
        progress.close()
    refusals = [result.refusal for result in results.values() if result.refusal]
    if as_json:
        print_json({"schema": "dyadiq.verify/1", "verify": {n: r.to_json() for n, r in results.items()}})
    else:
        print_table(
            ("executor", "samples", "integers", "different", "first difference", ""),
            [
                (name, r.samples, r.compared, r.mismatches, str(r.first) if r.first else None, r.kind)
                for name, r in results.items()
            ],
        )
        for reason in refusals:
            print_text(f"Not accepted: {reason}")
    return EXIT_NO if refusals else 0


@command("export", "Write a program as files of targets.")
@_PROGRAM
@click.option("--to", "targets", multiple=True, required=True, help="Target (see: dyadiq list targets); repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the target; repeatable.")
def export(program: Path, targets: tuple[str, ...], out: Path, options: tuple[str, ...], as_json: bool) -> None:
    """Write PROGRAM (a run folder, .safetensors or .dyq) as files of one or more targets."""
    from dyadiq.targets import get_target

    loaded = load_any_program(program)
    chosen = [get_target(name).configured(**_options(options)) for name in dict.fromkeys(targets)]
    notes = {target.name: target.check(loaded) for target in chosen}
    files = {target.name: [str(path) for path in target.write(loaded, out)] for target in chosen}
    if as_json:
        print_json({"schema": "dyadiq.export/1", "files": files, "notes": notes})
        return
    rows = [(name, path, Path(path).stat().st_size) for name, paths in files.items() for path in paths]
    print_table(("target", "file", "bytes"), rows)
    for name, lines in notes.items():
        for line in lines:
            stderr_console().print(f"  {name}: {line}")


def _configured(against: tuple[str, ...], pairs: tuple[str, ...]) -> list[Target]:
    """Return the targets that are compared, with ``TARGET.NAME=VALUE`` set.

    Raises:
        ConfigError: A pair has no ``=``, or names a target that is not compared.
        UnknownNameError: No such target or option.
    """
    from dyadiq.core.errors import ConfigError
    from dyadiq.targets import get_target

    wanted: dict[str, dict[str, str]] = {name: {} for name in against}
    for key, value in _options(pairs).items():
        target, _, name = key.partition(".")
        if target not in wanted:
            raise ConfigError(f"--option {key}={value}: expected TARGET.NAME=VALUE with a target of --against.")
        wanted[target][name] = value
    return [get_target(name).configured(**options) for name, options in wanted.items()]


def _options(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return ``NAME=VALUE`` pairs as a mapping.

    Raises:
        ConfigError: A pair has no ``=``.
    """
    from dyadiq.core.errors import ConfigError

    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--option {pair}: expected NAME=VALUE, e.g. --option backend=Vitis.")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def load_any_program(path: Path) -> IntegerProgram:
    """Return the program of a run folder, a .dyq file or an artifact.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    from dyadiq.ir.serialize import load_program
    from dyadiq.targets.dyq import read_dyq

    if path.is_dir():
        from dyadiq.pipeline.current import check_done
        from dyadiq.pipeline.run import open_run

        folder, recipe = open_run(path)
        check_done(folder, recipe, until="lower")
        folder.check_files("lower")
        return load_program(path / "lower" / "program.safetensors")
    return read_dyq(path) if path.suffix == ".dyq" else load_program(path)


def _samples(path: Path, inputs: Path | None) -> Any:
    """Return the samples to compare on: those of a file, or the test split of the run's data set.

    Raises:
        ArtifactError: The file cannot be read.
        ConfigError: There is neither a file nor a run folder.
    """
    import numpy as np

    from dyadiq.core.errors import ArtifactError, ConfigError

    if inputs is not None:
        try:
            return np.load(inputs, allow_pickle=False)
        except (OSError, ValueError) as err:
            raise ArtifactError(f"--inputs {inputs}: cannot be read as .npy without pickle: {err}.") from err
    if not path.is_dir():
        raise ConfigError(f"verify {path}: a program file has no data of its own. Give --inputs FILE.npy.")
    from dyadiq.pipeline.run import open_run
    from dyadiq.zoo import load_dataset

    _, recipe = open_run(path)
    return load_dataset(recipe.data.name, **{"seed": recipe.seed, **recipe.data.options}).test.x
