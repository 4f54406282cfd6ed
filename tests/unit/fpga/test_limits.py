"""The quick guess of LUTs and the refusal that rests on it."""

import numpy as np
import pytest

from dyadiq.core.errors import ExportError, TooLargeError
from dyadiq.fpga.devices import DEVICES
from dyadiq.fpga.limits import MAX_LUTS, check_size, guess_luts
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from programs import PROGRAMS


@pytest.mark.parametrize("name", ["mlp", "pow2_cnn", "groups"])
def test_guess_is_within_a_factor_of_two(name):
    pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
    from dyadiq.fpga.estimate import estimate_hardware

    program = PROGRAMS[name](np.random.default_rng(0))
    assert 0.5 < sum(guess_luts(program).values()) / estimate_hardware(program).lut < 2.0


def test_every_operator_can_be_guessed():
    for build in PROGRAMS.values():
        program = build(np.random.default_rng(0))
        guesses = guess_luts(program)
        assert list(guesses) == [node.name for node in program.graph.nodes]
        assert min(guesses.values()) >= 0


def test_refusal_has_numbers_the_reason_and_the_alternatives():
    assert DEVICES["vu9p"].lut == MAX_LUTS
    check_size({"conv1": MAX_LUTS})
    with pytest.raises(
        TooLargeError,
        match=r"cannot be unrolled: about 1,200,000 LUTs .* 1,000,000 of them in conv2; the limit is 1,182,240 LUTs, "
        r"all that vu9p has\. Use fewer bits.*hls4ml with a reuse factor, or raise max_luts",
    ) as caught:
        check_size({"conv1": 200_000, "conv2": 1_000_000})
    assert (caught.value.luts, caught.value.max_luts) == (1_200_000, MAX_LUTS)
    assert isinstance(caught.value, ExportError)


def test_target_refuses_before_it_traces(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    with pytest.raises(TooLargeError, match="the limit is 100 LUTs"):
        VerilogTarget(VerilogConfig(max_luts=100)).write(program, tmp_path)
    assert list(tmp_path.iterdir()) == []
