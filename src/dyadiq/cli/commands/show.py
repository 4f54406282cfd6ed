"""``dyadiq show``: any file or folder of ours as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyadiq.cli.commands.show_engine import show_engine_file
from dyadiq.cli.guard import command
from dyadiq.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from dyadiq.core.facts import NetworkFacts
    from dyadiq.core.plan import BitPlan
    from dyadiq.ir.graph import Graph

__all__ = ["show", "show_file"]


@command("show", "Show a run, plan, table, graph or program.")
@click.argument("path", type=click.Path(path_type=Path))
def show(path: Path, as_json: bool) -> None:
    """Show PATH: a run folder, a summary, plan, sensitivity table, graph, program, .dyq or .dyqe file."""
    show_file(path, as_json=as_json)


def show_file(path: Path, *, as_json: bool) -> None:
    """Print a file or run folder; as JSON: the stored document without its arrays.

    Raises:
        ArtifactError: Missing, damaged, from a newer version, or nothing of ours.
        ConfigError: The summary of a run that is unfinished.
    """
    if path.is_dir():
        _show_run(path, as_json=as_json)
        return
    if path.suffix == ".dyq":
        _show_dyq(path, as_json=as_json)
        return
    if path.suffix == ".dyqe":
        show_engine_file(path, as_json=as_json)
        return
    from dyadiq.core.artifact import read_artifact

    schema = _readable_schema(path)
    if schema == "dyadiq.run/1":
        _show_summary_file(path, as_json=as_json)
        return
    payload, arrays = read_artifact(path, schema, require_hash=False)
    if as_json:
        shapes = {name: [str(a.dtype), list(a.shape)] for name, a in arrays.items()}
        print_json({"schema": schema, "payload": payload, "arrays": shapes})
        return
    shower = _SHOWERS[schema]
    if shower is not None:
        shower(path)
    else:
        print_text(f"{schema}: {path}")
        print_table(("array", "type", "shape"), [(n, str(a.dtype), _shape(a.shape)) for n, a in arrays.items()])


def _readable_schema(path: Path) -> str:
    """Return the schema that this version reads of the noun in a file; the file may be of another version.

    Raises:
        ArtifactError: No such file, or nothing that `show` prints.
    """
    from dyadiq.core.artifact import peek_schema
    from dyadiq.core.errors import ArtifactError

    nouns = {schema.partition("/")[0]: schema for schema in _SHOWERS}
    known = ", ".join(noun.removeprefix("dyadiq.") for noun in nouns)
    try:
        found = peek_schema(path)
    except ArtifactError as err:
        if path.exists():
            err.add_note(f"show prints run folders, .dyq files, and files of: {known}; other JSON files are plain text")
        raise
    if found.partition("/")[0] not in nouns:
        raise ArtifactError(
            f"{path}: a file of schema {found!r}, which show does not print. Give a run folder, a .dyq file, or a file "
            f"of one of: {known}. If a newer Dyadiq wrote it, upgrade."
        )
    return nouns[found.partition("/")[0]]


def _show_summary_file(path: Path, *, as_json: bool) -> None:
    """Print a summary; beside its run, only while it is the result of that run's recipe.

    Raises:
        ArtifactError: Written by a newer version.
        ConfigError: The run is unfinished.
    """
    from dyadiq.core.errors import ArtifactError
    from dyadiq.pipeline.current import check_done
    from dyadiq.pipeline.run import open_run
    from dyadiq.pipeline.store import RunFolder

    document = json.loads(path.read_text(encoding="utf-8"))
    if document["schema"] != "dyadiq.run/1":
        raise ArtifactError(
            f"{path}: a summary of schema {document['schema']!r}, written by a newer Dyadiq; this one reads "
            "'dyadiq.run/1'. Upgrade Dyadiq, or run the recipe again with this version."
        )
    if path.name == "summary.json" and RunFolder(path.parent).is_run():
        check_done(*open_run(path.parent))
    _show_summary(document, as_json=as_json)


def _show_run(path: Path, *, as_json: bool) -> None:
    from dyadiq.pipeline.current import current_records, current_summary
    from dyadiq.pipeline.run import open_run
    from dyadiq.pipeline.stages import STAGES

    folder, recipe = open_run(path)
    summary = current_summary(folder, recipe)
    if summary is not None:
        _show_summary(summary, as_json=as_json)
        return
    done = {name: record.seconds for name, record in current_records(folder, recipe).items()}
    left = next((stage.name for stage in STAGES if stage.name not in done), None)
    if as_json:
        print_json({"schema": "dyadiq.unfinished-run/1", "name": recipe.name, "seconds": done, "next": left})
        return
    print_text(f"{recipe.name}: not finished; the same recipe continues it" + (f" at stage {left!r}" if left else ""))
    print_table(("stage", "done", "seconds"), [(s.name, s.name in done, done.get(s.name)) for s in STAGES])
    if (path / "previous").is_dir():
        print_text(f"What an earlier recipe gave is in {path / 'previous'}.")


def _show_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    from dyadiq.cli.commands.run import print_summary

    if as_json:
        print_json(summary)
    else:
        print_summary(summary)


def _show_dyq(path: Path, *, as_json: bool) -> None:
    from dyadiq.core.storage import read_bytes
    from dyadiq.targets.dyq import read_dyq

    program = read_dyq(path)
    if as_json:
        nodes = [{"name": n.name, "op": n.op, "inputs": n.inputs, "output": n.output} for n in program.graph.nodes]
        size = len(read_bytes(path))
        print_json({"schema": "dyadiq.dyq/1", "size_bytes": size, "spec_version": program.spec_version, "nodes": nodes})
    else:
        print_text(f"packed program, {path.stat().st_size:,} bytes, spec version {program.spec_version}")
        _print_graph(program.graph)


def _show_graph(path: Path) -> None:
    from dyadiq.ir.serialize import load_graph

    graph = load_graph(path)
    print_text(f"float graph: inputs {', '.join(graph.inputs)}; outputs {', '.join(graph.outputs)}")
    _print_graph(graph)


def _show_program(path: Path) -> None:
    from dyadiq.ir.serialize import load_program

    program = load_program(path)
    print_text(f"integer program, spec version {program.spec_version}")
    _print_graph(program.graph)


def _print_graph(graph: Graph) -> None:
    rows = []
    for node in graph.nodes:
        info = graph.tensors[node.output]
        weight = next((str(graph.param_types[i]) for i in node.inputs[1:2] if i in graph.param_types), None)
        kind = str(info.qtype) if info.qtype is not None else "real"
        rows.append((node.name, node.op, ", ".join(graph.activations(node)), weight, kind, _shape(info.shape)))
    print_table(("node", "op", "reads", "weight", "makes", "shape"), rows)
    count = sum(int(p.size) for p in graph.params.values())
    print_text(f"{len(graph.nodes)} nodes, {len(graph.params)} parameter tensors, {count:,} numbers")


def _show_plan(path: Path) -> None:
    from dyadiq.core.store import load_plan

    plan = load_plan(path)
    print_table(
        ("tensor", "bits", "scheme", "granularity", "scale"),
        [(n, f.bits, f.scheme, f.granularity, f.scale) for n, f in plan.formats.items()],
    )
    if plan.budgets:
        print_table(
            ("budget", "limit", "used", "unit", "binding"),
            [(b.metric, b.limit, b.used, b.unit, b.binding) for b in plan.budgets],
        )
    for metric, how in plan.provenance.get("measured", {}).items():
        print_text(f"{metric} was measured on {how['cpu']}: {how['definition']}")
    if plan.costs:
        print_table(("cost", "total"), plan.costs.items())
    found = plan.certificate
    if found is not None:
        print_text(
            f"predicted loss increase {found.objective:.4g}, no plan can be below {found.lower_bound:.4g} "
            f"(gap {found.gap:.3g}; {found.method}; {found.n_candidates} plans)"
        )
        if found.next_best is not None:
            s = found.next_best
            print_text(
                f"next best: {s.decision} from {s.from_bits} to {s.to_bits} bits would save {-s.loss_delta:.3g} "
                f"for {s.cost_delta:,} more"
            )
    change = plan.refinement
    if change is not None:
        moved = ", ".join(f"{name} {was} → {now}" for name, (was, now) in change.changes.items())
        print_text(
            f"refined from that plan by {change.n_measured:,} measured plans: {moved or 'nothing changed'}; measured "
            f"loss {change.before[0]:.4g} → {change.after[0]:.4g}, on samples of the guard {change.before[1]:.4g} → "
            f"{change.after[1]:.4g}; {change.reason}"
        )
    _print_outlook(plan)


def _print_outlook(plan: BitPlan) -> None:
    """Print what more would buy, the next best plans, and how sure the widths are."""
    for m in plan.marginals:
        least = "" if m.next_step is None else f"; the least that buys anything is {m.next_step:,} {m.unit}"
        gain = "" if m.next_step is None else f", saving {-m.next_loss_delta:.3g}"
        print_text(f"{m.step:,} {m.unit} more of {m.metric} would save {-m.step_loss_delta:.3g}{least}{gain}")
    if plan.alternatives:
        rows = [
            (i, f"{a.objective:.6g}", ", ".join(f"{n} {plan.bits[n]} → {b}" for n, b in a.changes.items()))
            for i, a in enumerate(plan.alternatives, start=2)
        ]
        print_table(("next best", "predicted loss", "what differs"), rows)
    sure = plan.stability
    if sure is not None:
        unsure = {n: row for n, row in sure.probabilities.items() if 0 < row.get(plan.bits[n], 0.0) < 1}
        doubts = [
            (n, plan.bits[n], ", ".join(f"{b}: {100 * p:.0f} %" for b, p in sorted(row.items()) if p > 0))
            for n, row in unsure.items()
        ]
        if doubts:
            print_table(("not sure", "chosen", f"bits in {sure.n_replicas:,} redrawn tables"), doubts)
        print_text(
            f"regret: at most {sure.regret_p95:.3g} in 95 % of redrawn tables, "
            f"{100 * sure.regret_p95_frac:.2g} % of the predicted loss"
        )


def _show_sensitivity(path: Path) -> None:
    from dyadiq.core.store import load_table

    table = load_table(path)
    widths = sorted({b for row in table.entries.values() for b in row})
    print_text(f"{table.method}: expected loss increase in {table.unit}, {table.n_samples} samples (± standard error)")
    rows = []
    for name, row in table.entries.items():
        cells = [f"{row[b].value:.2e} ±{row[b].stderr:.0e}" if b in row else None for b in widths]
        rows.append((name, *cells))
    print_table(("tensor", *(f"{b} bits" for b in widths)), rows)
    for note in table.notes:
        print_text(f"note: {note}")


def _show_facts(path: Path) -> None:
    from dyadiq.core.store import load_facts

    facts: NetworkFacts = load_facts(path)
    rows = [(d.name, d.kind, _shape(d.shape), d.n_elements, d.fixed_bits) for d in facts.decisions]
    print_table(("tensor", "kind", "shape", "elements", "fixed bits"), rows)


def _show_cost(path: Path) -> None:
    from dyadiq.core.store import load_cost

    table = load_cost(path)
    print_text(f"{table.metric} in {table.unit} ({table.kind}): {table.definition}")
    widths = sorted({b for row in table.unary.values() for b in row})
    rows = [(name, *(row.get(b) for b in widths)) for name, row in table.unary.items()]
    print_table(("tensor", *(f"{b} bits" for b in widths)), rows)


def _show_distilled(path: Path) -> None:
    from dyadiq.zero_shot.store import load_distilled

    made = load_distilled(path)
    print_text(f"{made.summary}; inputs {_shape(made.images.shape[1:])}")
    print_table(("batch norm", "mismatch, nats per channel"), [(n, f"{v:.2g}") for n, v in made.mismatch.items()])
    for note in made.notes:
        print_text(f"note: {note}")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


# What this version reads; None: the arrays are listed.
_SHOWERS: Mapping[str, Callable[[Path], None] | None] = {
    "dyadiq.graph/1": _show_graph,
    "dyadiq.program/1": _show_program,
    "dyadiq.plan/1": _show_plan,
    "dyadiq.sensitivity/1": _show_sensitivity,
    "dyadiq.facts/1": _show_facts,
    "dyadiq.cost/1": _show_cost,
    "dyadiq.distilled/1": _show_distilled,
    "dyadiq.state/1": None,
    "dyadiq.quant-module/1": None,
    "dyadiq.checkpoint/1": None,
    "dyadiq.run/1": None,
}
