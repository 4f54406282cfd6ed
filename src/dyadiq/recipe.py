"""Recipes: a TOML file that says everything about a run, read into frozen models.

Used by the pipeline and the command line. Knows the names of sections and keys and their types; the meaning
of most values (which methods, targets, models exist) is checked by the module that owns them.
An unknown key, a wrong type or an impossible value is a `ConfigError` that lists every problem at once.

The schema is this file: each class is a section, each attribute a key with its default.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format, GranularityKind, RangeMethod, ScaleKind, Scheme

__all__ = ["Recipe", "load_recipe", "parse_recipe"]

Bits = Annotated[int, Field(ge=1, le=16)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """``[data]``: which data set, and options its loader takes."""

    name: str
    options: dict[str, Any] = {}


class ModelSection(_Section):
    """``[model]``: a name of the zoo or ``package.module:factory``; ``weights`` (safetensors) skips training."""

    name: str
    args: dict[str, Any] = {}
    weights: str | None = None


class TrainSection(_Section):
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
    keep_best: bool = True


class SparsifySection(_Section):
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


class FinetuneSection(TrainSection):
    """``[finetune]``: training of the quantized network; ``epochs = 0`` leaves it as calibrated.

    ``distill = true`` imitates the float network as well, with the share ``distill_weight``.
    ``freeze_bn_epoch = n`` lets batch norms learn their statistics for n epochs; without it they are frozen.
    """

    epochs: Annotated[int, Field(ge=0)] = 5
    distill: bool = False
    distill_weight: Fraction = 0.5
    temperature: Positive = 2.0
    freeze_bn_epoch: Annotated[int, Field(ge=0)] | None = None
    scale_rate_frac: NotNegative = 1.0
    sparsify: SparsifySection | None = None


class FormatSection(_Section):
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


class QuantSection(_Section):
    """``[quant]``: the fields of `QuantConfig`; ``input_bits = 0`` lets the plan choose the input width."""

    weight: FormatSection = FormatSection(signed=True, narrow=True, granularity="channel")
    activation: FormatSection = FormatSection()
    input_bits: Annotated[int, Field(ge=0, le=16)] = 8
    output_bits: Bits = 16
    multiplier_bits: Annotated[int, Field(ge=1, le=31)] = 16
    product_bits: Annotated[int, Field(ge=8, le=62)] | None = None

    def to_config(self) -> QuantConfig:
        """Return the `QuantConfig`."""
        return QuantConfig(
            weight=self.weight.to_format(),
            activation=self.activation.to_format(),
            input_bits=self.input_bits or None,
            output_bits=self.output_bits,
            multiplier_bits=self.multiplier_bits,
            product_bits=self.product_bits,
        )


class AnalyzeSection(_Section):
    """``[analyze]``: how the loss increase of lower precision is estimated."""

    method: str = "gram"
    bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (2, 3, 4, 5, 6, 8)
    activation_bits: Annotated[tuple[Bits, ...], Field(min_length=1)] | None = None
    n_samples: Count = 256


class UniformBits(_Section):
    """``allocate.uniform``: one width for all weights and one for all activations."""

    weight: Bits
    activation: Bits


class AllocateSection(_Section):
    """``[allocate]``: either a budget (absolute, or a percentage of the float network) or uniform bits.

    Budgets of ``lut``, ``ff`` and ``latency_ns`` are absolute, for the first device and the depth of ``[hardware]``;
    ``clock_mhz`` is what nanoseconds are modelled with, without it what is assumed for the device. Networks that
    would take more than ``max_luts`` (default: the largest known part) are refused.
    """

    budget: dict[str, Annotated[float, Field(gt=0)] | Annotated[int, Field(gt=0)] | str] | None = None
    uniform: UniformBits | None = None
    clock_mhz: Positive | None = None
    max_luts: Count | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.budget is None) == (self.uniform is None):
            raise ValueError("exactly one of `budget` and `uniform`")
        if self.budget is not None and not self.budget:
            raise ValueError('a budget with at least one metric, for example budget = { size = "25%" }')
        return self


class CalibrateSection(_Section):
    """``[calibrate]``: samples that set the ranges of activations; ``refine`` chooses them by the outputs."""

    n_samples: Count = 256
    refine: bool = False


class VerifySection(_Section):
    """``[verify]``: executors compared with the reference; all test samples unless ``n_samples`` is given.

    ``limits = { verilog = 2000 }`` gives slow executors fewer samples than the others.
    """

    against: Annotated[tuple[str, ...], Field(min_length=1)] = ("exact",)
    n_samples: Count | None = None
    limits: dict[str, Count] = {}


class ExportSection(_Section):
    """``[export]``: targets to write; their ``options`` hold for the stage ``verify`` as well.

    ``options = { hls4ml = { backend = "Vitis" }, verilog = { simulator = "verilator" } }``
    """

    to: tuple[str, ...] = ("dyq",)
    options: dict[str, dict[str, Any]] = {}


class HardwareSection(_Section):
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


class CompareSection(_Section):
    """``[compare]``: uniform plans measured beside the chosen one, each calibrated and fine-tuned alike."""

    uniform_bits: tuple[Bits, ...] = ()


class AcceptSection(_Section):
    """``[accept]``: floors; a run that misses one ends with exit code 1.

    All are fractions in [0, 1], but ``max_lut``, the LUTs of the first device of ``[hardware]``.
    """

    max_drop: Fraction | None = None
    min_accuracy: Fraction | None = None
    max_size_frac: Fraction | None = None
    max_lut: Count | None = None


class Recipe(_Section):
    """A whole run as data.

    Attributes:
        name: Names the run; the default folder is ``runs/<name>``.
        seed: The only source of randomness.
        threads: Threads of torch; part of what makes float results repeatable.
        out: Run folder, relative to the current folder.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count = 2
    out: str | None = None
    data: DataSection
    model: ModelSection
    train: TrainSection = TrainSection()
    quant: QuantSection = QuantSection()
    analyze: AnalyzeSection = AnalyzeSection()
    allocate: AllocateSection
    calibrate: CalibrateSection = CalibrateSection()
    finetune: FinetuneSection = FinetuneSection()
    verify: VerifySection = VerifySection()
    export: ExportSection = ExportSection()
    hardware: HardwareSection | None = None
    compare: CompareSection = CompareSection()
    accept: AcceptSection = AcceptSection()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out) if self.out is not None else Path("runs") / self.name

    def part(self, *keys: str) -> dict[str, Any]:
        """Return some keys, ``section`` or ``section.key``, as JSON-able data: what a stage depends on."""
        wanted: dict[str, Any] = {key: True for key in keys if "." not in key}
        for section, _, key in (key.partition(".") for key in keys if "." in key):
            if wanted.setdefault(section, set()) is not True:
                wanted[section].add(key)
        return self.model_dump(mode="json", include=wanted)

    @property
    def sha256(self) -> str:
        """Hash of everything that decides the result: all but the folder it is written to."""
        text = json.dumps(self.model_dump(mode="json", exclude={"out"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe from TOML (or from the ``recipe.json`` of a run folder).

    Args:
        path: File to read. Relative ``model.weights`` are taken from its folder.
        overrides: ``section.key=value`` texts; values are TOML, or plain text where they are no TOML value.

    Raises:
        ConfigError: No such file, not TOML, or anything wrong inside; all problems are listed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        near = difflib.get_close_matches(path.name, _recipes_beside(path), n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else " Give the path of a .toml file."
        raise ConfigError(f"recipe {path}: no such file.{hint}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"recipe {path}: cannot be read: {err}. Give the path of a .toml file.") from err
    try:
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as err:
        raise ConfigError(f"recipe {path}: not valid {path.suffix[1:].upper() or 'TOML'}: {err}.") from err
    recipe = parse_recipe(data, overrides, where=str(path))
    weights = recipe.model.weights
    if weights is None:
        return recipe
    resolved = (path.parent / weights).resolve()
    if not resolved.is_file():
        raise ConfigError(f"recipe {path}: model.weights: no such file: {resolved}. Expected a safetensors file.")
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": str(resolved)})})


def _recipes_beside(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []


def parse_recipe(data: Mapping[str, Any], overrides: Iterable[str] = (), *, where: str = "recipe") -> Recipe:
    """Check recipe data and return the frozen recipe.

    Raises:
        ConfigError: Unknown keys, wrong types or impossible values; all problems are listed.

    Example:
        >>> data = {"name": "t", "data": {"name": "digits"}, "model": {"name": "m"}, "allocate": {}}
        >>> parse_recipe(data, ["allocate.budget.size=25%", "seed=3"]).allocate.budget
        {'size': '25%'}
        >>> parse_recipe({**data, "sead": 1}, ["allocate.budget.size=25%"])
        Traceback (most recent call last):
        dyadiq.core.errors.ConfigError: recipe: 1 problem.
          sead: unknown key; did you mean 'seed'?
    """
    merged = json.loads(json.dumps(data, default=str))
    for override in overrides:
        _apply(merged, override)
    try:
        recipe = Recipe.model_validate_json(json.dumps(merged))
    except ValidationError as err:
        lines = _explain(err, merged)
        plural = "" if len(lines) == 1 else "s"
        raise ConfigError("\n  ".join([f"{where}: {len(lines)} problem{plural}.", *lines])) from err
    try:
        recipe.quant.to_config()
    except ConfigError as err:
        raise ConfigError(f"{where}: 1 problem.\n  quant: {err}") from err
    return recipe


def _apply(data: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {override}: expected key=value, for example --set finetune.epochs=3.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    table = data
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {parent!r} is a value, not a section.")
    table[last] = json.loads(json.dumps(value, default=str))


def _explain(error: ValidationError, data: dict[str, Any]) -> list[str]:
    """Return one line per key: its path, what was got, what was expected, the nearest known key."""
    problems: dict[str, list[str]] = {}  # a union gives one error per member: they are joined with "or"
    got: dict[str, str] = {}
    for item in error.errors():
        keys = _key_path(item["loc"], data, missing=item["type"] == "missing")
        section, name = _section_at(keys[:-1]), keys[-1] if keys else "recipe"
        path = ".".join(keys) or "recipe"
        if item["type"] == "extra_forbidden":
            known = sorted(section.model_fields) if section is not None else []
            near = difflib.get_close_matches(name, known, n=1)
            got[path] = "unknown key"
            problems[path] = [f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."]
        elif item["type"] == "missing":
            got[path] = "missing"
            problems[path] = [f"expected {_expected(section, name)}."]
        else:
            got[path] = f"got {json.dumps(item['input'])} ({_kind(item['input'])})"
            problems.setdefault(path, []).append(_plain(item["msg"]))
    return [
        f"{path}: {got[path]}; {texts[0]}"
        if texts[0].endswith((".", "?"))
        else f"{path}: {got[path]}, expected {' or '.join(dict.fromkeys(texts))}."
        for path, texts in problems.items()
    ]


def _key_path(loc: tuple[int | str, ...], data: Any, *, missing: bool) -> list[str]:
    """Return the keys of a pydantic location: those that exist in the data (union members do not)."""
    keys = []
    for i, part in enumerate(loc):
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            data = data[part]
        if inside or (missing and i == len(loc) - 1):
            keys.append(str(part))
    return keys


def _plain(message: str) -> str:
    for prefix in ("Value error, ", "Input should be ", "a valid ", "String should match pattern "):
        if message.startswith(prefix):
            message = message.removeprefix(prefix)
            if prefix.startswith("String"):
                message = f"a text like {message}"
    return message


def _section_at(loc: list[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = Recipe
    for part in loc:
        field = model.model_fields.get(part)
        candidates = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model


def _expected(section: type[BaseModel] | None, key: str) -> str:
    field = section.model_fields.get(key) if section is not None else None
    kind = field.annotation if field is not None else None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a section with {', '.join(kind.model_fields)}"
    names = {str: "a text", int: "an integer", float: "a number"}
    return names.get(kind, "a value") if isinstance(kind, type) else "a value"


def _kind(value: object) -> Literal["a table", "an array", "a text", "a truth value", "a number", "nothing"]:
    match value:
        case dict():
            return "a table"
        case list():
            return "an array"
        case str():
            return "a text"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case _:
            return "nothing"
