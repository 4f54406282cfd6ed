"""What only a process of its own can show: start-up time, kill and resume, Ctrl-C, a full disk, lean imports."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from tiny_run import write_tiny_recipe

LONG = ("--set", "train.epochs=40", "--set", "finetune.epochs=20")


def start(*args, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from dyadiq.cli.app import main; main()", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **options)


def finish(process, timeout=120):
    stdout, stderr = process.communicate(timeout=timeout)
    return process.returncode, stdout.decode(), stderr.decode()


def wait_for(process, condition, seconds=60):
    """Wait until a condition holds; False if the process ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    raise AssertionError("the run did not get there in time")


def hashes(run):
    """Return the files of every stage that do not name their own folder."""
    records = {p.stem: json.loads(p.read_text())["files"] for p in (run / "stages").glob("*.json")}
    del records["report"]  # names the run folder
    return records


def test_help_is_quick():
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        code, stdout, _ = finish(start("--help"))
        seconds.append(time.perf_counter() - begin)
        assert code == 0
        assert "Usage: dyadiq" in stdout
    assert min(seconds) < 0.5


@pytest.mark.parametrize("args", [("--help",), ("run", "--help"), ("doctor",), ("run", "nowhere.toml")])
def test_torch_is_not_imported_when_it_is_not_needed(args):
    code = (
        "import sys\nfrom dyadiq.cli.app import app\n"
        f"try:\n    app({list(args)!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_killed_run_finishes_with_the_same_bytes(tmp_path):
    recipe = write_tiny_recipe(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, stderr = finish(start("run", recipe, "--set", f"out={whole}", *LONG))
    assert code == 0, stderr

    def checkpoint_of(stage):
        return lambda: any((killed / ".work").glob(f"{stage}-*/training.safetensors"))

    n_killed = 0
    for moment in (
        checkpoint_of("float"),
        (killed / "stages" / "float.json").exists,
        checkpoint_of("finetune"),
        (killed / "stages" / "verify.json").exists,
    ):
        process = start("run", recipe, "--set", f"out={killed}", *LONG)
        if wait_for(process, moment):
            process.send_signal(signal.SIGKILL)
            n_killed += 1
        finish(process)
    assert n_killed >= 3
    code, stdout, stderr = finish(start("run", recipe, "--set", f"out={killed}", *LONG, "--json"))
    assert code == 0, stderr
    assert "float      kept" in stderr
    assert hashes(killed) == hashes(whole)
    assert json.loads(stdout)["accepted"]
    assert not (killed / ".tmp").exists()
    assert not (killed / ".work").exists()


@pytest.mark.slow
def test_interrupted_run_exits_with_130_and_says_how_to_go_on(tmp_path):
    recipe, run = write_tiny_recipe(tmp_path), tmp_path / "run"
    process = start("run", recipe, "--set", f"out={run}", "--set", "train.epochs=100000")
    assert wait_for(process, lambda: any((run / ".work").glob("float-*/training.safetensors")))
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert code == 130
    assert stdout == ""
    assert "RunInterruptedError: interrupted during stage 'float'; finished stages are kept in" in stderr
    assert "The same command continues from here." in stderr
    assert "Traceback" not in stderr
    assert (run / "stages" / "data.json").exists()
    assert not (run / "float").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_earlier_result_is_not_shown_when_a_later_run_is_stopped(tmp_path, stop):
    recipe, run = write_tiny_recipe(tmp_path), tmp_path / "run"
    code, _, stderr = finish(start("run", recipe, "--set", f"out={run}"))
    assert code == 0, stderr
    process = start("run", recipe, "--set", f"out={run}", "--set", "finetune.epochs=100000")
    assert wait_for(process, lambda: any((run / ".work").glob("finetune-*/training.safetensors")))
    process.send_signal(stop)
    code, _, stderr = finish(process)
    assert code == (-signal.SIGKILL if stop == signal.SIGKILL else 130), stderr
    code, stdout, _ = finish(start("show", run))
    assert code == 0
    assert stdout.startswith("tiny: not finished; the same recipe continues it at stage 'finetune'")
    code, stdout, stderr = finish(start("report", run))
    assert (code, stdout) == (2, "")
    assert "the run is unfinished: stage 'finetune' has not finished for its recipe" in stderr
    assert not (run / "summary.json").exists()


@pytest.mark.slow
def test_full_disk_is_a_storage_error_and_the_run_can_be_resumed(tmp_path):
    recipe, run = write_tiny_recipe(tmp_path), tmp_path / "run"

    def limit_files():  # no file above 4 kB can be written: the same OSError as on a full disk, without root
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    code, stdout, stderr = finish(start("run", recipe, "--set", f"out={run}", preexec_fn=limit_files))
    assert code == 2, stderr
    assert stdout == ""
    assert "StorageError: stage 'float': cannot write" in stderr
    assert "the same command then continues from the stages kept in" in stderr
    assert not (run / "float").exists()
    assert not list(run.rglob("*.dyadiq-tmp"))
    code, _, stderr = finish(start("run", recipe, "--set", f"out={run}"))
    assert code == 0, stderr


def test_closed_pipe_ends_quietly():
    process = start("list")
    process.stdout.close()
    process.wait(timeout=60)
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.slow
def test_second_run_in_the_same_folder_is_refused(tmp_path):
    recipe, run = write_tiny_recipe(tmp_path), tmp_path / "run"
    first = start("run", recipe, "--set", f"out={run}", "--set", "train.epochs=100000")
    assert wait_for(first, lambda: (run / "stages" / "data.json").exists())
    code, _, stderr = finish(start("run", recipe, "--set", f"out={run}"))
    first.kill()
    finish(first)
    assert code == 2
    assert "another run is working in this folder" in stderr
