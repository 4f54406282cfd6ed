"""Target `c`: compiled by the system's compiler and by those of other machines, every integer that of the reference."""

import shutil
import subprocess

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, DataError, ExportError, MissingToolError, ToolError
from dyadiq.core.qtype import QType
from dyadiq.ir.reference import run_reference
from dyadiq.targets import get_target
from dyadiq.targets.c_kernels import KERNELS
from dyadiq.targets.verify import verify
from embedded import NETWORKS, embedded
from programs import PROGRAMS, ProgramBuilder, raw_inputs

STRICT = "-O2 -Wall -Wextra -pedantic -Werror"
COMPILERS = {
    "host": (f"cc {STRICT} -fsanitize=undefined,address -fno-sanitize-recover", ""),
    "aarch64": (f"aarch64-linux-gnu-gcc {STRICT} -static", "qemu-aarch64"),
    # qemu's user mode runs no Cortex-M; its instructions, without the registers of floats, on a larger core of 32 bits.
    "thumb": (f"arm-none-eabi-gcc {STRICT} -mthumb -mcpu=cortex-a7 -mfloat-abi=soft --specs=rdimon.specs", "qemu-arm"),
}


def target(machine, **options):
    compiler, runner = COMPILERS[machine]
    for tool in (compiler, runner):
        if tool and not shutil.which(tool.split()[0]):
            pytest.skip(f"{tool.split()[0]} is not installed")
    return get_target("c").configured(compiler=compiler, runner=runner, **options)


def assert_equal(program, inputs, chosen, folder):
    chosen.write(program, folder)
    found, expected = chosen.emulate(folder, inputs), run_reference(program, inputs)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert np.array_equal(found[name], wanted), name


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_feature_equals_the_reference(name, tmp_path):
    rng = np.random.default_rng(3)
    program = PROGRAMS[name](rng)
    assert_equal(program, raw_inputs(program, rng, count=5), target("host"), tmp_path)


@pytest.mark.parametrize("machine", COMPILERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_the_reference_on_every_machine(name, machine, tmp_path):
    program, inputs = embedded(name)
    n_samples = 2 if machine == "host" or name != "cnn" else 1
    few = {key: values[:n_samples].astype(np.float64) for key, values in inputs.items()}
    assert_equal(program, few, target(machine, prefix="net"), tmp_path)


@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4"])
def test_firmware_needs_nothing_but_memcpy_and_arithmetic(cpu, tmp_path):
    if not shutil.which("arm-none-eabi-gcc"):
        pytest.skip("arm-none-eabi-gcc is not installed")
    program, _ = embedded("digits")
    get_target("c").write(program, tmp_path)
    object_file = tmp_path / "program.o"
    flags = ["-std=c99", "-Os", "-ffreestanding", "-mthumb", f"-mcpu={cpu}", "-c"]
    subprocess.run(["arm-none-eabi-gcc", *flags, tmp_path / "program.c", "-o", object_file], check=True)
    told = subprocess.run(["arm-none-eabi-nm", "-u", object_file], check=True, capture_output=True, text=True).stdout
    needed = set(told.replace("U ", "").split())
    assert {name for name in needed if not name.startswith("__")} <= {"memcpy"}  # __aeabi_*: the compiler's own
    sizes = subprocess.run(["arm-none-eabi-size", object_file], check=True, capture_output=True, text=True).stdout
    assert sizes.splitlines()[1].split()[1:3] == ["0", "0"]  # data, bss: all of its memory is the caller's


def test_only_the_kernels_that_are_called_are_written(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    source, header, main = get_target("c").write(program, tmp_path)
    text = source.read_text()
    assert [name for name in KERNELS if f" {name}(" in text] == ["quantize", "give"]
    assert (source.name, header.name, main.name) == ("program.c", "program.h", "main.c")
    assert "malloc" not in text


def test_inputs_of_float32_are_the_default(tmp_path):
    program, inputs = embedded("jets")
    get_target("c").write(program, tmp_path)
    binary = tmp_path / "run"
    subprocess.run(["cc", "-std=c99", tmp_path / "program.c", tmp_path / "main.c", "-o", binary], check=True)
    ((name, x),) = inputs.items()
    told = subprocess.run([binary], input=x.tobytes(), capture_output=True, check=True).stdout
    (expected,) = run_reference(program, {name: x}).values()
    assert np.array_equal(np.frombuffer(told, dtype=np.int32).reshape(expected.shape), expected)


def test_verify_runs_it():
    program, inputs = embedded("jets")
    result = verify(program, inputs, against="c")["c"]
    assert (result.mismatches, result.samples, result.exact, result.note) == (0, 24, True, "")


def test_what_it_cannot_hold_is_named():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.linear(b.input((3,), QType.parse("int16")), 2, QType.parse("int24"))
    with pytest.raises(ExportError, match=r"linear1 \(linear\): its codes leave 32 bits. Use fewer output bits"):
        get_target("c").check(b.program(x))


def test_bad_options_files_and_inputs_are_refused(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    with pytest.raises(ConfigError, match="must be a name of C, got '1st'"):
        get_target("c").configured(prefix="1st")
    with pytest.raises(ArtifactError, match=r"there is no file .*program\.c"):
        get_target("c").emulate(tmp_path, {})
    get_target("c").write(program, tmp_path)
    with pytest.raises(DataError, match="NaN or infinite"):
        get_target("c").emulate(tmp_path, {"x0": np.full((1, 16), np.inf)})
    with pytest.raises(DataError, match="the artifact has inputs"):
        get_target("c").emulate(tmp_path, {"y": np.zeros((1, 16))})
    missing = get_target("c").configured(compiler="no-such-cc -O2")
    assert missing.check(program) == ["it cannot be compiled here: there is no no-such-cc"]
    with pytest.raises(MissingToolError, match="no-such-cc"):
        missing.emulate(tmp_path, {"x0": np.zeros((1, 16))})
    with pytest.raises(ToolError, match="fast-math"):
        get_target("c").configured(compiler="cc -ffast-math").emulate(tmp_path, {"x0": np.zeros((1, 16))})
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    with pytest.raises(ArtifactError, match="was not written by this version"):
        get_target("c").emulate(tmp_path, {"x0": np.zeros((1, 16))})
