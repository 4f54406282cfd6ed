"""Stage ``analyze``: how much the loss grows when one tensor gets fewer bits."""

from __future__ import annotations

from dyadiq.pipeline.sources import calibration_batches, graph
from dyadiq.pipeline.stage import Stage, StageContext

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.core.store import save_table
    from dyadiq.cost import network_facts
    from dyadiq.curvature import analyze
    from dyadiq.ir.packed import packed_size_parts
    from dyadiq.ir.passes import canonicalize
    from dyadiq.ir.probe import probe_program

    section = context.recipe.analyze
    config = context.recipe.quant.to_config()
    canonical = canonicalize(graph(context))
    fixed_bytes, _ = packed_size_parts(probe_program(canonical, config))
    table = analyze(
        canonical,
        calibration_batches(context, section.n_samples),
        section.method,
        bits=section.bits,
        activation_bits=section.activation_bits,
        seed=context.recipe.seed,
        folder=context.scratch / "pieces",
        progress=context.progress,
        facts=network_facts(canonical, config, fixed_size_bytes=fixed_bytes),
    )
    save_table(context.folder / "sensitivity.safetensors", table)


STAGE = Stage("analyze", "measure sensitivities", ("data", "capture", "distill"), ("data", "quant", "analyze"), _run)
