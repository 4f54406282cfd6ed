"""A run on jets that its recipe names: what later stages depend on is the jets, not where they lie."""

import json
from pathlib import Path

from dyadiq.pipeline.run import run_recipe
from dyadiq.recipe import load_recipe
from dyadiq.zoo.jets_published import convert_jets
from published_jets import jets, write_arff

RECIPE = Path(__file__).parents[3] / "recipes" / "jets.toml"


def data_of_run(out, jets_path):
    recipe = load_recipe(RECIPE, [f"data.options.path={jets_path}", f"out={out}"])
    run_recipe(recipe, until="data")
    return (out / "data" / "data.json").read_bytes()


def test_recipe_takes_published_and_converted_jets_alike(tmp_path):
    source = write_arff(tmp_path / "a.arff", *jets(400))
    convert_jets(source, tmp_path / "converted")
    first = data_of_run(tmp_path / "one", source)
    assert first == data_of_run(tmp_path / "two", tmp_path / "converted")
    assert json.loads(first)["n"] == {"train": 288, "validation": 32, "test": 80}


def test_other_jets_in_the_same_place_change_what_stages_depend_on(tmp_path):
    write_arff(tmp_path / "a.arff", *jets(400))
    before = data_of_run(tmp_path / "run", tmp_path / "a.arff")
    assert before == data_of_run(tmp_path / "run", tmp_path / "a.arff")
    write_arff(tmp_path / "a.arff", *jets(400, seed=1))
    assert before != data_of_run(tmp_path / "run", tmp_path / "a.arff")
