"""Recipes: a TOML file that says everything about a run, read into frozen models.

Used by the pipeline and the command line. Knows the names of sections and keys and their types; the meaning
of most values (which methods, targets, models exist) is checked by the module that owns them.
An unknown key, a wrong type or an impossible value is a `ConfigError` that lists every problem at once.

The sections are in `recipe_sections`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from dyadiq.core.errors import ConfigError
from dyadiq.recipe_sections import (
    AcceptSection,
    AllocateSection,
    AnalyzeSection,
    CalibrateSection,
    CompareSection,
    Count,
    DataSection,
    DistillSection,
    ExportSection,
    FinetuneSection,
    HardwareSection,
    ModelSection,
    QuantSection,
    ReconstructSection,
    Section,
    TrainSection,
    VerifySection,
)

__all__ = ["AcceptSection", "HardwareSection", "Recipe", "VerifySection", "load_recipe", "onnx_recipe", "parse_recipe"]


class Recipe(Section):
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
    distill: DistillSection | None = None
    calibrate: CalibrateSection = CalibrateSection()
    reconstruct: ReconstructSection = ReconstructSection()
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
        path: File to read. Relative ``model.weights`` and ONNX files are taken from its folder.
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
    files = {"weights": (recipe.model.weights, "a safetensors file")}
    if recipe.model.name.endswith(".onnx"):
        files["name"] = (recipe.model.name, "an ONNX file")
    found = {}
    for key, (given, kind) in files.items():
        if given is None:
            continue
        resolved = (path.parent / given).resolve()
        if not resolved.is_file():
            raise ConfigError(f"recipe {path}: model.{key}: no such file: {resolved}. Expected {kind}.")
        found[key] = str(resolved)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=found)}) if found else recipe


def _recipes_beside(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []


def onnx_recipe(path: Path, data: str | None, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe of a float network that is an ONNX file: not trained, 25 % of its size, calibrated.

    Args:
        path: The file.
        data: Name of a data set, or an ``.npz`` file; None: what the overrides say.
        overrides: As of `load_recipe`.

    Raises:
        ConfigError: No such file, no data, or anything wrong in the overrides.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".onnx", prefix="net") as file:
        ...     recipe = onnx_recipe(Path(file.name), "digits")
        >>> recipe.data.name, recipe.allocate.budget, recipe.finetune.epochs
        ('digits', {'size': '25%'}, 0)
    """
    if not path.is_file():
        raise ConfigError(f"model {path}: no such file. Give the path of an ONNX file.")
    overrides = tuple(overrides)
    if data is None and not any(text.startswith("data.name") for text in overrides):
        raise ConfigError(
            f"model {path}: an ONNX file holds no data, and choosing bits needs samples. Give --data: the name of a "
            "data set, or an .npz file with x_train, y_train, x_test, y_test."
        )
    section = {"name": "npz", "options": {"path": data}} if data and data.endswith(".npz") else {"name": data or ""}
    document = {
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).lstrip("_.-") or "net",
        "data": section,
        "model": {"name": str(path.resolve())},
        "analyze": {"bits": [2, 3, 4, 6, 8], "activation_bits": [8]},
        "allocate": {"budget": {"size": "25%"}},
        "finetune": {"epochs": 0},
        "verify": {"against": ["exact"], "if_available": ["onnx", "c", "engine"]},
        "export": {"to": ["dyq", "engine"]},
    }
    return parse_recipe(document, overrides, where=str(path))


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
    return _with_budget_of_the_decision(recipe, where)


def _with_budget_of_the_decision(recipe: Recipe, where: str) -> Recipe:
    """Return the recipe with the budget that `analyze` stops by; none where it does not: it must not depend on it.

    Raises:
        ConfigError: It stops by a budget, and there is none.
    """
    section = recipe.analyze
    budget = section.budget or recipe.allocate.budget if section.stop == "regret" else None
    if section.stop == "regret" and budget is None:
        raise ConfigError(
            f"{where}: 1 problem.\n  analyze.stop: 'regret' is that of a decision, but [allocate] has no budget. Give "
            'one, or stop = "samples".'
        )
    return recipe.model_copy(update={"analyze": section.model_copy(update={"budget": budget})})


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
