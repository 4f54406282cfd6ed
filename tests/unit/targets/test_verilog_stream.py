"""Target verilog_stream: line buffers, one position per clock, equal to the reference integer for integer."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from dyadiq.cli.app import app
from dyadiq.core.errors import ExportError, ToolError
from dyadiq.core.qtype import QType
from dyadiq.fpga.stream import find_unstreamable, make_pipeline
from dyadiq.ir.reference import run_reference
from dyadiq.ir.serialize import save_program
from dyadiq.targets.verify import verify
from dyadiq.targets.verilog_stream import VerilogStreamConfig, VerilogStreamTarget, _unpacked
from programs import BIPOLAR, INT4N, INT8, UINT8, ProgramBuilder, multipliers, raw_inputs

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
needs_iverilog = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
UINT4 = QType.parse("uint4")


def chain(rng):
    """Convolutions with and without padding and stride, flatten of an image, linear: a usual classifier."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.conv2d(b.input((2, 6, 7), UINT4), 3, 3, padding=1, qtype=INT4N), UINT4, multipliers(rng, 3))
    x = b.requantize(b.conv2d(x, 3, (2, 3), stride=(2, 1), padding=(0, 1), qtype=INT4N), UINT4)
    x = b.requantize(b.linear(b.flatten(x), 4, INT4N), INT8, multipliers(rng, 4))
    return b.program(b.linear(x, 3, INT4N))


def small_residual(rng):
    """A block with a strided shortcut, whose positions wait in a queue, then pools and an average; two outputs."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.conv2d(b.input((1, 8, 8), UINT4), 2, 3, padding=1, qtype=INT4N), UINT4, multipliers(rng, 2))
    y = b.requantize(b.conv2d(x, 3, 3, 2, padding=1, qtype=INT4N), UINT4, multipliers(rng, 3))
    y = b.conv2d(y, 3, 3, padding=1, qtype=INT4N)
    scale = b.scale(y) * 5.3
    y, w = b.branch(y, scale), b.branch(b.conv2d(x, 3, 1, 2, qtype=INT4N, weight_scale=b.scale(y) / b.scale(x)), scale)
    z = b.clip(b.add(y, w), UINT4, clip=(0, 11))
    pooled = b.max_pool2d(z, 2)
    again = b.requantize(b.conv2d(pooled, 3, 3, padding=1, qtype=INT4N), UINT4)
    joined = b.concat(again, b.requantize(pooled, UINT4, 3, 1))
    mean = b.requantize(b.sum_pool2d(joined), INT8, 97)
    return b.program(b.linear(b.flatten(mean), 3, INT4N), z)


def identity_block(rng):
    """Positions that arrive together and apart, a padded overlapping pool, the input read three times."""
    b = ProgramBuilder(rng)
    x = b.input((2, 5, 4), INT8)
    y = b.max_pool2d(x, 3, 1, padding=1)
    z = b.add(b.branch(y), b.branch(x), b.branch(b.conv2d(x, 2, 1, qtype=INT4N, weight_scale=1.0)))
    return b.program(b.clip(z, INT8), b.max_pool2d(x, 2, 2, ceil_mode=True))


def zero_points(rng):
    """Padding with the zero point, dilation, depthwise convolution, a padded average pool."""
    b = ProgramBuilder(rng)
    x = b.conv2d(b.input((2, 5, 5), UINT8, zero_point=131), 3, 2, padding=1, dilation=2, qtype=INT4N, asymmetric=True)
    x = b.requantize(x, UINT8, multipliers(rng, 3), 15, zero_point=77, clip=(77, 255))
    x = b.conv2d(x, 3, 3, padding=1, groups=3, qtype=INT4N, bias_bits=5)
    x = b.requantize(x, INT8, multipliers(rng, 3), 12, zero_point=-9)
    return b.program(b.clip(b.requantize(b.sum_pool2d(x, 2, 2, padding=1), UINT8, 1, 1, zero_point=100), INT8, -3))


def bipolar(rng):
    """-1/+1 codes through windows."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.conv2d(b.input((2, 4, 4), BIPOLAR), 3, 2, qtype=BIPOLAR, bias_bits=2), BIPOLAR, shift=0)
    x = b.requantize(b.linear(b.flatten(b.max_pool2d(x, 2, 1)), 5, INT4N, bias_bits=2), BIPOLAR, shift=0)
    return b.program(x)


SMALL = {f.__name__: f for f in (chain, small_residual, identity_block, zero_points, bipolar)}


@needs_iverilog
@pytest.mark.parametrize("name", SMALL)
def test_simulation_equals_reference(tmp_path, name):
    program = SMALL[name](np.random.default_rng(0))
    inputs = raw_inputs(program, np.random.default_rng(1), count=40)
    assert all((codes != codes[0]).any() for codes in run_reference(program, inputs).values())
    result = verify(program, inputs, ["verilog_stream"], chunk=40, workdir=tmp_path)["verilog_stream"]
    assert (result.mismatches, result.samples, result.exact) == (0, 40, True)


@needs_iverilog
@pytest.mark.parametrize("gaps", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_bench_passes_with_and_without_gaps_and_sees_errors(tmp_path, name, gaps):
    program = SMALL[name](np.random.default_rng(2))
    VerilogStreamTarget(VerilogStreamConfig(n_vectors=6, depth=2)).write(program, tmp_path)
    subprocess.run(["make", "bench.vvp"], cwd=tmp_path, check=True, capture_output=True)

    def bench():
        command = ["vvp", "bench.vvp", f"+gaps={gaps}"]
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60).stdout

    period = int(np.prod(next(iter(program.graph.tensors.values())).shape[1:]))
    assert f"PASS: 6 frames of {period} cycles" in bench()
    answers = tmp_path / "vectors_out_0.hex"
    lines = answers.read_text().splitlines()
    lines[-1] = f"{int(lines[-1], 16) ^ 1:x}"
    answers.write_text("\n".join(lines))
    assert "FAIL: 1 outputs of 6 frames differ" in bench()


def test_interface_says_what_a_clock_carries(tmp_path):
    program = small_residual(np.random.default_rng(0))
    VerilogStreamTarget().write(program, tmp_path)
    facts = json.loads((tmp_path / "interface.json").read_text())
    assert (facts["style"], facts["initiation_interval"]) == ("stream", 64)
    assert [(p["port"], p["shape"]) for p in facts["inputs"]] == [("in_data", [1]), ("rst", [1]), ("in_valid", [1])]
    image = facts["outputs"][2]
    assert (image["tensor_shape"], image["shape"], image["valid"]) == ([3, 4, 4], [3], "out_1_valid")
    assert facts["latency_cycles"] == max(p.get("last_cycle", 0) for p in facts["outputs"])
    assert "every 64 (the initiation interval)" in (tmp_path / "README.md").read_text()


@needs_iverilog
def test_one_frame_takes_the_stated_latency(tmp_path):
    """Counted by a bench of its own: the clock of the last valid output after the clock of the first position."""
    VerilogStreamTarget(VerilogStreamConfig(n_vectors=1)).write(chain(np.random.default_rng(0)), tmp_path)
    facts = json.loads((tmp_path / "interface.json").read_text())
    (tmp_path / "count.v").write_text("""
module count;
    reg clk = 0, rst = 1; wire valid; integer cycle = 0;
    network dut (.clk(clk), .rst(rst), .in_valid(1'b1), .in_data(8'd0), .out_0(), .out_0_valid(valid));
    initial begin
        #1 clk = 1; #1 clk = 0; rst = 0; #1;
        while (!valid) begin clk = 1; #1 clk = 0; #1 cycle = cycle + 1; end
        $display("%0d", cycle); $finish;
    end
endmodule
""")
    build = ["iverilog", "-g2005", "-s", "count", "-o", "count.vvp", "count.v", "network.v"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["vvp", "count.vvp"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) == facts["latency_cycles"]


def test_windows_keep_as_few_positions_as_they_need():
    pipeline = make_pipeline(small_residual(np.random.default_rng(0)), depth=4)
    depths = [read.depth for stage in pipeline.stages for read in stage.reads]
    # 3x3 at eight columns; 3x3 with stride; 3x3 at four columns; 1x1; queue of the shortcut, ...
    assert depths[:4] == [18, 18, 10, 0]
    assert max(depths[4:6]) > 0
    assert min(depths[4:6]) == 0


@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
def test_command_synth_counts_a_streaming_circuit(tmp_path):
    save_program(tmp_path / "p.safetensors", chain(np.random.default_rng(0)))
    arguments = ["synth", str(tmp_path / "p.safetensors"), "--target", "verilog_stream", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--family", "ice40"])
    assert result.exit_code == 0, result.output
    assert "one sample per 42 cycles" in result.output


def no_image(b):
    return b.linear(b.input((4,), INT8), 2, INT4N)


def two_images(b):
    return b.concat(b.input((1, 2, 2), INT8, scale=1.0), b.input((1, 2, 2), INT8, scale=1.0))


def overhanging(b):
    return b.max_pool2d(b.input((2, 5, 4), INT8), 3, 2, padding=1, ceil_mode=True)


def padded_signs(b):
    return b.conv2d(b.input((1, 3, 3), BIPOLAR), 1, 3, padding=1, qtype=INT4N)


def large(b):
    return b.max_pool2d(b.input((1, 200, 200), UINT4), 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (no_image, r"quantize0 \(quantize\): the input is no single image. Use target verilog"),
        (two_images, r"quantize1 \(quantize\): the input is no single image"),
        (overhanging, r"max_pool2d1 \(max_pool2d\): its windows reach so far beyond the image"),
        (padded_signs, r"conv2d1 \(conv2d\): pads -1/\+1 codes with another number"),
        (large, r"quantize0 \(quantize\): an image of more than 16,384 positions. Export to hls4ml"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_anything_is_written(tmp_path, build, message):
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(build(b))
    with pytest.raises(ExportError, match=message):
        VerilogStreamTarget().write(program, tmp_path)
    with pytest.raises(ExportError, match="the program cannot be streamed:"):
        make_pipeline(program, 4)
    assert not list(tmp_path.iterdir())


def test_large_networks_get_an_estimate_and_a_way_out():
    program = chain(np.random.default_rng(0))
    ((node, reason),) = find_unstreamable(program, max_adders=20)
    assert node.name == "linear6"
    assert re.match(r"one position of every layer needs about \d+ adders, \d+ of them here; the limit is 20", reason)


def test_missing_positions_are_noticed():
    entry = {"tensor": "y", "tensor_shape": [2, 1, 2], "type": "int4"}
    assert _unpacked(["12", "34"], entry, 1).tolist() == [[[[2, 4]], [[1, 3]]]]
    with pytest.raises(ToolError, match="put out 1 positions of 'y', too few"):
        _unpacked(["12"], entry, 1)
