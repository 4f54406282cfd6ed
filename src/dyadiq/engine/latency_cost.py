"""Microseconds of one inference on this machine's engine, by layer and widths: a cost that `allocate` takes.

Used through `costs.ENGINE_COSTS`. For every pair of candidate widths the whole network is compiled at these widths
(`typical`) and its steps are timed where they stand (`measure`), so that each finds its inputs and weights where they
will be found in use: a layer's time goes by the widths of its weight and its input, that of a join or pool by the width
of its output. Least times are taken, in turns, since a busy machine only adds.

Steps do not add up to a run exactly: timers cost, and what one leaves in the caches the next one finds. So the sums are
multiplied by one factor, fitted on the uniform networks, and checked on networks of random widths, which had no part in
the fit. The factor and the error on these are in the table's ``measurement``, with the machine; a cache of another
machine, instruction set or version is not used. One sample at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from platform import machine, processor
from typing import Any

import numpy as np

from dyadiq.core.errors import ArtifactError, ConfigError, UnknownNameError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.native import INTERFACE
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.storage import atomic_write_text, make_folder, read_bytes
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits
from dyadiq.engine.compile import compile_program
from dyadiq.engine.limits import find_uncompilable
from dyadiq.engine.measure import measure_algorithms, time_plans
from dyadiq.engine.plan import PLAN_VERSION, EnginePlan
from dyadiq.engine.runtime import StepProfile, chosen_isa
from dyadiq.engine.typical import typical_program
from dyadiq.ir.graph import Graph
from dyadiq.ir.serialize import graph_sha256
from dyadiq.ir.sites import Sites, find_sites

__all__ = ["latency_cost", "machine_identity"]

_CACHE_VERSION = 1  # of what a cached number means: raise it when something here is timed or fitted otherwise
_ALGORITHMS = ("rule", "measured")
_ROUNDS, _TURN_US = 10, 2000.0
_N_CHECKS, _SEED = 6, 0

_TABLE = CostTable("latency_us", "ns", "measured", "of a network without layers: 0", {}, plain_unit="us")

_Key = tuple[str, ...] | tuple[str, int] | tuple[str, int, int]


def machine_identity() -> dict[str, Any]:
    """Return what measured times belong to: processor, instruction set of the kernels, versions.

    Raises:
        ConfigError: ``DYADIQ_ISA`` names kernels that this machine does not run.
        MissingToolError: The native module was not built.
        UnknownNameError: No kernels are called that.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else processor() or machine(),
        "isa": chosen_isa(),
        "dyadiq": metadata.version("dyadiq"),
        "engine": [INTERFACE, PLAN_VERSION],
    }


def latency_cost(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    *,
    algorithms: str = "rule",
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> CostTable:
    """Return the nanoseconds of every layer by the widths of its weight and of its input, of all else by one width.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        algorithms: Of convolutions: ``rule`` or ``measured``, as target `engine` will be told.
        threads: That share the work of a sample.
        cache: File of tables measured before; made if missing.
        progress: Told about timed networks.

    Returns:
        The table. Its ``measurement`` holds the machine, ``factor``, and ``error_rms_frac`` and ``error_worst_frac`` of
        predicted over measured times of ``n_checks`` networks of random widths.

    Raises:
        ConfigError: Candidates are empty or out of range, or widths at which the engine cannot run the network.
        MissingToolError: The native module was not built.
        StorageError: The cache cannot be written.
        UnknownNameError: There is no such choice of algorithms, or ``DYADIQ_ISA`` names no kernels.
    """
    if algorithms not in _ALGORITHMS:
        raise UnknownNameError("choice of algorithms", algorithms, _ALGORITHMS)
    options = candidate_bits(facts, weight_bits, activation_bits)
    if not facts.layers:
        return _TABLE
    identity = machine_identity() | {"threads": threads, "algorithms": algorithms}
    key = _network_key(graph, facts, options)
    known = _load(cache, identity)
    if key not in known:
        known[key] = _measure(graph, facts, options, (weight_bits, activation_bits), identity, progress)
        if cache is not None:
            make_folder(cache.parent)
            tables = {name: table.to_json() for name, table in known.items()}
            document = {"version": _CACHE_VERSION, "machine": identity, "tables": tables}
            atomic_write_text(cache, json.dumps(document))
    return known[key]


@dataclass(frozen=True)
class _Timed:
    """A network at chosen widths, and its least times: of steps by what they depend on, and of the whole."""

    bits: Mapping[str, int]
    by_key: Mapping[_Key, float]
    whole_us: float


def _measure(
    graph: Graph,
    facts: NetworkFacts,
    options: Mapping[str, tuple[int, ...]],
    widths: tuple[Sequence[int], Sequence[int]],
    identity: Mapping[str, Any],
    progress: Progress,
) -> CostTable:
    kinds = {d.name: d.kind for d in facts.decisions}
    choices = []
    for b_w, b_a in itertools.product(*(sorted(set(row)) for row in widths)):
        wanted = {"weight": b_w, "activation": b_a}
        choices.append({name: _nearest(row, wanted[kinds[name]]) for name, row in options.items()})
    n_uniform, rng = len(choices), np.random.default_rng(_SEED)
    choices += [{name: int(rng.choice(row)) for name, row in options.items()} for _ in range(_N_CHECKS)]
    progress.start("time networks", len(choices) + 1)
    plans, fastest = [], dict[_Key, str]()
    for bits in choices:
        plans.append(_compiled(graph, facts, bits, identity, fastest))
        progress.advance(1, "compiled")
    how: dict[str, Any] = {"threads": identity["threads"], "rounds": _ROUNDS, "turn_us": _TURN_US}
    all_times = time_plans(plans, **how)
    progress.finish()
    sites, timed = find_sites(graph), []
    for bits, times in zip(choices, all_times, strict=True):
        by_key: dict[_Key, float] = {}
        for step in times.steps:
            key = _key(step, facts, sites, bits)
            by_key[key] = by_key.get(key, 0.0) + step.time_us
        timed.append(_Timed(bits, by_key, times.whole_us))
    return _fitted(facts, options, timed[:n_uniform], timed[n_uniform:], identity)


def _nearest(row: Sequence[int], bits: int) -> int:
    """Return the width itself, or where a decision cannot have it the closest below, or the least."""
    return max((b for b in row if b <= bits), default=row[0])


def _compiled(
    graph: Graph,
    facts: NetworkFacts,
    bits: Mapping[str, int],
    identity: Mapping[str, Any],
    fastest: dict[_Key, str],
) -> EnginePlan:
    """Return a compiled network; its algorithms by the rule, or the fastest, which are measured once for all widths.

    Raises:
        ConfigError: The engine cannot run it.
    """
    program = typical_program(graph, facts, bits)
    refused = find_uncompilable(program)
    if refused:
        lines = "".join(f"\n  {node.name} ({node.op}): {reason}" for node, reason in refused)
        raise ConfigError(
            f"budget latency_us: the engine cannot run this network at all candidate widths; with weights of at most "
            f"{max(bits[layer.weight] for layer in facts.layers)} and activations of at most "
            f"{max(bits[layer.output] for layer in facts.layers)} bits:{lines}\nLeave out the widest candidates."
        )
    plan = compile_program(program)
    if identity["algorithms"] == "rule":
        return plan
    keys = {layer.name: (layer.name, bits[layer.weight], bits[layer.input]) for layer in facts.layers}
    if any(key not in fastest for key in keys.values()):
        found = measure_algorithms(program, threads=identity["threads"]).fastest
        fastest |= {keys[name]: algorithm for name, algorithm in found.items() if keys[name] not in fastest}
    possible = {step.layer: step.choices for step in plan.steps if step.layer is not None}
    chosen = {name: fastest[keys[name]] for name in possible if fastest[keys[name]] in possible[name]}
    return compile_program(program, algorithms=chosen)


def _key(step: StepProfile, facts: NetworkFacts, sites: Sites, bits: Mapping[str, int]) -> _Key:
    """Return what a step's time depends on: layer and two widths, decision and its width, or nothing."""
    for layer in facts.layers:
        if layer.name == step.layer:
            return (layer.name, bits[layer.weight], bits[layer.input])
    decision = sites.decision_of.get(step.name.partition(":")[0])
    if decision is None or facts.decision(decision).fixed_bits is not None:
        return ()
    return (decision, bits[decision])


def _fitted(
    facts: NetworkFacts,
    options: Mapping[str, tuple[int, ...]],
    uniform: Sequence[_Timed],
    checks: Sequence[_Timed],
    identity: Mapping[str, Any],
) -> CostTable:
    seen: dict[_Key, list[float]] = {}
    for network in uniform:
        for owner, time_us in network.by_key.items():
            seen.setdefault(owner, []).append(time_us)
    sums = np.array([sum(network.by_key.values()) / network.whole_us for network in uniform])
    factor = float(sums.sum() / (sums**2).sum())  # of least squared relative errors

    def nanoseconds(owner: _Key) -> int:
        return round(float(np.median(seen[owner])) * factor * 1000) if owner in seen else 0

    joined = sorted({owner[0] for owner in seen if len(owner) == 2})
    pairs = tuple(
        PairCost(
            layer.weight,
            layer.input,
            {
                (b_w, b_a): nanoseconds((layer.name, b_w, b_a))
                for b_w in options[layer.weight]
                for b_a in options[layer.input]
            },
        )
        for layer in facts.layers
    )
    table = replace(
        _TABLE,
        unary={name: {bits: nanoseconds((name, bits)) for bits in options[name]} for name in joined},
        pairs=pairs,
        fixed=nanoseconds(()),
    )
    errors = np.array([table.total(network.bits) / (network.whole_us * 1000) - 1 for network in checks])
    measurement = {
        **identity,
        "factor": round(factor, 4),
        "n_fitted": len(uniform),
        "n_checks": len(checks),
        "error_rms_frac": round(float(np.sqrt((errors**2).mean())), 4),
        "error_worst_frac": round(float(np.abs(errors).max()), 4),
    }
    threads = "one thread" if identity["threads"] == 1 else f"{identity['threads']} threads"
    rms, worst = (100 * measurement[f"error_{which}_frac"] for which in ("rms", "worst"))
    definition = (
        f"least times of the engine's steps in place, {identity['isa']}, {threads}, one sample, summed and multiplied "
        f"by {factor:.3f}; on {len(checks)} networks of random widths within {rms:.1f} % (rms) of the whole, "
        f"{worst:.1f} % at worst"
    )
    return replace(table, definition=definition, measurement=measurement)


def _network_key(graph: Graph, facts: NetworkFacts, options: Mapping[str, tuple[int, ...]]) -> str:
    """Return a hash of all that the times depend on beside the machine."""
    described = repr((graph_sha256(graph), facts.to_json(), dict(options)))
    return hashlib.sha256(described.encode()).hexdigest()


def _load(cache: Path | None, identity: Mapping[str, Any]) -> dict[str, CostTable]:
    """Return tables measured on this machine; a missing, damaged, older or foreign file holds none."""
    if cache is None or not cache.is_file():
        return {}
    try:
        stored = json.loads(read_bytes(cache))
        if stored["version"] != _CACHE_VERSION or stored["machine"] != identity:
            return {}
        return {str(key): CostTable.from_json(table) for key, table in stored["tables"].items()}
    except (ArtifactError, ValueError, LookupError, TypeError, AttributeError):
        return {}
