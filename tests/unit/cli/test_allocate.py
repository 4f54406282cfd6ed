"""Budgets given to ``dyadiq allocate`` instead of the recipe's."""

import pytest

from dyadiq.cli.commands.stages import _with_budget
from dyadiq.core.errors import ConfigError
from dyadiq.recipe import load_recipe, parse_recipe
from tiny_run import write_tiny_recipe


def test_budget_replaces_that_of_the_recipe_and_uniform_bits(tmp_path):
    recipe = load_recipe(write_tiny_recipe(tmp_path))
    assert _with_budget(recipe, ("lut=8000", "latency_ns = 90")).allocate.budget == {"lut": "8000", "latency_ns": "90"}
    data = recipe.model_dump(mode="json")
    data["allocate"] |= {"budget": None, "uniform": {"weight": 4, "activation": 4}}
    uniform = parse_recipe(data)
    changed = _with_budget(uniform, ("size=25%",))
    assert (changed.allocate.budget, changed.allocate.uniform) == ({"size": "25%"}, None)
    assert changed.part("data", "model", "quant") == recipe.part("data", "model", "quant")


@pytest.mark.parametrize("text", ["lut", "=8000", "lut="])
def test_budget_that_is_no_pair_is_refused(cli, tmp_path, text):
    recipe = load_recipe(write_tiny_recipe(tmp_path))
    with pytest.raises(ConfigError, match=r"expected METRIC=AMOUNT, for example --budget lut=8000"):
        _with_budget(recipe, (text,))
    assert cli("allocate", tmp_path / "tiny.toml", "--budget", text).exit_code == 2


def test_unknown_device_is_refused_with_the_list(cli, tmp_path):
    result = cli("allocate", write_tiny_recipe(tmp_path), "--budget", "lut=8000", "--device", "vu9")
    assert result.exit_code == 2
    assert "unknown device 'vu9'; did you mean 'vu9p'" in result.stderr.replace("\n", " ")
