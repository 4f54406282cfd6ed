"""Budgets given to ``dyadiq allocate`` instead of the recipe's."""

import pytest

from dyadiq.cli.commands.run import with_budget
from dyadiq.cli.commands.stages import _refined
from dyadiq.core.errors import ConfigError
from dyadiq.core.native import native_state
from dyadiq.core.store import load_plan
from dyadiq.recipe import load_recipe, parse_recipe
from dyadiq.recipe_sections import RefineSection
from tiny_run import write_tiny_recipe


def test_budget_replaces_that_of_the_recipe_and_uniform_bits(tmp_path):
    recipe = load_recipe(write_tiny_recipe(tmp_path))
    assert with_budget(recipe, ("lut=8000", "latency_ns = 90")).allocate.budget == {"lut": "8000", "latency_ns": "90"}
    data = recipe.model_dump(mode="json")
    data["allocate"] |= {"budget": None, "uniform": {"weight": 4, "activation": 4}}
    uniform = parse_recipe(data)
    changed = with_budget(uniform, ("size=25%",))
    assert (changed.allocate.budget, changed.allocate.uniform) == ({"size": "25%"}, None)
    assert changed.part("data", "model", "quant") == recipe.part("data", "model", "quant")


@pytest.mark.parametrize("text", ["lut", "=8000", "lut="])
def test_budget_that_is_no_pair_is_refused(cli, tmp_path, text):
    recipe = load_recipe(write_tiny_recipe(tmp_path))
    with pytest.raises(ConfigError, match=r"expected METRIC=AMOUNT, for example --budget lut=8000"):
        with_budget(recipe, (text,))
    assert cli("allocate", tmp_path / "tiny.toml", "--budget", text).exit_code == 2


def test_unknown_device_is_refused_with_the_list(cli, tmp_path):
    result = cli("allocate", write_tiny_recipe(tmp_path), "--budget", "lut=8000", "--device", "vu9")
    assert result.exit_code == 2
    assert "unknown device 'vu9'; did you mean 'vu9p'" in result.stderr.replace("\n", " ")


def test_refine_measures_plans_and_says_what_changed(cli, tmp_path):
    recipe = write_tiny_recipe(tmp_path)
    with recipe.open("a") as file:
        file.write("\n[allocate.refine]\nn_samples = 40\nn_guard = 30\n")
    sets = ("train.epochs=2", "analyze.activation_bits=[8]", f"out={tmp_path / 'run'}")
    shown = cli("allocate", recipe, *(f"--set={text}" for text in sets), "--budget", "bits=3", "--refine")
    assert shown.exit_code == 0, shown.stderr
    change = load_plan(tmp_path / "run" / "allocate" / "plan.json").refinement
    words = " ".join(shown.stdout.split())
    assert f"refined from that plan by {change.n_measured} measured plans: " in words
    assert all(f"{name} {was} → {now}" in words for name, (was, now) in change.changes.items())


def test_refine_takes_the_recipes_section_or_its_defaults_and_refuses_uniform_bits(tmp_path):
    recipe = load_recipe(write_tiny_recipe(tmp_path))
    assert _refined(recipe).allocate.refine == RefineSection()
    own = load_recipe(tmp_path / "tiny.toml", ["allocate.refine={ n_guard = 9 }"])
    assert _refined(own).allocate.refine == RefineSection(n_guard=9)
    uniform = load_recipe(tmp_path / "tiny.toml", ["allocate={ uniform = { weight = 4, activation = 8 } }"])
    with pytest.raises(ConfigError, match="a `budget` where `refine` is asked for"):
        _refined(uniform)


@pytest.mark.skipif(native_state().module is None, reason=f"the engine was not built: {native_state().found}")
def test_latency_budget_is_in_microseconds_and_says_how_it_was_measured(cli, tmp_path):
    recipe = write_tiny_recipe(tmp_path)
    sets = ("train.epochs=2", "analyze.activation_bits=[8]", f"out={tmp_path / 'run'}")
    shown = cli("allocate", recipe, *(f"--set={text}" for text in sets), "--budget", "latency_us=900")
    assert shown.exit_code == 0, shown.stderr
    plan = load_plan(tmp_path / "run" / "allocate" / "plan.json")
    assert [(b.metric, b.limit, b.unit) for b in plan.budgets] == [("latency_us", 900_000, "ns")]
    words = " ".join(shown.stdout.split())
    assert f"latency_us was measured on {plan.provenance['measured']['latency_us']['cpu']}: least times" in words
    assert (tmp_path / "run" / "cache" / "latency_us.json").is_file()
    nothing = cli("allocate", recipe, *(f"--set={text}" for text in sets), "--budget", "latency_us=1ns")
    assert nothing.exit_code == 1
    assert "latency_us: asked for at most 1 ns ('1ns'), the smallest reachable is" in " ".join(nothing.stderr.split())
