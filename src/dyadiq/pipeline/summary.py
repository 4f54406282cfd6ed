"""The document of a finished run, schema ``dyadiq.run/1``, put together from what the stages wrote.

Used by `pipeline.run` and the report stage. Computes only ratios and verdicts; every number is in a stage's file.
``recipe_sha256`` and ``stages`` (the key of each) say what it is the result of; `pipeline.current` compares them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dyadiq.core.plan import BitPlan
from dyadiq.core.signed_digits import count_digits
from dyadiq.core.store import load_plan, load_table
from dyadiq.core.tables import SensitivityTable
from dyadiq.cost.traffic import layer_traffic
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.serialize import load_program
from dyadiq.pipeline.runner import source_sha256, versions
from dyadiq.pipeline.sources import DISTILLED
from dyadiq.pipeline.stage import read_json
from dyadiq.pipeline.store import RunFolder, StageRecord
from dyadiq.recipe import AcceptSection, Recipe

__all__ = ["SUMMARY_SCHEMA", "build_summary", "layer_digits"]

SUMMARY_SCHEMA = "dyadiq.run/1"


def build_summary(recipe: Recipe, folder: RunFolder, records: Mapping[str, StageRecord]) -> dict[str, Any]:
    """Return the summary of a run whose stages up to ``hardware`` are done; ``report`` is empty until it is written."""
    run = folder.path
    plan = load_plan(run / "allocate" / "plan.json")
    table = load_table(run / "analyze" / "sensitivity.safetensors")
    metrics = read_json(run / "evaluate" / "metrics.json")
    verification = read_json(run / "verify" / "verify.json")
    exported = read_json(run / "export" / "export.json")["files"]
    artifacts = {kind: str(run / "export" / files[0]) for kind, files in exported.items()}
    artifacts |= {
        "plan": str(run / "allocate" / "plan.json"),
        "program": str(run / "lower" / "program.safetensors"),
        "sensitivity": str(run / "analyze" / "sensitivity.safetensors"),
    }
    distilled = read_json(run / "distill" / "distilled.json")
    if distilled is not None:
        artifacts["distilled"] = str(run / "distill" / DISTILLED)
    hardware = read_json(run / "hardware" / "hardware.json")
    if hardware:
        artifacts["circuit"] = str(run / "hardware" / hardware[0]["circuit"])
    report = run / "report" / "report.html"
    size_bytes = Path(artifacts["dyq"]).stat().st_size
    kinds = {d.name: d.kind for d in table.facts.decisions}
    digits = layer_digits(load_program(run / "lower" / "program.safetensors"))
    summary: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "name": recipe.name,
        "accuracy": {"float": metrics["float"]["test"], "integer": metrics["integer"]["test"]},
        "validation_accuracy": {"float": metrics["float"]["validation"], "integer": metrics["integer"]["validation"]},
        "n_eval": metrics["n_eval"],
        "size_bytes": size_bytes,
        "size_float_bytes": table.facts.float_size_bytes,
        "bops": plan.costs["bops"],
        "bops_float": metrics["bops_float"],
        "costs": dict(plan.costs),
        "plan": plan.bits,
        "weight_bits": {name: b for name, b in plan.bits.items() if kinds[name] == "weight"},
        "activation_bits": {name: b for name, b in plan.bits.items() if kinds[name] == "activation"},
        "certificate": _certificate(plan),
        "verify": verification,
        "layers": [layer.to_json() | digits[layer.name] for layer in layer_traffic(table.facts, plan.bits)],
        "distilled": distilled,
        "hardware": {**hardware[0], "devices": hardware} if hardware else None,
        "uniform": read_json(run / "compare" / "uniform.json"),
        "seconds": {name: record.seconds for name, record in records.items()},
        "artifacts": artifacts,
        "report": str(report) if report.is_file() else None,
        "summary": str(run / "summary.json"),
        "seed": recipe.seed,
        "recipe_sha256": recipe.sha256,
        "stages": {name: record.key for name, record in records.items()},
        "provenance": _provenance(recipe, folder, table, records),
    }
    summary["refusals"] = _refusals(recipe.accept, summary)
    summary["accepted"] = not summary["refusals"]
    return summary


def layer_digits(program: IntegerProgram) -> dict[str, dict[str, float]]:
    """Return, for every layer by name, which fraction of its weights is 0 and their mean nonzero signed digits.

    Both decide what a layer takes as logic: a weight of n digits is n - 1 adders, and one more in the sum.
    """
    found = {}
    for node in program.graph.nodes:
        if node.op in ("conv2d", "linear"):
            weight = effective_weight(program.graph, node)
            found[node.name] = {
                "zero_weights_frac": round(float((weight == 0).mean()), 6),
                "digits_per_weight": round(float(count_digits(weight).mean()), 6),
            }
    return found


def _certificate(plan: BitPlan) -> dict[str, Any]:
    found = plan.certificate
    if found is None:
        return {"gap": None, "method": "uniform bits of the recipe; nothing was optimised"}
    return {
        "gap": found.gap,
        "objective": found.objective,
        "lower_bound": found.lower_bound,
        "method": found.method,
        "n_candidates": found.n_candidates,
        "marginals": [asdict(m) for m in plan.marginals],
        "alternatives": [asdict(a) for a in plan.alternatives],
        "regret_p95_frac": plan.stability.regret_p95_frac if plan.stability else None,
    }


def _provenance(
    recipe: Recipe, folder: RunFolder, table: SensitivityTable, records: Mapping[str, StageRecord]
) -> dict[str, Any]:
    data = read_json(folder.path / "data" / "data.json")
    distilled = read_json(folder.path / "distill" / "distilled.json")
    return {
        "recipe sha256": recipe.sha256,
        "data": f"{data['name']}, sha256 {data['sha256']}",
        "samples": ", ".join(f"{n:,} {part}" for part, n in data["n"].items()),
        "seed": recipe.seed,
        "threads": recipe.threads,
        "sensitivity": f"{table.method} on {table.n_samples} samples, {table.unit}",
        "calibration": "training samples" if distilled is None else distilled["summary"],
        **{f"{name} sha256": records["export"].files[f"dyq/{name}"] for name in ("program.dyq",)},
        "dyadiq source sha256": source_sha256(),
        **{f"{name} version": version for name, version in versions().items()},
        "python version": platform.python_version(),
        "machine": platform.machine(),
    }


def _refusals(accept: AcceptSection, summary: Mapping[str, Any]) -> list[str]:
    """Return why the answer is no: executors that differ or are not proven, and floors that are missed."""
    hardware = summary["hardware"] or {"devices": []}
    reasons = [found["refusal"] for found in (*summary["verify"].values(), *hardware["devices"]) if found["refusal"]]
    accuracy = summary["accuracy"]
    drop = accuracy["float"] - accuracy["integer"]
    size_frac = summary["size_bytes"] / summary["size_float_bytes"]
    if accept.max_drop is not None and drop > accept.max_drop:
        reasons.append(f"accuracy drops by {drop:.4f}, accept.max_drop is {accept.max_drop}.")
    if accept.min_accuracy is not None and accuracy["integer"] < accept.min_accuracy:
        reasons.append(f"accuracy is {accuracy['integer']:.4f}, accept.min_accuracy is {accept.min_accuracy}.")
    if accept.max_size_frac is not None and size_frac > accept.max_size_frac:
        reasons.append(f"size is {size_frac:.4f} of float32, accept.max_size_frac is {accept.max_size_frac}.")
    if accept.max_lut is not None and hardware["devices"] and hardware["lut"] > accept.max_lut:
        reasons.append(f"the circuit takes {hardware['lut']:,} LUT, accept.max_lut is {accept.max_lut:,}.")
    return reasons
