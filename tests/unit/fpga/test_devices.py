"""Device files and utilisation."""

from types import SimpleNamespace

import pytest

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.fpga.devices import DEVICES, find_device, utilisation
from dyadiq.fpga.synth import FAMILIES


def counts(family="xcup", lut=0, ff=0, carry=0, dsp=0):
    return SimpleNamespace(family=family, lut=lut, ff=ff, carry=carry, dsp=dsp, kind="synthesised")


@pytest.mark.parametrize("name", DEVICES)
def test_device_files_are_complete(name):
    device = DEVICES[name]
    assert device.name == name
    assert device.family in FAMILIES
    assert min(device.lut, device.ff, device.bram, device.clock_mhz) > 0
    assert device.part in device.about


def test_unknown_device_is_refused_with_the_list():
    with pytest.raises(UnknownNameError, match=r"unknown device 'hx8'; did you mean 'hx8k'.*xc7z020"):
        find_device("hx8")


def test_circuit_fits_until_a_resource_runs_out():
    exact = utilisation(counts(lut=70_560, ff=14_112), "zu3eg")
    assert exact.fits
    assert (exact.lut.frac, exact.ff.frac, exact.dsp.frac) == (1.0, 0.1, 0.0)
    assert not utilisation(counts(lut=70_561), "zu3eg").fits
    assert not utilisation(counts(ff=141_121), "zu3eg").fits


def test_resource_that_the_part_lacks_does_not_fit():
    use = utilisation(counts("ice40", dsp=1), "hx8k")
    assert use.dsp.frac == float("inf")
    assert not use.fits


def test_carries_of_ecp5_occupy_luts():
    assert utilisation(counts("ecp5", lut=100, carry=50), "ecp5-85").lut.used == 200
    assert utilisation(counts("xcup", lut=100, carry=50), "vu9p").lut.used == 100


def test_counts_of_another_family_are_refused():
    assert utilisation(counts("xcup", lut=1), "xc7z020").fits
    with pytest.raises(ConfigError, match=r"of family 'xcup', the part is of 'ice40'. Synthesise for ice40"):
        utilisation(counts("xcup"), "hx8k")


def test_json_holds_shares():
    data = utilisation(counts(lut=7056), "zu3eg").to_json()
    assert data["fits"] is True
    assert data["lut"] == {"used": 7056, "available": 70_560, "frac": 0.1}
