"""The report: what it says, that it stands alone, and that a browser renders it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dyadiq.core.tables import Spectrum
from dyadiq.report import render_report, write_report
from dyadiq.report.pictures import image_grid
from dyadiq.report.spectra import eigenvalues_per_decade
from report_sample import sample_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_verdict_says_accuracy_size_and_equality_in_one_sentence():
    verdict = sample_report().verdict()
    assert "classifies 98.52 % of 539 test samples (-0.37 points against float)" in verdict
    assert "5,936 bytes (12.9 % of float32)" in verdict
    assert "the same integers in all 3 exact executors" in verdict


def test_verdict_tells_of_mismatches_when_there_are_any():
    assert "differed in 7 integers" in sample_report(mismatches=7).verdict()
    assert '<td class="bad">7</td>' in render_report(sample_report(mismatches=7))


def test_report_says_so_when_an_executor_is_not_proven():
    report = sample_report(proven=False)
    assert "the same integers in all 3 exact executors, not proven for qonnx." in report.verdict()
    text = render_report(report)
    assert '<td class="bad">must be equal; not proven for this program</td>' in text
    assert "Not accepted:</span> qonnx is not proven for this program" in text
    assert "Not accepted" not in render_report(sample_report())


def test_report_stands_alone_and_is_small(tmp_path):
    path = write_report(sample_report(distilled=True), tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 2_000_000
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#|data:image/png)', text)
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text


def test_same_results_give_the_same_bytes():
    assert render_report(sample_report()) == render_report(sample_report())


def test_names_from_outside_are_escaped():
    assert "<b>x</b>" not in render_report(sample_report(name="<b>x</b>"))


def test_every_decision_layer_and_executor_is_shown():
    text = render_report(sample_report())
    for name in (
        "layer1.0.conv2",
        "fc:out",
        "certified Pareto front",
        "uniform",
        "qonnx",
        "fc.weight from 6 to 8 bits",
    ):
        assert name in text
    assert "proven optimal" in text


def test_hardware_is_shown_with_its_kinds_shares_and_seeds():
    text = render_report(sample_report(hardware=True))
    for words in (
        "hx8k (iCE40HX8K)",
        "<td>placed</td>",
        "<td>modelled</td>",
        "6,161 of 7,680 (80.22 %)",
        "seed 0 119.5 MHz, seed 1 125.0 MHz; 122.25 ± 3.89 MHz",
        "shift registers stand in",
        "Does not fit:</span> zu3eg: the circuit takes 71,000 LUT of 70,560",
        "yosys 0.23, nextpnr-ice40 0.4",
    ):
        assert words in text
    assert text.count('<i class="full"') == 1
    assert "<h2>Hardware</h2>" not in render_report(sample_report())


def test_distilled_inputs_are_shown_as_pictures():
    text = render_report(sample_report(distilled=True))
    for words in (
        "No training sample was used for sensitivities and ranges: zero-shot: 70 distilled inputs, seed 0",
        "The first 64 of 70",
        "bn2.running_mean 0.034, bn1.running_mean 0.012",
    ):
        assert words in text
    assert text.count("<img") == 1
    assert "<h2>Inputs distilled" not in render_report(sample_report())


def test_pictures_hold_the_inputs_on_one_scale_of_brightness():
    matplotlib_image = pytest.importorskip("matplotlib.image")
    inputs = np.zeros((17, 1, 4, 6), np.float32)
    inputs[0], inputs[16, :, 1, 2] = -1.0, 1.0
    grid = image_grid(inputs)
    pixels = matplotlib_image.imread(io.BytesIO(base64.b64decode(grid.partition(",")[2])))
    assert pixels.shape == (9, 111, 4)  # two rows of sixteen, one pixel apart
    assert set(pixels[:4, :6, 0].flatten()) == {0.0}
    assert (pixels[6, 2, 0], pixels[0, 7, 0]) == (1.0, pixels[5, 0, 0])
    assert set(pixels[4, :, 3]) == set(pixels[5:, 6:, 3].flatten()) == {0.0}
    assert image_grid(np.zeros((4, 3, 1, 1), np.float32)) is None


def test_outlook_of_the_plan_is_shown():
    text = render_report(sample_report())
    for words in (
        "1,000 byte more would change the predicted loss by -0.0007 (solved again)",
        "the least step that buys anything is 64 byte, for -0.0003; price of the relaxation: 2.1e-06 per byte",
        "0.00011 at the 95th percentile, 5.24 % of the predicted loss",
        "<h2>How sure each width is</h2>",
        "share of 200 redrawn tables",
        "<h2>Next best plans</h2>",
        "<td>3</td><td>0.00221</td><td>5,816</td><td>conv1.weight 8 → 6</td>",
        "Every point of the front is proven optimal: no plan below it exists",
    ):
        assert words in text, words
    plain = sample_report()
    bare = replace(plain, plan=replace(plain.plan, marginals=(), alternatives=(), stability=None))
    for words in ("How sure each width is", "Next best plans", "redrawn tables"):
        assert words not in render_report(bare)


def test_open_gaps_of_the_front_are_told():
    plain = sample_report()
    front = tuple(replace(p, gap=0.002) for p in plain.plan.front)
    text = render_report(replace(plain, plan=replace(plain.plan, front=front)))
    assert "No plan below it exists within the candidate widths, but for gaps of at most 0.002." in text


def test_traffic_and_energy_of_every_layer_are_shown():
    text = render_report(sample_report())
    assert "<h2>Arithmetic, traffic and energy</h2>" in text
    assert text.count("<td>147,456</td>") == 10  # MACs of five layers, in two tables
    assert text.count("<td>65.43 %</td><td>0.432</td>") == 5  # zero weights and signed digits


def test_markup_is_balanced_and_ids_are_unique():
    void = {"meta", "br", "link", "img", "input"}
    stack: list[str] = []
    ids: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            ids.extend(v for k, v in attrs if k == "id")
            if tag not in void:
                stack.append(tag)

        def handle_startendtag(self, tag, attrs):
            ids.extend(v for k, v in attrs if k == "id")

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Checker().feed(render_report(sample_report(hardware=True, distilled=True)))
    assert not stack
    assert len(ids) == len(set(ids))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
def test_chromium_renders_the_report(tmp_path):
    page, shot = (
        write_report(sample_report(hardware=True, distilled=True), tmp_path / "report.html"),
        tmp_path / "shot.png",
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    arguments = [*flags, "--window-size=1000,3400", f"--screenshot={shot}", page.as_uri()]
    subprocess.run([CHROMIUM, *arguments], check=True, capture_output=True, timeout=120)
    width, height = struct.unpack(">II", shot.read_bytes()[16:24])
    assert (width, height) == (1000, 3400)
    # Text extracted by the browser itself: the page was laid out, not only parsed.
    dom = subprocess.run([CHROMIUM, *flags, "--dump-dom", page.as_uri()], check=True, capture_output=True, timeout=120)
    assert b"Bits along the network" in dom.stdout
    matplotlib_image = pytest.importorskip("matplotlib.image")
    pixels = matplotlib_image.imread(shot)
    assert len(set(map(tuple, (pixels[::7, ::7, :3] * 255).astype(int).reshape(-1, 3)))) > 50


def spectra_report():
    generator = np.random.default_rng(0)
    points = np.sort(10.0 ** generator.uniform(-7, -1, (4, 12)), axis=1)
    found = {
        "fc1.weight": Spectrum(points, np.full((4, 12), 1 / 48), 480),
        "fc2.weight": Spectrum(points / 9, np.full((4, 12), 1 / 48), 96),
    }
    report = sample_report()
    return replace(report, table=replace(report.table, spectra=found))


def test_spectra_are_drawn_and_told_where_they_were_measured():
    assert "<h2>Spectra</h2>" not in render_report(sample_report())
    report = spectra_report()
    text = render_report(report)
    assert 'aria-label="Spectra of the curvature"' in text
    spectrum = report.table.spectra["fc1.weight"]
    row = text[text.index("<h2>Spectra</h2>") :].split("<tr><td>fc1.weight</td>")[1].split("</tr>")[0]
    assert f"<td>480</td><td>{spectrum.points.max():.3g}</td><td>{spectrum.trace.value:.3g} ± " in row
    assert text == render_report(report)


def test_density_of_eigenvalues_counts_those_that_are_positive():
    points = np.array([[-1.0, 0.0, 1e-3, 10.0]])
    spectrum = Spectrum(points, np.array([[0.25, 0.25, 0.25, 0.25]]), 40)
    decades = np.linspace(-6, 3, 2001)
    step = decades[1] - decades[0]
    density = eigenvalues_per_decade(spectrum, decades)
    assert density.sum() * step == pytest.approx(20.0, rel=1e-6)
    assert density[decades < -1].sum() * step == pytest.approx(10.0, rel=1e-6)
