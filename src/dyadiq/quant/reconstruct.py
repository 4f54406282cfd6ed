"""Accuracy kept without training: a calibrated module's weights, scales and biases chosen again, method by method.

Used by the pipeline (``[reconstruct]``) and the public face. A method is one file with a function
``(Reconstruction) -> None`` that changes the module in place, one line in `METHODS`, one test. Methods run in the order
given; all imitate the float network as it was before the first. What each is for: docs/howto/post-training.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.ir.execute import Batch
from dyadiq.quant.batch_norm import batch_norm_
from dyadiq.quant.bias_correction import bias_correction_
from dyadiq.quant.equalize import equalize_
from dyadiq.quant.estimators import DEFAULT
from dyadiq.quant.gptq import gptq_
from dyadiq.quant.learned_rounding import adaround_, brecq_, qdrop_
from dyadiq.quant.module import QuantModule
from dyadiq.quant.reconstruction import ReconstructConfig, Reconstruction
from dyadiq.quant.smooth import smooth_
from dyadiq.quant.walk import read_inputs

__all__ = ["METHODS", "ReconstructResult", "reconstruct_"]

METHODS: Mapping[str, Callable[[Reconstruction], None]] = MappingProxyType(
    {
        "equalize": equalize_,
        "smooth": smooth_,
        "gptq": gptq_,
        "adaround": adaround_,
        "brecq": brecq_,
        "qdrop": qdrop_,
        "bias_correction": bias_correction_,
        "batch_norm": batch_norm_,
    }
)


@dataclass(frozen=True, slots=True)
class ReconstructResult:
    """What was done.

    Attributes:
        methods: In the order they ran.
        errors: Weight name to the squared error of its layer's outputs, rounded to nearest and now (methods that
            measure it).
        notes: What was left undone, and why.
    """

    methods: tuple[str, ...]
    errors: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def reconstruct_(
    module: QuantModule,
    batches: Iterable[Batch],
    methods: Sequence[str] = ("gptq",),
    *,
    config: ReconstructConfig | None = None,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> ReconstructResult:
    """Choose a quantized module's weights again, in place, so that its outputs are closest to the float network's.

    The rounding is held by the module's own weights: they become multiples of their steps, so that nothing else need be
    stored, and fine-tuning goes on from there.

    Args:
        module: From `quantize`; its weights are those of the float network. Mode and training flag stay.
        batches: Calibration samples; labels are ignored.
        methods: Names of `METHODS`, in order.
        config: Settings.
        seed: Of everything random.
        progress: One task a method.

    Raises:
        ConfigError: Not a quantized module, a disabled quantizer, limits of signed digits, or another estimator than
            the default.
        UnknownNameError: No such method.
        DataError: No batch, or an unusable one.

    Example:
        >>> import numpy as np, torch
        >>> from dyadiq.core.plan import uniform_plan
        >>> from dyadiq.cost.facts import network_facts
        >>> from dyadiq.ir.graph import Graph, Node, TensorInfo
        >>> from dyadiq.quant.quantize import quantize
        >>> x, y = TensorInfo((2,)), TensorInfo((1,))
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> graph = Graph("float", ("x",), ("fc",), (node,), {"x": x, "fc": y}, {"fc.weight": np.array([[1.4, 1.4]])})
        >>> batch = torch.tensor([[1.0, 1.0], [3.0, 3.0], [0.5, 0.4]])
        >>> module = quantize(graph, uniform_plan(network_facts(graph), 2, 8), [batch])
        >>> result = reconstruct_(module, [batch])
        >>> result.errors["fc.weight"][1] <= result.errors["fc.weight"][0]
        True
    """
    for name in methods:
        if name not in METHODS:
            raise UnknownNameError("reconstruction method", name, METHODS)
    _check(module)
    mode, training = module.mode, module.training
    module.set_mode_("fake").eval()
    job = Reconstruction(
        module,
        read_inputs(module, batches),
        {name: tensor.detach().clone() for name, tensor in module.model_tensors().items()},
        config or ReconstructConfig(),
        seed,
        progress,
    )
    try:
        for name in methods:
            METHODS[name](job)
    finally:
        module.set_mode_(mode).train(training)
    return ReconstructResult(tuple(methods), dict(job.errors), tuple(job.notes))


def _check(module: QuantModule) -> None:
    if not isinstance(module, QuantModule):
        raise ConfigError(
            f"reconstruct_ takes a quantized module, got {type(module).__name__}. Call quantize(graph, plan, batches) "
            "first."
        )
    disabled = [name for name, quantizer in module.quantizers_by_name().items() if not quantizer.enabled]
    if disabled:
        raise ConfigError(f"reconstruct_: the quantizers of {', '.join(disabled)} are disabled. Set enabled = True.")
    if module.estimator.name != DEFAULT.name:
        raise ConfigError(
            f"reconstruct_: the module trains by the estimator {module.estimator.name!r}, whose ranges and transforms "
            f"rounding does not know. Call set_estimator_({DEFAULT.name!r}) first; what was learned stays."
        )
    limited = [name for name, quantizer in module.weight_quantizers().items() if quantizer.max_digits is not None]
    if limited:
        raise ConfigError(
            f"reconstruct_: {', '.join(limited)} have limits of signed digits, which rounding does not keep. "
            "Reconstruct before limits are set."
        )
