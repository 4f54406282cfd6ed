"""What a measured number depends on: machine, load, threads, versions, commit. Used by every script of this folder."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("dyadiq", "torch", "numpy", "scipy", "onnx", "onnxruntime", "qonnx", "scikit-learn", "da4ml", "hls4ml")


def environment():
    """Return a JSON object; the load average is that of the moment of the call."""
    return {
        "cpu": _cpu_model(),
        "n_cpus": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        # Files that could change a number and are not as committed.
        "uncommitted": _git("status", "--porcelain", "--", "src", "recipes", "benchmarks/*.py").splitlines(),
    }


def _cpu_model():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*words):
    """Return what git says, or an empty text outside a checkout."""
    try:
        done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
