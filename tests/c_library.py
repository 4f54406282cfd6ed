"""Programs in C and C++ that use the engine's library: how tests compile the guide's own, and what they print."""

import re
import subprocess
from pathlib import Path

import numpy as np

from dyadiq.engine import library_folder

ROOT = Path(__file__).parents[1]
HEADERS = ROOT / "native/engine"
GUIDE = ROOT / "docs/howto/c-library.md"


def compiled(source, out, suffix, *flags, library=None):
    """A program in C or C++, linked with the installed library and its headers, or with another one."""
    headers, library = (
        (library_folder(), library_folder() / "libdyadiq_engine.a") if library is None else (HEADERS, library)
    )
    (out.with_suffix(suffix)).write_text(source)
    compiler = ["cc", "-std=c11"] if suffix == ".c" else ["c++", "-std=c++17"]
    subprocess.run(
        [*compiler, *flags, "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", headers, out.with_suffix(suffix),
         library, "-lstdc++", "-lm", "-lpthread", "-o", out],
        check=True,
    )  # fmt: skip
    return out


def guide(language):
    """The program of the guide to the library."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return found


def worth(program, expected):
    """Codes as the reference has them, and their real values in float32."""
    pairs = []
    for name, codes in expected.items():
        info = program.graph.tensors[name]
        real = ((codes[0] - info.zero_point) * np.reshape(info.scale, (-1, *[1] * (codes.ndim - 2)))).astype(np.float32)
        pairs += zip(codes.ravel().tolist(), real.ravel().tolist(), strict=True)
    return pairs


def outputs(binary, program, sample, threads="1"):
    """Codes and their real values, as the guide's program prints them."""
    told = subprocess.run([binary, program, sample, threads], check=True, capture_output=True, text=True).stdout
    return [(int(code), float(np.float32(value))) for code, value in map(str.split, told.splitlines())]
