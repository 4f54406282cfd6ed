"""Runs with ``[distill]``: what stands in for training samples, where it goes, and what is refused."""

import json

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.core.store import load_plan, load_table
from dyadiq.ir.serialize import load_graph
from dyadiq.pipeline.run import run_recipe
from dyadiq.quant.quantize import quantize
from dyadiq.quant.store import load_quant_module
from dyadiq.recipe import load_recipe, parse_recipe
from dyadiq.zero_shot import distill
from dyadiq.zero_shot.store import load_distilled
from tiny_run import write_tiny_recipe

FAST = (
    "train.epochs=2",
    "finetune.epochs=0",
    "model.args={ batch_norm = true }",
    "distill={ n_images = 70, steps = 5 }",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


def run(path, out, *overrides, until=None):
    return run_recipe(load_recipe(path, [*FAST, *overrides, f"out={out}"]), until=until)


@pytest.fixture(scope="module")
def finished(path, tmp_path_factory):
    return run(path, tmp_path_factory.mktemp("runs") / "run")


def test_sensitivities_and_ranges_come_from_distilled_inputs(finished):
    folder = finished.folder
    graph = load_graph(folder / "capture" / "graph.safetensors")
    made = load_distilled(folder / "distill" / "distilled.safetensors")
    assert np.array_equal(made.images, distill(graph, 70, steps=5).images)
    table = load_table(folder / "analyze" / "sensitivity.safetensors")
    assert (table.n_samples, table.notes[1]) == (70, made.summary)
    recipe = load_recipe(folder / "recipe.json")
    plan = load_plan(folder / "allocate" / "plan.json")
    expected = quantize(graph, plan, made, config=recipe.quant.to_config()).activation_quants()
    got = load_quant_module(folder / "quantize" / "module.safetensors").activation_quants()
    assert {n: (q.scale, q.zero_point) for n, q in got.items()} == {
        n: (q.scale, q.zero_point) for n, q in expected.items()
    }


def test_document_and_report_tell_of_them(finished):
    summary = finished.summary
    assert summary["distilled"]["n"] == 70
    assert summary["distilled"]["summary"] == summary["provenance"]["calibration"]
    assert summary["artifacts"]["distilled"].endswith("distill/distilled.safetensors")
    record = json.loads((finished.folder / "stages" / "distill.json").read_text())
    assert set(record["files"]) == {"distilled.json", "distilled.safetensors"}
    text = (finished.folder / "report" / "report.html").read_text()
    assert summary["distilled"]["summary"] in text
    assert "<img" not in text  # features are no pictures


def test_the_float_model_is_kept_when_only_the_section_changes(finished, path):
    kept = run(path, finished.folder, "distill.steps=6", until="distill").kept
    assert {"float", "capture"} <= set(kept)
    assert "distill" not in kept


def test_training_samples_are_read_without_the_section(path, tmp_path):
    recipe = load_recipe(path, [*FAST[:3], f"out={tmp_path / 'run'}"])
    folder = run_recipe(recipe, until="analyze").folder
    assert json.loads((folder / "distill" / "distilled.json").read_text()) is None
    assert load_table(folder / "analyze" / "sensitivity.safetensors").n_samples == 64


def test_network_without_batch_norm_is_refused_before_it_is_trained(path, tmp_path):
    with pytest.raises(ConfigError, match=r"distill: model 'jet_tagger' has no batch norm.*Leave \[distill\] out: a"):
        run(path, tmp_path / "run", "model.args={ batch_norm = false }")
    assert not (tmp_path / "run").exists()


def test_fine_tuning_on_training_samples_must_be_asked_for(path, tmp_path):
    with pytest.raises(ConfigError, match=r"\[distill\] takes the place .* for 3 epochs\. Say finetune\.epochs = 0"):
        run(path, tmp_path / "run", "finetune.epochs=3", until="finetune")
    assert not (tmp_path / "run").exists()
    recipe = load_recipe(path, [*FAST, "finetune.epochs=1", "finetune.real_data=true", f"out={tmp_path / 'run'}"])
    trained = run_recipe(recipe, until="finetune").folder / "finetune" / "training.json"
    assert len(json.loads(trained.read_text())["history"]) == 1


def test_wrong_values_are_refused_by_the_recipe(path):
    data = json.loads(load_recipe(path).model_dump_json())
    with pytest.raises(ConfigError, match=r"distill\.n_images"):
        parse_recipe(data, ["distill={ n_images = 1 }"])
    found = parse_recipe(data, ["distill={ input_mean = [0.5, 1], input_range = [-2, 2.5] }"]).distill
    assert (found.input_mean, found.input_range) == ((0.5, 1.0), (-2.0, 2.5))
