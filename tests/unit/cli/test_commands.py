"""Each command on a tiny run: exit code, stdout and stderr as in the snapshots, JSON documents with their schema."""

import json
import shutil

import numpy as np
import pytest

from dyadiq.core.errors import InfeasibleError


def test_help_lists_the_commands(cli, snapshot):
    snapshot(cli("--help"))


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "capture",
        "distill",
        "analyze",
        "allocate",
        "quantize",
        "verify",
        "export",
        "import",
        "report",
        "show",
        "synth",
        "data",
        "list",
        "doctor",
    ],
)
def test_help_of_command(cli, snapshot, command):
    result = cli(command, "--help")
    assert result.exit_code == 0
    snapshot(result)


def test_usage_error_when_command_is_unknown(cli, snapshot):
    result = cli("rnu", "recipe.toml")
    assert result.exit_code == 2
    snapshot(result)


def test_run_prints_what_happened(tiny, snapshot):
    recipe, run, result = tiny
    assert result.exit_code == 0
    snapshot(result, numbers=False, paths=((run, "<run>"), (recipe.parent, "<tmp>")))


def test_run_again_keeps_every_stage(tiny, cli):
    recipe, run, first = tiny
    again = cli("run", recipe, "--set", f"out={run}", "--resume")
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    lines = again.stderr.splitlines()[1:]
    assert [line.split()[0] for line in lines if "kept" not in line] == ["data"]


def test_run_json_is_the_document_of_the_run(tiny, cli):
    _, run, _ = tiny
    found = cli("run", run, "--json").document("dyadiq.run/1")
    assert found == json.loads((run / "summary.json").read_text())
    assert set(found["accuracy"]) == {"float", "integer"}
    assert 0.9 < found["accuracy"]["float"] <= 1
    assert found["n_eval"] == 100
    assert found["size_bytes"] == (run / "export" / "dyq" / "program.dyq").stat().st_size
    assert found["bops"] <= 0.04 * found["bops_float"]
    assert found["size_float_bytes"] == 4 * 4389
    assert found["size_bytes"] == found["costs"]["size"]
    assert found["bops"] == found["costs"]["bops"] < found["bops_float"] == 4_652_832
    assert found["plan"]["fc4"] == 16
    assert list(found["weight_bits"]) == ["fc1.weight", "fc2.weight", "fc3.weight", "fc4.weight"]
    assert found["certificate"]["gap"] == 0
    assert {n: (v["compared"], v["mismatches"]) for n, v in found["verify"].items()} == {
        "exact": (500, 0),
        "onnx": (500, 0),
    }
    assert set(found["seconds"]) >= {"float", "analyze", "allocate", "finetune", "verify", "evaluate", "report"}
    assert {"dyq", "onnx", "plan", "program"} <= set(found["artifacts"])
    assert found["accepted"]
    for path in (*found["artifacts"].values(), found["report"]):
        assert (run.parent / path).is_file()


def test_exit_code_is_one_when_a_floor_is_missed(tiny, cli):
    recipe, run, _ = tiny
    overrides = ("--set", f"out={run}", "--set", "accept.max_size_frac=0.1", "--set", "accept.min_accuracy=1.0")
    result = cli("run", recipe, *overrides)
    assert result.exit_code == 1
    assert "Not accepted: size is 0." in result.stdout
    assert "accept.max_size_frac is 0.1." in result.stdout
    found = cli("run", recipe, *overrides, "--json").document("dyadiq.run/1")
    assert not found["accepted"]
    assert cli("run", recipe, "--set", f"out={run}").exit_code == 0


def test_exit_code_is_one_when_the_budget_is_below_the_minimum(tiny, cli, tmp_path):
    recipe, run, _ = tiny
    shutil.copytree(run, tmp_path / "run")
    result = cli("run", recipe, "--set", f"out={tmp_path / 'run'}", "--set", "allocate.budget.size=1%")
    assert result.exit_code == InfeasibleError.exit_code == 1
    assert "InfeasibleError: no plan meets the budget. size: asked for at most" in result.stderr
    assert "the smallest reachable is" in result.stderr
    assert result.stdout == ""
    # The stages before it are kept, and another budget goes on from there.
    assert "kept" in cli("allocate", recipe, "--set", f"out={tmp_path / 'run'}").stderr


def test_earlier_result_is_not_taken_for_that_of_a_recipe_that_failed(tiny, cli, tmp_path):
    recipe, finished, _ = tiny
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    command = ("run", recipe, "--set", f"out={run}")
    before = (run / "summary.json").read_bytes()
    report = (run / "report" / "report.html").read_bytes()
    assert cli(*command, "--set", 'allocate.budget={ size = "1%" }').exit_code == 1
    shown = cli("show", run)
    assert shown.stdout.startswith("tiny: not finished; the same recipe continues it at stage 'allocate'\n")
    assert "accuracy" not in shown.stdout
    assert cli("show", run, "--json").document("dyadiq.unfinished-run/1")["next"] == "allocate"
    for refused in (("report", run), ("verify", run), ("export", run, "--to", "dyq", "--out", tmp_path / "out")):
        result = cli(*refused)
        assert result.exit_code == 2
        assert f"{run}: the run is unfinished: stage 'allocate' has not finished for its recipe." in result.stderr
        assert f"What an earlier recipe gave is in {run / 'previous'}." in result.stderr
    # Nothing is lost: the earlier result is set aside, and its recipe is finished again from the stages kept.
    assert not (run / "summary.json").exists()
    assert not (run / "report").exists()
    assert (run / "previous" / "summary.json").read_bytes() == before
    assert (run / "previous" / "report" / "report.html").read_bytes() == report
    again = cli(*command)
    assert again.exit_code == 0
    assert [line.split()[0] for line in again.stderr.splitlines()[1:] if "kept" not in line] == ["data", "report"]
    assert cli("show", run).exit_code == 0


def test_summary_is_refused_when_stages_are_no_longer_those_it_tells_of(tiny, cli, tmp_path):
    _, finished, _ = tiny
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    record = json.loads((run / "stages" / "lower.json").read_text())
    (run / "stages" / "lower.json").write_text(json.dumps({**record, "key": "0" * 64}))
    assert "at stage 'lower'" in cli("show", run).stdout
    result = cli("show", run / "summary.json")
    assert result.exit_code == 2
    assert "the run is unfinished: stage 'lower' has not finished for its recipe" in result.stderr


def test_report_refuses_a_damaged_stage(tiny, cli, tmp_path):
    _, finished, _ = tiny
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "evaluate" / "metrics.json").write_text("{}")
    result = cli("report", tmp_path / "run")
    assert result.exit_code == 2
    assert "metrics.json was changed or damaged: its hash differs from stages/evaluate.json" in result.stderr


def test_uniform_plan_runs_without_certificate(tiny, cli, tmp_path):
    recipe, run, _ = tiny
    shutil.copytree(run, tmp_path / "run")
    uniform = "allocate={ uniform = { weight = 8, activation = 8 } }"
    result = cli("run", recipe, "--set", f"out={tmp_path / 'run'}", "--set", uniform, "--json")
    found = result.document("dyadiq.run/1")
    assert set(found["weight_bits"].values()) == {8}
    assert found["certificate"]["gap"] is None
    assert found["bops"] == 362_784  # the golden number of W8A8


def test_run_is_refused_when_recipe_has_an_unknown_key(tiny, cli, snapshot):
    recipe, _, _ = tiny
    result = cli("run", recipe, "--set", "trian.epochs=3", "--set", "seed=x")
    assert result.exit_code == 2
    snapshot(result, paths=((recipe.parent, "<tmp>"),))


def test_error_is_one_json_document_when_json_is_asked_for(cli):
    result = cli("run", "nowhere.toml", "--json")
    found = result.document("dyadiq.error/1")
    assert (found["error"], found["exit_code"], result.exit_code) == ("ConfigError", 2, 2)
    assert "nowhere.toml: no such file" in found["message"]


def test_traceback_is_shown_only_with_debug(cli):
    assert "Traceback" not in cli("run", "nowhere.toml").stderr
    assert "Traceback" in cli("run", "nowhere.toml", "--debug").stderr


def test_run_is_refused_when_data_hold_nan(tiny, cli, tmp_path):
    recipe, _, _ = tiny
    arrays = dict(np.load(recipe.parent / "tiny.npz"))
    arrays["x_train"][3, 2] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    result = cli(
        "run", recipe, "--set", f"out={tmp_path / 'run'}", "--set", f'data.options.path="{tmp_path / "nan.npz"}"'
    )
    assert result.exit_code == 2
    assert "DataError:" in result.stderr
    assert "1 values are NaN or infinite, the first at sample" in result.stderr


def test_damaged_stage_file_is_noticed_and_made_again(tiny, cli, tmp_path):
    recipe, run, _ = tiny
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = json.loads((copy / "stages" / "capture.json").read_text())["files"]
    damaged = copy / "capture" / "graph.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    result = cli("run", recipe, "--set", f"out={copy}")
    assert result.exit_code == 0
    assert "was changed or damaged; made again" in result.stderr.replace("\n", " ")
    assert json.loads((copy / "stages" / "capture.json").read_text())["files"] == before
    assert "analyze    kept" in result.stderr


def test_foreign_folder_is_refused(tiny, cli, tmp_path):
    recipe, _, _ = tiny
    (tmp_path / "thesis.tex").write_text("x")
    result = cli("run", recipe, "--set", f"out={tmp_path}")
    assert result.exit_code == 2
    assert "not a run folder of Dyadiq; nothing was touched" in result.stderr


@pytest.mark.parametrize(
    ("stage", "schema"),
    [
        ("capture", "dyadiq.graph/1"),
        ("analyze", "dyadiq.sensitivity/1"),
        ("allocate", "dyadiq.plan/1"),
        ("quantize", "dyadiq.program/1"),
    ],
)
def test_stage_command_shows_its_result(tiny, cli, snapshot, stage, schema):
    _, run, _ = tiny
    result = cli(stage, run)
    assert result.exit_code == 0
    snapshot(result, numbers=False, paths=((run, "<run>"),))
    cli(stage, run, "--json").document(schema)


def test_distill_command_takes_the_defaults_of_its_section(tiny, cli, tmp_path):
    recipe, _, _ = tiny
    options = ("--set", f"out={tmp_path / 'run'}", "--set", "train.epochs=1", "--set", "model.args.batch_norm=true")
    result = cli("distill", recipe, *options)
    assert result.exit_code == 0, result.stderr
    assert "zero-shot: 128 distilled inputs, seed 0" in result.stdout
    assert "bn3.running_mean" in result.stdout
    payload = cli("distill", recipe, *options, "--json").document("dyadiq.distilled/1")["payload"]
    assert len(payload["history"]) == 40


@pytest.mark.parametrize(
    "file",
    ["float/weights.safetensors", "export/dyq/program.dyq", "summary.json", "quantize/module.safetensors", ""],
)
def test_show_prints_text_and_json(tiny, cli, file):
    _, run, _ = tiny
    text = cli("show", run / file)
    assert text.exit_code == 0, text.stderr
    assert len(text.stdout.splitlines()) > 5
    assert json.loads(cli("show", run / file, "--json").stdout)["schema"].startswith("dyadiq.")


def test_show_tells_of_an_unfinished_run(tiny, cli, tmp_path):
    recipe, _, _ = tiny
    assert cli("capture", recipe, "--set", f"out={tmp_path / 'run'}").exit_code == 0
    result = cli("show", tmp_path / "run")
    assert result.stdout.startswith("tiny: not finished; the same recipe continues it")
    found = cli("show", tmp_path / "run", "--json").document("dyadiq.unfinished-run/1")
    assert set(found["seconds"]) == {"data", "float", "capture"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "damaged or cut short, or not a Dyadiq file"),
        (b'{"a": 1}', "no Dyadiq artifact"),
        (b'{"a": 1}', "(show prints run folders, .dyq files, and files of: graph, program, plan"),
        (b'{"schema": 3, "payload": 1}', "no Dyadiq artifact"),
        (b'{"schema": "dyadiq.stage/1", "files": {}}', "a file of schema 'dyadiq.stage/1', which show does not print"),
        (b'{"schema": "dyadiq.plan/9", "payload": {"formats": {}}}', "was written by a newer Dyadiq"),
        (b'{"schema": "dyadiq.plan/9", "payload": 1, "sha256": "ab"}', "was written by a newer Dyadiq"),
        (b'{"schema": "dyadiq.plan/1", "payload": 1, "sha256": "ab"}', "does not match its hash"),
        (b'{"schema": "dyadiq.run/2"}', "written by a newer Dyadiq; this one reads 'dyadiq.run/1'"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_show_refuses_what_is_not_ours(cli, tmp_path, content, message, options):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content)
    result = cli("show", file, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_show_reads_the_schemas_that_are_written():
    from dyadiq.cli.commands import show
    from dyadiq.core import store
    from dyadiq.ir import serialize
    from dyadiq.pipeline import sources, summary
    from dyadiq.quant import store as quant_store
    from dyadiq.train import checkpoint
    from dyadiq.zero_shot import store as zero_shot_store

    written = {store.PLAN_SCHEMA, store.COST_SCHEMA, store.FACTS_SCHEMA, store.SENSITIVITY_SCHEMA}
    written |= {serialize.GRAPH_SCHEMA, serialize.PROGRAM_SCHEMA, sources.STATE_SCHEMA, summary.SUMMARY_SCHEMA}
    assert set(show._SHOWERS) == written | {quant_store.SCHEMA, checkpoint.SCHEMA, zero_shot_store.SCHEMA}


def test_report_is_written_again(tiny, cli, tmp_path):
    _, run, _ = tiny
    result = cli("report", run, "--out", tmp_path / "r.html")
    assert result.stdout == f"{tmp_path / 'r.html'}\n"
    assert (tmp_path / "r.html").read_text().startswith("<!")
    cli("report", run, "--out", tmp_path / "r.html", "--json").document("dyadiq.report/1")


def test_report_needs_a_finished_run(tiny, cli, tmp_path):
    _, run, _ = tiny
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "stages" / "verify.json").unlink()
    result = cli("report", tmp_path / "run")
    assert result.exit_code == 2
    assert "stage 'verify' has not finished" in result.stderr
    assert "not a run folder" in cli("report", tmp_path).stderr


KINDS = ("targets", "methods", "reconstructions", "costs", "models", "datasets", "stages", "devices", "estimators")


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_every_entry(cli, kind):
    result = cli("list", kind, "--json")
    entries = result.document("dyadiq.list/1")["entries"]
    assert entries
    assert all(e["kind"] == kind and e["about"] and e["file"].startswith("dyadiq/") for e in entries)
    assert all(e["name"] in cli("list", kind).stdout for e in entries)


def test_list_without_kind_has_all_kinds(cli):
    entries = cli("list", "--json").document("dyadiq.list/1")["entries"]
    assert {e["kind"] for e in entries} == set(KINDS)
