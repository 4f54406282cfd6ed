"""The commands `verify` and `export` on a tiny run: integers counted, files written, and what is refused."""

import shutil

import numpy as np


def test_verify_counts_integers_of_a_run(tiny, cli, snapshot):
    _, run, _ = tiny
    snapshot(cli("verify", run, "--against", "exact", "--against", "dyq", "--n-samples", "7"), paths=((run, "<run>"),))
    found = cli("verify", run, "--against", "exact", "--json").document("dyadiq.verify/1")
    assert found["verify"]["exact"]["compared"] == 500


def test_verify_takes_options_of_its_targets(tiny, cli):
    _, run, _ = tiny
    options = ("--option", "engine.threads=2", "--option", "c.compiler=cc -O1")
    result = cli("verify", run, "--against", "engine", "--against", "c", "--n-samples", "5", *options, "--json")
    found = result.document("dyadiq.verify/1")["verify"]
    assert {name: row["mismatches"] for name, row in found.items()} == {"engine": 0, "c": 0}
    result = cli("verify", run, "--against", "exact", "--option", "engine.threads=2")
    assert result.exit_code == 2
    assert "expected TARGET.NAME=VALUE with a target of --against" in result.stderr


def test_verify_of_a_file_needs_inputs(tiny, cli, tmp_path):
    _, run, _ = tiny
    program = run / "export" / "dyq" / "program.dyq"
    result = cli("verify", program)
    assert result.exit_code == 2
    assert "a program file has no data of its own. Give --inputs FILE.npy." in result.stderr
    np.save(tmp_path / "x.npy", np.zeros((3, 16)))
    assert cli("verify", program, "--against", "exact", "--inputs", tmp_path / "x.npy").exit_code == 0
    (tmp_path / "x.npy").write_bytes(b"no array")
    result = cli("verify", program, "--inputs", tmp_path / "x.npy")
    assert result.exit_code == 2
    assert "cannot be read as .npy without pickle" in result.stderr


def test_verify_exits_with_one_when_an_exact_executor_differs(tiny, cli, monkeypatch):
    from dyadiq.targets import get_target

    _, run, _ = tiny
    honest = type(get_target("exact")).emulate
    monkeypatch.setattr(
        type(get_target("exact")), "emulate", lambda self, *a: {k: v + 1 for k, v in honest(self, *a).items()}
    )
    result = cli("verify", run, "--against", "exact", "--n-samples", "3")
    assert result.exit_code == 1
    assert "sample 0, output 'fc4' at (0,)" in " ".join(result.stdout.split())


def test_verify_exits_with_one_when_an_executor_is_not_proven(tiny, cli, tmp_path):
    recipe, _, _ = tiny
    run = tmp_path / "run"
    assert cli("quantize", recipe, "--set", f"out={run}", "--set", "quant.product_bits=62").exit_code == 0
    result = cli("verify", run, "--against", "qonnx", "--n-samples", "3")
    assert result.exit_code == 1
    assert "not proven for this program" in " ".join(result.stdout.split())
    assert "Not accepted: qonnx" in result.stdout
    found = cli("verify", run, "--against", "qonnx", "--n-samples", "3", "--json").document("dyadiq.verify/1")
    assert not found["verify"]["qonnx"]["proven"]
    assert not found["verify"]["qonnx:input"]["refusal"]


def test_export_writes_targets(tiny, cli, snapshot, tmp_path):
    _, run, _ = tiny
    result = cli("export", run, "--to", "onnx", "--to", "dyq", "--out", tmp_path / "out")
    snapshot(result, numbers=False, paths=((run, "<run>"), (tmp_path, "<tmp>")))
    program = run / "lower" / "program.safetensors"
    found = cli("export", program, "--to", "dyq", "--out", tmp_path, "--json").document("dyadiq.export/1")
    assert (tmp_path / "program.dyq").read_bytes() == (run / "export" / "dyq" / "program.dyq").read_bytes()
    assert found["files"]["dyq"] == [str(tmp_path / "program.dyq")]


def test_export_refuses_an_unknown_target(tiny, cli, tmp_path):
    _, run, _ = tiny
    result = cli("export", run, "--to", "onxx", "--out", tmp_path)
    assert result.exit_code == 2
    assert "unknown target 'onxx'; did you mean 'onnx'?" in result.stderr


def test_export_refuses_a_damaged_program(tiny, cli, tmp_path):
    _, run, _ = tiny
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "lower" / "program.safetensors").write_bytes(b"x")
    result = cli("export", tmp_path / "run", "--to", "dyq", "--out", tmp_path)
    assert result.exit_code == 2
    assert "was changed or damaged: its hash differs" in result.stderr
