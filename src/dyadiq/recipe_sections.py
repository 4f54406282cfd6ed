"""The sections of a recipe: each class is one, each attribute a key with its type and default.

Used by `recipe`, which reads them, and by stages that take one. What most values mean (which methods, targets, models
exist) is checked by the module that owns them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format, GranularityKind, RangeMethod, ScaleKind, Scheme

__all__ = [
    "AcceptSection",
    "AllocateSection",
    "AnalyzeSection",
    "CalibrateSection",
    "CompareSection",
    "Count",
    "DataSection",
    "DistillSection",
    "ExportSection",
    "FinetuneSection",
    "FormatSection",
    "HardwareSection",
    "ModelSection",
    "QuantSection",
    "ReconstructSection",
    "RefineSection",
    "Section",
    "SparsifySection",
    "TrainSection",
    "UniformBits",
    "VerifySection",
]

Bits = Annotated[int, Field(ge=1, le=16)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
Budget = dict[str, Annotated[float, Field(gt=0)] | Annotated[int, Field(gt=0)] | str]


class Section(BaseModel):
    """Frozen and strict: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(Section):
    """``[data]``: which data set, and options its loader takes."""

    name: str
    options: dict[str, Any] = {}


class ModelSection(Section):
    """``[model]``: a name of the zoo, ``package.module:factory``, or the path of a float network in ONNX, ``net.onnx``.

    ``weights`` (safetensors) and ``pretrained = true`` (the zoo's own weights of that name) skip training. ONNX files
    have weights of their own; ``args = { output = "logits" }`` ends the network at the tensor of that name.
    """

    name: str
    args: dict[str, Any] = {}
    weights: str | None = None
    pretrained: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.weights is not None and self.pretrained:
            raise ValueError("at most one of `weights` and `pretrained`")
        return self


class TrainSection(Section):
    """``[train]``: float training; the fields of `train.TrainConfig`, with its defaults."""

    epochs: Count = 10
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    weight_decay: NotNegative = 0.0
    momentum: BelowOne = 0.9
    label_smoothing: BelowOne = 0.0
    l1: NotNegative = 0.0
    augment: Literal["none", "crop_flip", "crop_flip_mixup", "crop_flip_cutmix"] = "none"
    average_decay: BelowOne = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    keep_best: bool = True


class SparsifySection(Section):
    """``[finetune.sparsify]``: weights of few signed digits; the fields of `train.SparsifyConfig`, with its defaults.

    ``lut = 8000`` or ``digits_per_weight = 0.3``.
    """

    lut: Count | None = None
    digits_per_weight: Positive | None = None
    saliency: Literal["fisher", "magnitude"] = "fisher"
    max_digits: Count = 3
    start_frac: Fraction = 0.05
    end_frac: BelowOne = 0.7
    n_updates: Count = 20
    n_samples: Count = 8192
    input_grids: bool = False
    polish_samples: Annotated[int, Field(ge=0)] = 0
    exchanges: Annotated[int, Field(ge=0)] = 0
    trims: Annotated[int, Field(ge=0)] = 0
    trim_epochs: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.lut is None) == (self.digits_per_weight is None):
            raise ValueError("exactly one of `lut` and `digits_per_weight`, for example lut = 8000")
        if self.start_frac > self.end_frac:
            raise ValueError("start_frac to be at most end_frac")
        if self.input_grids and self.lut is None:
            raise ValueError("`lut` where `input_grids` are asked for")
        if (self.exchanges or self.trims) and not self.polish_samples:
            raise ValueError("`polish_samples` where `exchanges` or `trims` are asked for")
        if self.trim_epochs and self.trims < 2:
            raise ValueError("at least 2 `trims` where `trim_epochs` are asked for")
        if self.trims and self.lut is None:
            raise ValueError("`lut` where `trims` are asked for")
        return self


class FinetuneSection(TrainSection):
    """``[finetune]``: training of the quantized network; ``epochs = 0`` leaves it as calibrated.

    ``distill = true`` imitates the float network as well, with the share ``distill_weight``; with
    ``teacher_views = "mirror"`` the mean of what it says of every image and its mirror image.
    ``estimator = "lsq"`` (``dyadiq list estimators``) is how gradients pass the rounding.
    ``blockwise_frac = 0.5`` quantizes block by block over half of the epochs, the most sensitive first (HAWQ).
    ``real_data = true`` must stand beside ``[distill]``: fine-tuning reads training samples.
    ``freeze_bn_epoch = n`` lets batch norms learn their statistics for n epochs; without it they are frozen.
    """

    epochs: Annotated[int, Field(ge=0)] = 5
    distill: bool = False
    distill_weight: Fraction = 0.5
    temperature: Positive = 2.0
    teacher_views: Literal["one", "mirror"] = "one"
    freeze_bn_epoch: Annotated[int, Field(ge=0)] | None = None
    scale_rate_frac: NotNegative = 1.0
    estimator: str = "log_lsq"
    range_decay: NotNegative = 1e-4
    blockwise_frac: BelowOne = 0.0
    sparsify: SparsifySection | None = None
    real_data: bool = False

    @model_validator(mode="after")
    def _epochs_to_sparsify(self) -> Self:
        if self.sparsify is not None and self.epochs == 0:
            raise ValueError("epochs of at least 1 for [finetune.sparsify], which happens while training")
        return self

    @model_validator(mode="after")
    def _views_of_a_teacher(self) -> Self:
        if self.teacher_views != "one" and not self.distill:
            raise ValueError("`distill = true` where `teacher_views` are asked for: without it there is no teacher")
        return self


class FormatSection(Section):
    """``[quant.weight]`` and ``[quant.activation]``: everything of a `Format` except its bits."""

    scheme: Scheme = "symmetric"
    signed: bool | None = None
    narrow: bool = False
    granularity: GranularityKind = "tensor"
    group_size: Count | None = None
    scale: ScaleKind = "float"
    range_method: RangeMethod = "mse"
    percentile: Annotated[float, Field(gt=0.5, le=1.0)] = 0.9999

    def to_format(self) -> Format:
        """Return the `Format`; its width is only a default that plans replace."""
        return Format(8, **self.model_dump())


class QuantSection(Section):
    """``[quant]``: the fields of `QuantConfig`; ``input_bits = 0`` lets the plan choose the input width."""

    weight: FormatSection = FormatSection(signed=True, narrow=True, granularity="channel")
    activation: FormatSection = FormatSection()
    input_bits: Annotated[int, Field(ge=0, le=16)] = 8
    output_bits: Bits = 16
    residual_bits: Bits | None = None
    multiplier_bits: Annotated[int, Field(ge=1, le=31)] = 16
    product_bits: Annotated[int, Field(ge=8, le=62)] | None = None

    def to_config(self) -> QuantConfig:
        """Return the `QuantConfig`."""
        return QuantConfig(
            weight=self.weight.to_format(),
            activation=self.activation.to_format(),
            input_bits=self.input_bits or None,
            output_bits=self.output_bits,
            residual_bits=self.residual_bits,
            multiplier_bits=self.multiplier_bits,
            product_bits=self.product_bits,
        )


class AnalyzeSection(Section):
    """``[analyze]``: how the loss increase of lower precision is estimated.

    ``unreached = "worst"``: tensors that no calibration sample reaches count as the most sensitive of their kind,
    instead of ending the run.
    ``stop = "regret"``: of at most ``n_samples``, only as many are measured as it takes for the plan to be within
    ``max_regret`` of the best one in 95 % of bootstraps; ``budget`` is that of ``[allocate]``, unless given
    (which it must be beside budgets of circuits).
    ``spectrum = true``: the whole spectrum of every weight's curvature, for the report; slow.
    """

    method: str = "gram"
    bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (2, 3, 4, 5, 6, 8)
    activation_bits: Annotated[tuple[Bits, ...], Field(min_length=1)] | None = None
    n_samples: Count = 256
    precision: Literal["float32", "float64"] = "float32"
    unreached: Literal["refuse", "worst"] = "refuse"
    stop: Literal["samples", "regret"] = "samples"
    max_regret: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    budget: Budget | None = None
    spectrum: bool = False


class UniformBits(Section):
    """``allocate.uniform``: one width for all weights and one for all activations."""

    weight: Bits
    activation: Bits


class RefineSection(Section):
    """``[allocate.refine]``: the plan improved by measuring whole plans (`allocation.refine`).

    ``n_samples`` training samples propose changes, ``n_guard`` others may refuse them; both are drawn where the network
    is unsure. ``max_rounds`` bounds the search; one round measures about two plans a tensor.
    """

    n_samples: Annotated[int, Field(ge=2)] = 256
    n_guard: Annotated[int, Field(ge=2)] = 256
    max_rounds: Count = 3


class AllocateSection(Section):
    """``[allocate]``: either a budget (absolute, or a percentage of the float network) or uniform bits.

    Budgets of ``lut``, ``ff`` and ``latency_ns`` are absolute, for the first device and the depth of ``[hardware]``;
    ``clock_mhz`` is what nanoseconds are modelled with, without it what is assumed for the device. Networks that
    would take more than ``max_luts`` (default: the largest known part) are refused. ``refine = {}`` measures plans.
    A budget of ``latency_us`` is absolute too: microseconds of a sample on this machine's engine, measured.
    """

    budget: Budget | None = None
    uniform: UniformBits | None = None
    clock_mhz: Positive | None = None
    max_luts: Count | None = None
    refine: RefineSection | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.budget is None) == (self.uniform is None):
            raise ValueError("exactly one of `budget` and `uniform`")
        if self.budget is not None and not self.budget:
            raise ValueError('a budget with at least one metric, for example budget = { size = "25%" }')
        if self.refine is not None and self.budget is None:
            raise ValueError("a `budget` where `refine` is asked for: uniform bits leave nothing to choose")
        return self


class CalibrateSection(Section):
    """``[calibrate]``: samples that set the ranges of activations; ``refine`` chooses them by the outputs."""

    n_samples: Count = 256
    refine: bool = False


class DistillSection(Section):
    """``[distill]``: sensitivities and ranges from inputs distilled from batch norms, instead of training samples.

    A run without this section calibrates on training samples. ``input_mean`` and ``input_std`` are those of the inputs
    as they enter the network, one number or one a channel; ``input_range`` is their least and largest possible value.
    """

    n_images: Annotated[int, Field(ge=2)] = 128
    steps: Count = 40
    learning_rate: Positive = 0.2
    batch_size: Annotated[int, Field(ge=2)] | None = None
    input_mean: float | tuple[float, ...] = 0.0
    input_std: Positive | tuple[Positive, ...] = 1.0
    input_range: tuple[float, float] | None = None


class ReconstructSection(Section):
    """``[reconstruct]``: post-training methods after calibration, in order (`quant.reconstruct`).

    ``methods = ["gptq"]``; none: nothing happens. ``iterations``, ``batch_size`` and ``learning_rate`` are those of
    ``adaround``, ``brecq`` and ``qdrop``.
    """

    methods: tuple[str, ...] = ()
    n_samples: Count = 512
    iterations: Count = 500
    batch_size: Count = 32
    learning_rate: Positive = 1e-2
    damping: Fraction = 0.01
    sweeps: Annotated[int, Field(ge=0)] = 4


class VerifySection(Section):
    """``[verify]``: executors compared with the reference; all test samples unless ``n_samples`` is given.

    ``limits = { verilog = 2000 }`` gives slow executors fewer samples than the others. Those of ``if_available`` are
    compared where this machine has what they need (a compiler, our native code); elsewhere the results say why not.
    """

    against: Annotated[tuple[str, ...], Field(min_length=1)] = ("exact",)
    if_available: tuple[str, ...] = ()
    n_samples: Count | None = None
    limits: dict[str, Count] = {}


class ExportSection(Section):
    """``[export]``: targets to write; their ``options`` hold for the stage ``verify`` as well.

    ``options = { hls4ml = { backend = "Vitis" }, verilog = { simulator = "verilator" }, engine = { threads = 2 } }``
    """

    to: tuple[str, ...] = ("dyq",)
    options: dict[str, dict[str, Any]] = {}


class HardwareSection(Section):
    """``[hardware]``: the program as logic, synthesised for every device and placed where an open tool can.

    The numbers of the first device are the run's; ``depth`` is the most adders between registers, without it what
    suits the device. A run without this section synthesises nothing.
    """

    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("vu9p",)
    depth: Count | None = None
    place: bool = True
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1,)
    target_mhz: Positive = 150.0
    timeout_s: Positive = 3600.0


class CompareSection(Section):
    """``[compare]``: uniform plans measured beside the chosen one, each calibrated and fine-tuned alike."""

    uniform_bits: tuple[Bits, ...] = ()


class AcceptSection(Section):
    """``[accept]``: floors; a run that misses one ends with exit code 1.

    All are fractions in [0, 1], but ``max_lut``, the LUTs of the first device of ``[hardware]``.
    """

    max_drop: Fraction | None = None
    min_accuracy: Fraction | None = None
    max_size_frac: Fraction | None = None
    max_lut: Count | None = None
