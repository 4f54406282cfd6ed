import subprocess
import sys

PROGRAM = """
import ctypes, os, sys
from dyadiq.allocation.native_output import native_stdout_to_stderr
libc = ctypes.CDLL(None)
if sys.argv[1] == "closed":
    os.close(1)
with native_stdout_to_stderr():
    libc.printf(b"chatter\\n")
if sys.argv[1] == "open":
    print("result")
"""


def test_c_output_goes_to_stderr_when_the_solver_chatters():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "open"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("result\n", "chatter\n")


def test_nothing_happens_when_stdout_is_closed():
    subprocess.run([sys.executable, "-c", PROGRAM, "closed"], capture_output=True, text=True, check=True)
