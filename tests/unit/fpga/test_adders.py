"""Carry chains of ECP5: proved equal to the sum or difference, with no carry from outside and none left over."""

import json
import shutil

import pytest

from dyadiq.core.errors import ToolError
from dyadiq.fpga.adders import adder_rule, open_ends
from dyadiq.fpga.tools import find_tool, run_tool

needs_yosys = pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")

CELLS = "+/ecp5/cells_sim.v"
CASES = [(op, width, left) for op in "+-" for width in (5, 6, 9) for left in (4, width)]
# The proof leaves inputs that nothing drives free: a chain that read its first carry from outside would fail.
PROOF = """
read_verilog sums.v; proc; read_verilog -overwrite {cells};
copy {name} mapped; select mapped; techmap -map rule.v; opt_clean; select -clear
select -assert-count {count} mapped/t:CCU2C
select -assert-none mapped/t:$alu mapped/t:$add mapped/t:$sub
hierarchy; proc; flatten mapped; miter -equiv -flatten -make_assert {name} mapped proof
sat -verify -prove-asserts proof
delete mapped proof
"""


def prove(folder, rule, cases):
    """Every case by itself; raises where a proof fails."""
    texts, commands = [], []
    for k, (op, width, left) in enumerate(cases):
        texts.append(
            f"module sum{k} (input signed [{left - 1}:0] a, input signed [{width - 2}:0] b, "
            f"output signed [{width - 1}:0] y); assign y = a {op} b; endmodule\n"
        )
        steps = PROOF.format(name=f"sum{k}", count=(width + 1) // 2, cells=CELLS).strip().splitlines()
        commands += steps[1 if k else 0 :]
    (folder / "sums.v").write_text("".join(texts))
    (folder / "rule.v").write_text(rule)
    (folder / "proof.ys").write_text("\n".join(commands) + "\n")
    return run_tool([find_tool("yosys"), "-Q", "-T", "-s", "proof.ys"], folder=folder)


@needs_yosys
def test_chains_are_proved_equal_to_sums_and_differences(tmp_path):
    text = prove(tmp_path, adder_rule("ecp5"), CASES)
    assert text.count("SAT proof finished - no model found: SUCCESS!") == len(CASES)


@needs_yosys
@pytest.mark.parametrize(("right", "wrong"), [("h000B", "h000A"), ("h000F", "h0000"), ("h900A", "h900C")])
def test_proof_fails_when_the_rule_is_wrong(tmp_path, right, wrong):
    rule = adder_rule("ecp5")
    assert right in rule
    with pytest.raises(ToolError, match="proof did fail"):
        prove(tmp_path, rule.replace(right, wrong), [case for case in CASES if case[0] == "-" and case[1] == case[2]])


def carry(cin, cout):
    ports = {"CIN": "input", "COUT": "output"}
    return {"type": "CCU2C", "port_directions": ports, "connections": {"CIN": cin, "COUT": cout}}


def test_only_ends_that_nothing_drives_or_reads_are_opened(tmp_path):
    cells = {"first": carry([], [2]), "middle": carry([2], [3]), "last": carry([3], [4]), "seen": carry(["1"], [5])}
    del cells["first"]["connections"]["CIN"]
    other = {"type": "LUT4", "port_directions": {"Z": "output"}, "connections": {"Z": [9]}}
    module = {"ports": {"carry": {"direction": "output", "bits": [5]}}, "cells": {**cells, "other": other}}
    file = tmp_path / "netlist.json"
    file.write_text(json.dumps({"modules": {"network": module}}))
    assert open_ends(file) == 2
    cells["first"] = carry(["x"], [2])
    cells["last"] = carry([3], ["x"])
    assert json.loads(file.read_text())["modules"]["network"]["cells"] == {**cells, "other": other}
    assert open_ends(file) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"modules": {"network": {"cells": {"a": {}}}}}'])
def test_netlist_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "netlist.json").write_text(text)
    with pytest.raises(ToolError, match=r"yosys left no usable netlist in .*netlist\.json"):
        open_ends(tmp_path / "netlist.json")
