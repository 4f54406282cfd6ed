"""Doctor: every finding that is not fine comes with what to do."""

import json
import shutil

import pytest

from dyadiq.cli.commands import doctor
from dyadiq.core import native as native_parts


def findings(cli):
    result = cli("doctor", "--json")
    found = json.loads(result.stdout)
    assert found["schema"] == "dyadiq.doctor/1"
    return result.exit_code, {f["what"]: f for f in found["findings"]}


def test_doctor_is_content_in_the_environment_of_the_tests(cli):
    code, found = findings(cli)
    assert code == 0
    assert {found[n]["status"] for n in ("Python", "torch", "numpy", "onnx", "onnxruntime", "current folder")} == {"ok"}
    assert "Dyadiq can work here." in cli("doctor").stdout


def test_everything_that_is_missing_has_a_line_to_run(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setenv("DYADIQ_DATA", str(tmp_path / "nowhere"))
    code, found = findings(cli)
    assert code == 0  # all of these are optional
    missing = [f for f in found.values() if f["status"] != "ok"]
    tools = {"iverilog", "verilator", "yosys", "nextpnr-ice40", "nextpnr-ecp5"}
    assert tools <= {f["what"] for f in missing}
    assert found["yosys"]["advice"] == "for LUT and flip-flop counts: apt-get install yosys"
    assert found["nextpnr-ecp5"]["advice"] == "for the clock on ECP5: pip install 'dyadiq[ecp5]'"
    assert {"chromium", "iverilog", "yosys", "C++ compiler", "DYADIQ_DATA"} <= {f["what"] for f in missing}
    assert all(f["advice"] for f in missing)


def test_optional_package_is_missing(cli, monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "qonnx" else known(name))
    code, found = findings(cli)
    assert code == 0
    assert found["qonnx"]["advice"] == "for target qonnx: pip install 'dyadiq[onnx]'"


@pytest.mark.skipif(native_parts.native_state().module is None, reason="native code was not built")
def test_kernels_of_the_engine_are_named(cli, monkeypatch):
    def finding():
        return {f["what"]: f for f in json.loads(cli("doctor", "--json").stdout)["findings"]}["engine kernels"]

    monkeypatch.setenv("DYADIQ_ISA", "portable")
    assert finding()["found"].startswith("portable, of portable")
    monkeypatch.setenv("DYADIQ_ISA", "z80")
    assert finding()["status"] == "missing"
    assert "unknown instruction set 'z80'" in finding()["advice"]


def test_native_code_is_missing_when_it_was_not_built(cli, monkeypatch):
    monkeypatch.setattr(native_parts, "native_state", lambda: native_parts.NativeState(None, "not built"))
    code, found = findings(cli)
    assert code == 0  # numpy does the same work
    assert found["native code"]["status"] == "missing"
    assert found["native code"]["found"] == "not built"
    assert "with a C++ compiler, pip install dyadiq again" in found["native code"]["advice"]


@pytest.mark.parametrize("name", ["da4ml", "hls4ml"])
def test_package_for_hardware_is_missing(cli, monkeypatch, name):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda wanted: None if wanted == name else known(wanted))
    assert findings(cli)[1][name]["advice"].endswith("pip install 'dyadiq[fpga]'")


def test_required_package_is_missing(cli, monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scipy" else known(name))
    code, found = findings(cli)
    assert code == 1
    assert found["scipy"] == {"what": "scipy", "status": "broken", "found": "-", "advice": "pip install scipy"}
    assert "Dyadiq cannot work here: 1 broken." in cli("doctor").stdout


def test_onnx_whose_files_onnxruntime_refuses_is_broken(cli, monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.23.0" if name == "onnx" else known(name))
    code, found = findings(cli)
    assert code == 1
    assert "pip install 'onnx<1.23'" in found["onnx"]["advice"]


@pytest.mark.parametrize(("value", "status"), [("here", "ok"), ("nowhere", "missing")])
def test_data_folder_is_checked(cli, monkeypatch, tmp_path, value, status):
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("DYADIQ_DATA", str(tmp_path / value))
    assert findings(cli)[1]["DYADIQ_DATA"]["status"] == status


def test_folder_that_cannot_be_written_is_broken(cli, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    code, found = findings(cli)
    assert code == 1
    assert found["current folder"]["advice"] == "run in a folder you may write to"


def test_old_python_is_broken(cli, monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10))
    assert findings(cli)[1]["Python"]["advice"] == "install Python 3.11 or newer"
