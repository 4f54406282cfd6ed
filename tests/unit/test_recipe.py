"""Recipes: everything wrong is named at once, with key path, what was got, what was expected, and the nearest key."""

import dataclasses
import json
from pathlib import Path

import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.recipe import Recipe, load_recipe, parse_recipe
from dyadiq.train import TrainConfig
from dyadiq.train.sparsify_config import SparsifyConfig

MINIMAL = {"name": "t", "data": {"name": "digits"}, "model": {"name": "m"}, "allocate": {"budget": {"size": "25%"}}}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def refusal(data, *overrides):
    with pytest.raises(ConfigError) as caught:
        parse_recipe(data, overrides)
    return str(caught.value)


def test_minimal_recipe_has_defaults():
    recipe = parse_recipe(MINIMAL)
    assert recipe.seed == 0
    assert recipe.folder == Path("runs/t")
    assert recipe.quant.to_config() == QuantConfig()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipe_is_valid_and_named_like_its_file(path):
    assert load_recipe(path).name == path.stem


def test_shipped_recipes_exist():
    assert {"digits", "jets"} <= {p.stem for p in RECIPES}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sead": 1}, "sead: unknown key; did you mean 'seed'?"),
        ({"train": {"epoch": 3}}, "train.epoch: unknown key; did you mean 'epochs'?"),
        ({"quant": {"weight": {"granularty": "tensor"}}}, "granularty: unknown key; did you mean 'granularity'?"),
        ({"zzz": 1}, "zzz: unknown key; known here: accept, allocate, analyze,"),
        ({"seed": "x"}, 'seed: got "x" (a text), expected integer.'),
        ({"seed": 1.5}, "seed: got 1.5 (a number), expected integer."),
        ({"seed": True}, "seed: got true (a truth value), expected integer."),
        ({"seed": -1}, "seed: got -1 (a number), expected greater than or equal to 0."),
        ({"data": 3}, "data: got 3 (a number), expected"),
        ({"data": {}}, "data.name: missing; expected a text."),
        ({"train": {"epochs": 0}}, "train.epochs: got 0 (a number), expected greater than or equal to 1."),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: got NaN (a number), expected a finite"),
        ({"train": {"optimizer": "adm"}}, "train.optimizer: got \"adm\" (a text), expected 'adam', 'adamw' or 'sgd'."),
        ({"analyze": {"bits": [2, 30]}}, "analyze.bits.1: got 30 (a number), expected less than or equal to 16."),
        ({"analyze": {"bits": []}}, "analyze.bits: got [] (an array), expected"),
        ({"analyze": {"bits": 4}}, "analyze.bits: got 4 (a number), expected"),
        ({"allocate": {}}, "allocate: got {} (a table), expected exactly one of `budget` and `uniform`."),
        ({"allocate": {"budget": {}}}, "expected a budget with at least one metric"),
        ({"allocate": {"budget": {"size": -1}}}, "allocate.budget.size: got -1 (a number), expected greater than 0"),
        ({"allocate": {"uniform": {"weight": 8}}}, "allocate.uniform.activation: missing; expected an integer."),
        ({"name": "a b"}, 'name: got "a b" (a text), expected a text like'),
        ({"accept": {"max_drop": 2}}, "accept.max_drop: got 2 (a number), expected less than or equal to 1."),
        (
            {"finetune": {"sparsify": {"lut": 9, "digits_per_weight": 0.5}}},
            'finetune.sparsify: got {"lut": 9, "digits_per_weight": 0.5} (a table), expected exactly one of `lut` and '
            "`digits_per_weight`, for example lut = 8000.",
        ),
        (
            {"finetune": {"sparsify": {"digits_per_weight": 1, "input_grids": True}}},
            "expected `lut` where `input_grids`",
        ),
        ({"finetune": {"sparsify": {}}}, "finetune.sparsify: got {} (a table), expected exactly one of `lut` and"),
        ({"finetune": {"sparsify": {"luts": 9, "lut": 9}}}, "finetune.sparsify.luts: unknown key; did you mean 'lut'?"),
        ({"finetune": {"sparsify": {"lut": 9, "start_frac": 0.8}}}, "expected start_frac to be at most end_frac."),
        ({"finetune": {"epochs": 0, "sparsify": {"lut": 9}}}, "expected epochs of at least 1 for [finetune.sparsify]"),
        ({"finetune": {"teacher_views": "mirror"}}, "expected `distill = true` where `teacher_views` are asked for"),
        ({"quant": {"activation": {"granularity": "channel"}}}, "quant: activations have one scale per tensor"),
        ({"quant": {"weight": {"granularity": "group"}}}, "quant: Format: group_size goes with granularity 'group'"),
    ],
)
def test_problem_is_explained_when_a_value_is_wrong(change, line):
    message = refusal({**MINIMAL, **change})
    assert message.startswith("recipe: 1 problem.\n  ")
    assert line in message


def test_all_problems_are_listed_when_there_are_several():
    message = refusal({**MINIMAL, "sead": 1, "seed": "x", "train": {"epochs": None, "epoch": 1}})
    assert message.startswith("recipe: 4 problems.")
    assert len(message.splitlines()) == 5


def test_missing_sections_are_named():
    message = refusal({})
    assert "data: missing; expected a section with name, options." in message
    assert "allocate: missing; expected a section with budget, uniform, clock_mhz, max_luts, refine." in message


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=3", lambda r: r.seed == 3),
        ("train.learning_rate=1e-2", lambda r: r.train.learning_rate == 0.01),
        ("allocate.budget.size=10%", lambda r: r.allocate.budget == {"size": "10%"}),
        ('allocate.budget={ bops = "4%", size = 9000 }', lambda r: r.allocate.budget == {"bops": "4%", "size": 9000}),
        ("allocate={ uniform = { weight = 4, activation = 6 } }", lambda r: r.allocate.uniform.activation == 6),
        ("analyze.bits=[2, 4]", lambda r: r.analyze.bits == (2, 4)),
        ("model.args.width=4", lambda r: r.model.args == {"width": 4}),
        ("out=elsewhere", lambda r: r.folder == Path("elsewhere")),
        ("finetune.distill=true", lambda r: r.finetune.distill),
        ("quant.input_bits=0", lambda r: r.quant.to_config().input_bits is None),
    ],
)
def test_override_sets_a_value_of_its_toml_type(override, read):
    assert read(parse_recipe(MINIMAL, [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: expected key=value, for example"),
        ("=3", "--set =3: expected key=value"),
        ("seed.more=3", "--set seed.more=3: 'seed' is a value, not a section."),
        ("seed=ten", 'seed: got "ten" (a text), expected integer.'),
        ("trian.epochs=3", "trian: unknown key; did you mean 'train'?"),
    ],
)
def test_override_is_refused_when_it_makes_no_sense(override, message):
    assert message in refusal({**MINIMAL, "seed": 0}, override)


def test_recipe_data_are_not_changed_by_overrides():
    data = json.loads(json.dumps(MINIMAL))
    parse_recipe(data, ["allocate.budget.size=10%"])
    assert data == MINIMAL


def test_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(MINIMAL).seed = 3


def test_missing_file_names_a_near_one(tmp_path):
    (tmp_path / "digits.toml").write_text("")
    with pytest.raises(ConfigError, match=r"digit\.toml: no such file\. Did you mean .*digits\.toml\?"):
        load_recipe(tmp_path / "digit.toml")
    with pytest.raises(ConfigError, match=r"no such file\. Give the path of a \.toml file"):
        load_recipe(tmp_path / "nowhere" / "x.toml")


def test_folder_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "r.toml")


def test_broken_toml_says_where(tmp_path):
    (tmp_path / "r.toml").write_text('name = "x\n')
    with pytest.raises(ConfigError, match=r"r\.toml: not valid TOML: .*line 1"):
        load_recipe(tmp_path / "r.toml")


def test_weights_are_found_beside_the_recipe(tmp_path):
    text = (
        'name="t"\n[data]\nname="digits"\n[model]\nname="m"\nweights="w.safetensors"\n[allocate]\nbudget={size="9%"}\n'
    )
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"model\.weights: no such file: .*w\.safetensors"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert load_recipe(tmp_path / "r.toml").model.weights == str(tmp_path / "w.safetensors")


def test_recipe_survives_its_own_json(tmp_path):
    recipe = parse_recipe(MINIMAL, ["seed=5", "analyze.bits=[2, 8]"])
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    assert load_recipe(tmp_path / "recipe.json") == recipe


def test_hash_changes_with_the_content_and_not_with_the_folder():
    base = parse_recipe(MINIMAL).sha256
    assert parse_recipe(MINIMAL, ["out=x"]).sha256 == base
    assert parse_recipe(MINIMAL, ["seed=1"]).sha256 != base


def test_train_section_has_the_fields_and_defaults_of_train_config():
    recipe = parse_recipe(MINIMAL)
    finetune_only = {
        "distill_weight",
        "temperature",
        "teacher_views",
        "freeze_bn_epoch",
        "scale_rate_frac",
        "estimator",
        "range_decay",
    }
    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"seed"}
    assert set(type(recipe.train).model_fields) == fields - finetune_only
    assert set(type(recipe.finetune).model_fields) == fields | {"distill", "sparsify", "blockwise_frac", "real_data"}
    assert TrainConfig(**recipe.train.model_dump()) == TrainConfig()
    tuned = recipe.finetune.model_dump(exclude={"distill", "epochs", "sparsify", "blockwise_frac", "real_data"})
    assert TrainConfig(**tuned) == TrainConfig()


def test_sparsify_section_has_the_fields_and_defaults_of_its_config():
    assert parse_recipe(MINIMAL).finetune.sparsify is None
    section = parse_recipe(MINIMAL, ["finetune.sparsify.lut=8000"]).finetune.sparsify
    assert SparsifyConfig(**section.model_dump()) == SparsifyConfig(lut=8000)
    section = parse_recipe(MINIMAL, ["finetune.sparsify={ digits_per_weight = 1, saliency = 'magnitude' }"])
    assert section.finetune.sparsify.model_dump(exclude_defaults=True) == {
        "digits_per_weight": 1.0,
        "saliency": "magnitude",
    }


def test_ranges_are_refined_when_the_recipe_says_so():
    assert not parse_recipe(MINIMAL).calibrate.refine
    assert parse_recipe(MINIMAL, ["calibrate.refine=true"]).calibrate.refine


def test_quant_sections_have_the_fields_of_format_and_quant_config():
    sections = Recipe.model_fields["quant"].annotation.model_fields
    assert set(sections) == {f.name for f in dataclasses.fields(QuantConfig)}
    formats = sections["weight"].annotation.model_fields
    assert set(formats) == {f.name for f in dataclasses.fields(Format)} - {"bits"}


def test_analysis_depends_on_the_budget_only_where_it_stops_by_it():
    plain = parse_recipe(MINIMAL, ["allocate.budget.size=20%"])
    assert plain.analyze.budget is None
    assert plain.part("analyze") == parse_recipe(MINIMAL, ["allocate.budget.size=30%"]).part("analyze")
    assert parse_recipe(MINIMAL, ["analyze.budget.bits=3"]).analyze.budget is None
    stopping = parse_recipe(MINIMAL, ["analyze.stop=regret"])
    assert stopping.analyze.budget == stopping.allocate.budget
    assert parse_recipe(MINIMAL, ["analyze.stop=regret", "analyze.budget.bits=3"]).analyze.budget == {"bits": 3}
    data = {**MINIMAL, "allocate": {"uniform": {"weight": 4, "activation": 8}}}
    with pytest.raises(ConfigError, match=r"analyze\.stop: 'regret' is that of a decision, but \[allocate\] has no"):
        parse_recipe(data, ["analyze.stop=regret"])
