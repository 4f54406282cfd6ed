"""The stages on a tiny run: what each leaves, which changes reach it, and what it refuses."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dyadiq.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    MissingToolError,
    RunInterruptedError,
    UnknownNameError,
)
from dyadiq.core.store import load_plan, load_table
from dyadiq.ir.reference import run_reference
from dyadiq.ir.serialize import load_program
from dyadiq.pipeline import stages
from dyadiq.pipeline.run import open_run, run_recipe
from dyadiq.pipeline.stages import STAGES
from dyadiq.pipeline.store import RunFolder
from dyadiq.quant.store import load_quant_module
from dyadiq.recipe import Recipe, load_recipe
from dyadiq.targets import get_target
from dyadiq.zoo import build_model
from tiny_run import write_tiny_recipe

FAST = ("train.epochs=2", "finetune.epochs=1")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


def run(path, out, *overrides, until=None):
    return run_recipe(load_recipe(path, [*FAST, *overrides, f"out={out}"]), until=until)


@pytest.fixture(scope="module")
def finished(path, tmp_path_factory):
    return run(path, tmp_path_factory.mktemp("runs") / "run")


def test_stages_come_after_their_inputs_and_name_recipe_sections():
    seen = set()
    for stage in STAGES:
        assert set(stage.inputs) <= seen, stage.name
        assert {key.partition(".")[0] for key in stage.sections} <= set(Recipe.model_fields), stage.name
        seen.add(stage.name)
    assert len(seen) == len(STAGES)


def test_every_recipe_section_decides_some_stage():
    used = {key.partition(".")[0] for stage in STAGES if stage.name != "report" for key in stage.sections}
    assert set(Recipe.model_fields) - used == {"seed", "threads", "out", "accept"}


def test_test_split_is_read_where_results_are_measured_and_nowhere_else():
    folder = Path(stages.__file__).parent
    readers = {
        file.stem
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "test"
    }
    assert readers == {"data", "verify", "evaluate", "compare", "imported"}


def test_integer_accuracy_is_that_of_the_reference(finished, path):
    arrays = np.load(path.parent / "tiny.npz")
    program = load_program(finished.folder / "lower" / "program.safetensors")
    data = json.loads((finished.folder / "data" / "data.json").read_text())["preprocessing"]
    x = ((arrays["x_test"].astype(np.float64) - data["mean"]) / data["std"]).astype(np.float32)
    (codes,) = run_reference(program, x).values()
    assert finished.summary["accuracy"]["integer"] == (codes.argmax(1) == arrays["y_test"]).mean()


def test_program_says_where_it_comes_from(finished):
    provenance = load_program(finished.folder / "lower" / "program.safetensors").provenance
    assert provenance["recipe"] == "tiny"
    assert provenance["bits"] == finished.summary["plan"]
    assert provenance["data_sha256"] in finished.summary["provenance"]["data"]


def test_run_stops_after_the_stage_asked_for(path, tmp_path):
    result = run(path, tmp_path / "run", until="capture")
    assert result.summary is None
    assert not (result.folder / "analyze").exists()
    with pytest.raises(UnknownNameError, match="unknown stage 'captur'; did you mean 'capture'"):
        run(path, tmp_path / "run", until="captur")


def test_interruption_between_stages_says_where(path, tmp_path):
    def stop(event):
        if (event.stage, event.status) == ("float", "done"):
            raise KeyboardInterrupt

    recipe = load_recipe(path, [*FAST, f"out={tmp_path / 'run'}"])
    with pytest.raises(
        RunInterruptedError, match=r"after stage 'float'; .* kept in .*run\. The same command continues"
    ):
        run_recipe(recipe, listener=stop)
    assert run_recipe(recipe, until="float").kept == ("float",)


class Interrupting:
    """Progress that counts the steps of one label, and raises Ctrl-C at one of them."""

    def __init__(self, label, at=None):
        self.label, self.at, self.n_steps, self.counting = label, at, 0, False

    def start(self, label, total):
        self.counting = label == self.label

    def advance(self, steps=1, note=""):
        self.n_steps += self.counting
        if self.counting and self.n_steps == self.at:
            raise KeyboardInterrupt

    def finish(self):
        self.counting = False


def test_interrupted_analysis_goes_on_inside_the_stage_to_the_same_table(path, tmp_path):
    options = [*FAST, "analyze.method=eigenvalue", "analyze.bits=[4]", "analyze.activation_bits=[8]"]
    whole = run(path, tmp_path / "whole", *options, until="analyze").folder
    recipe = load_recipe(path, [*options, f"out={tmp_path / 'run'}"])
    with pytest.raises(RunInterruptedError, match=r"interrupted during stage 'analyze'; .*The same command continues"):
        run_recipe(recipe, until="analyze", progress=Interrupting("largest eigenvalues", at=4))
    pieces = tmp_path / "run" / ".work"
    kept = {file: file.stat().st_mtime_ns for file in pieces.rglob("largest_eigenvalues_*.safetensors")}
    assert len(kept) == 4
    with pytest.raises(RunInterruptedError):
        run_recipe(recipe, until="analyze", progress=Interrupting("largest eigenvalues", at=6))
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())  # Read, not made again.
    assert run_recipe(recipe, until="analyze").kept == ("float", "capture", "distill")
    table = Path("analyze", "sensitivity.safetensors")
    assert (tmp_path / "run" / table).read_bytes() == (whole / table).read_bytes()


def test_analysis_stops_by_the_regret_of_the_budget(path, tmp_path):
    options = ["analyze.stop=regret", "analyze.n_samples=320", "analyze.max_regret=0.9"]
    folder = run(path, tmp_path / "run", *options, until="allocate").folder
    table = load_table(folder / "analyze" / "sensitivity.safetensors")
    assert table.n_samples == 128
    assert table.notes[-1].startswith("128 of 320 samples taken: the plan is within")
    told = float(table.notes[-1].split("within ")[1].split(" %")[0])
    stability = load_plan(folder / "allocate" / "plan.json").stability
    assert 100 * stability.regret_p95_frac == pytest.approx(told, rel=0.06)
    with pytest.raises(ConfigError, match=r"analyze\.budget: unknown cost metric 'lut'"):
        run(path, tmp_path / "other", *options, "analyze.budget.lut=300", until="analyze")


def test_summary_is_set_aside_when_only_the_recipe_changes(finished, path, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(finished.folder, moved)
    run(path, moved, "allocate.budget={ size = '90%' }", until="capture")
    assert not (moved / "summary.json").exists()
    assert json.loads((moved / "previous" / "summary.json").read_text()) == finished.summary


def test_summary_is_set_aside_when_the_data_became_unusable(finished, path, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(finished.folder, moved)
    recipe = load_recipe(path, [*FAST, f"out={moved}"])
    options = {"path": str(tmp_path / "gone.npz")}
    with pytest.raises(DataError):
        run_recipe(recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": options})}))
    assert not (moved / "summary.json").exists()


def test_threads_of_torch_are_as_before(path, tmp_path):
    before = torch.get_num_threads()
    run(path, tmp_path / "run", f"threads={before + 1}", until="data")
    assert torch.get_num_threads() == before


def test_global_random_state_is_left_alone(path, tmp_path):
    before = torch.random.get_rng_state()
    run(path, tmp_path / "run", until="lower")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_given_weights_are_used_and_watched(path, tmp_path):
    weights = tmp_path / "w.safetensors"
    save_file(build_model("jet_tagger", seed=7).state_dict(), weights)
    override = f'model.weights="{weights}"'
    first = run(path, tmp_path / "run", override, until="capture")
    assert "history" not in json.loads((first.folder / "float" / "training.json").read_text())
    assert run(path, tmp_path / "run", override, until="capture").kept == ("float", "capture")
    save_file(build_model("jet_tagger", seed=8).state_dict(), weights)
    assert run(path, tmp_path / "run", override, until="capture").kept == ()


@pytest.mark.parametrize(
    ("state", "error", "match"),
    [
        (lambda s: {**s, "fc1.weight": s["fc1.weight"][:3].clone()}, ConfigError, "(?s)does not fit .*fc1.weight"),
        (
            lambda s: {k: v for k, v in s.items() if k != "fc4.bias"},
            ConfigError,
            "(?s)does not fit .*fc4.bias",
        ),
        (lambda s: {**s, "fc2.bias": s["fc2.bias"] * torch.nan}, ArtifactError, "'fc2.bias' hold NaN or infinity"),
        (None, ArtifactError, "cannot be read"),
    ],
)
def test_weights_are_refused_when_they_do_not_fit(path, tmp_path, state, error, match):
    weights = tmp_path / "w.safetensors"
    if state is None:
        weights.write_bytes(b"pickle?")
    else:
        save_file(state(build_model("jet_tagger").state_dict()), weights)
    with pytest.raises(error, match=match):
        run(path, tmp_path / "run", f'model.weights="{weights}"', until="float")


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("model.name=jet_taggr", "model.name: unknown model 'jet_taggr'; did you mean 'jet_tagger'"),
        ("data.name=npy", "data.name: unknown data set 'npy'; did you mean 'npz'"),
        ("analyze.method=grm", "analyze.method: unknown method 'grm'; did you mean 'gram'"),
        ("allocate.budget={ sise = 1 }", "allocate.budget: unknown cost metric 'sise'; did you mean 'size'"),
        ("verify.against=['exakt']", "verify.against: unknown target 'exakt'; did you mean 'exact'"),
        ("verify.if_available=['engin']", "verify.if_available: unknown target 'engin'; did you mean 'engine'"),
        ("export.to=['onxx']", "export.to: unknown target 'onxx'; did you mean 'onnx'"),
        ("allocate.budget={ size = 'abc' }", "allocate.budget size: not an amount: 'abc'. Give a number in byte"),
        ("allocate.budget={ bops = '3kB' }", "allocate.budget bops: '3kB' ends in 'kB', which is no suffix of bop"),
        ("allocate.budget={ size = '0%' }", "allocate.budget size: must be above zero, got '0%'"),
        ("model.args={ widht = 3 }", "model: model 'jet_tagger': got an unexpected keyword argument 'widht'. It takes"),
        ('model.args={ seed = "x" }', "model.args.seed: got 'x', expected an integer"),
        ("model.name='no.such:model'", "model: model 'no.such:model': cannot import 'no.such'"),
        ("data.options={ pth = 3 }", "data.options: data set 'npz': missing .*'path'. It takes seed, data_dir, path"),
        ("data.options.pth=3", "data.options: data set 'npz': got an unexpected keyword argument 'pth'. It takes"),
        (
            "quant.weight={ granularity = 'group', group_size = 24 }",
            "(?s)4 problems.*quant.weight: fc1.weight: group_size must divide the 16 .* fc2.weight: .*the 64",
        ),
    ],
)
def test_what_registries_refuse_is_refused_before_anything_runs(path, tmp_path, override, match):
    with pytest.raises(ConfigError, match=match):
        run(path, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_all_unknown_names_are_listed(path, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(path, tmp_path / "run", "analyze.method=grm", "export.to=['onxx', 'dyq', 'qonx']", "model.args={ a = 1 }")
    first, *others = str(caught.value).splitlines()
    assert (first, len(others)) == ("recipe 'tiny': 4 problems.", 4)


def test_difference_between_executors_is_written_down_and_refused(path, tmp_path, monkeypatch):
    honest = type(get_target("exact")).emulate

    def wrong(self, *arguments):
        codes = honest(self, *arguments)
        return {name: value + (value == value.max()) for name, value in codes.items()}

    monkeypatch.setattr(type(get_target("exact")), "emulate", wrong)
    summary = run(path, tmp_path / "run").summary
    assert summary["verify"]["exact"]["mismatches"] >= 1
    assert not summary["accepted"]
    assert summary["refusals"][0].startswith("exact differs from the reference in")
    assert (tmp_path / "run" / "report" / "report.html").is_file()


def test_executor_that_this_machine_lacks_is_written_down_and_others_are_compared(path, tmp_path):
    options = ("verify.if_available=['c', 'dyq']", "export.options={ c = { compiler = 'no-such-compiler' } }")
    summary = run(path, tmp_path / "run", *options).summary
    assert list(summary["verify"]) == ["exact", "onnx", "c", "dyq"]
    assert summary["verify"]["c"]["compared"] == 0
    assert "not compared: the program 'no-such-compiler' is not installed" in summary["verify"]["c"]["kind"]
    assert (summary["verify"]["dyq"]["samples"], summary["verify"]["dyq"]["missing"]) == (100, "")
    assert summary["accepted"]
    report = " ".join((tmp_path / "run" / "report" / "report.html").read_text().split())
    assert "gave the same integers in all 3 exact executors" in report
    with pytest.raises(MissingToolError, match="no-such-compiler"):
        run(path, tmp_path / "strict", "verify.against=['c']", *options)


def test_executor_that_is_not_proven_is_refused_with_what_to_do(path, tmp_path):
    summary = run(path, tmp_path / "run", "verify.against=['qonnx']", "quant.product_bits=62").summary
    found = summary["verify"]["qonnx"]
    assert (found["exact"], found["proven"]) == (True, False)
    assert summary["refusals"] == [found["refusal"]]
    assert "Set quant.product_bits = 24" in found["refusal"]
    assert not summary["accepted"]
    assert "not proven for this program" in (tmp_path / "run" / "report" / "report.html").read_text()


def test_uniform_plans_are_measured_beside_the_chosen_one(path, tmp_path):
    summary = run(path, tmp_path / "run", "compare.uniform_bits=[8, 4]").summary
    eight, four = summary["uniform"]
    assert (eight["label"], eight["bops"]) == ("W8A8", 362_784)
    assert four["size_bytes"] < eight["size_bytes"]
    assert 0 <= four["accuracy"] <= 1


def test_weights_of_few_digits_are_told_by_document_and_report(path, tmp_path):
    options = ("finetune.epochs=2", "finetune.sparsify.digits_per_weight=0.5", "calibrate.refine=true")
    result = run(path, tmp_path / "run", *options)
    layers = result.summary["layers"]
    n_weights = [1024, 2048, 1024, 160]
    mean = np.average([layer["digits_per_weight"] for layer in layers], weights=n_weights)
    assert 0 < round(mean, 4) <= 0.5  # the document rounds
    assert all(0.2 < layer["zero_weights_frac"] < 1 for layer in layers)
    assert [v["mismatches"] for v in result.summary["verify"].values()] == [0, 0]
    history = json.loads((result.folder / "finetune" / "training.json").read_text())["history"]
    assert "digits_per_weight" in history[-1]
    share = f"<td>{100 * layers[0]['zero_weights_frac']:.2f} %</td>"
    assert share in (result.folder / "report" / "report.html").read_text()


def test_network_is_quantized_block_by_block_by_the_estimator_of_the_recipe(path, tmp_path):
    options = ("finetune.epochs=4", "finetune.blockwise_frac=0.5", 'finetune.estimator="lsq"')
    folder = run(path, tmp_path / "run", *options, until="finetune").folder
    history = json.loads((folder / "finetune" / "training.json").read_text())["history"]
    assert [record["blocks"] for record in history] == [2, 3, 4, 4]
    module = load_quant_module(folder / "finetune" / "module.safetensors")
    assert module.estimator.name == "log_lsq"  # What was learned is written back.
    assert all(quantizer.enabled for quantizer in module.quantizers_by_name().values())


def test_predicted_size_is_the_size_on_disk(finished):
    size = (finished.folder / "export" / "dyq" / "program.dyq").stat().st_size
    assert finished.summary["costs"]["size"] == finished.summary["size_bytes"] == size


def test_run_folder_brings_its_recipe(finished, path):
    folder, recipe = open_run(finished.folder)
    assert folder.path == finished.folder
    assert recipe == load_recipe(path, [*FAST, f"out={finished.folder}"])
    with pytest.raises(ConfigError, match="not a run folder"):
        open_run(path.parent)


def test_moved_run_folder_is_still_whole(finished, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished.folder, moved)
    _, recipe = open_run(moved)
    result = run_recipe(recipe)
    assert result.folder == moved
    assert set(result.kept) == {stage.name for stage in STAGES} - {"data"}
    assert RunFolder(moved).is_run()


@pytest.mark.slow
@pytest.mark.parametrize(("freeze", "moves"), [(None, False), (0, False), (1, True)])
def test_batch_norms_learn_until_they_are_frozen_when_the_recipe_names_an_epoch(path, tmp_path, freeze, moves):
    live = [] if freeze is None else [f"finetune.freeze_bn_epoch={freeze}"]
    options = ("model.args={ batch_norm = true }", "finetune.epochs=2", *live)
    folder = run(path, tmp_path / "run", *options, until="finetune").folder
    means = [
        load_quant_module(folder / stage / "module.safetensors").state_dict()["bn1.running_mean"]
        for stage in ("quantize", "finetune")
    ]
    assert torch.equal(*means) is not moves
