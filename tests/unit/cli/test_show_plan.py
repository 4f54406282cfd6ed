"""What `show` says beside a plan's bits: more of a budget, next best plans, how sure the widths are."""

import json

from dyadiq.core.store import save_plan
from report_sample import sample_report


def test_outlook_of_a_plan_is_shown(cli, tmp_path):
    save_plan(tmp_path / "plan.json", sample_report().plan)
    shown = cli("show", str(tmp_path / "plan.json")).stdout
    for words in (
        "1,000 byte more of size would save 0.0007; the least that buys anything is 64 byte, saving 0.0003",
        "layer1.0.conv2.weight 2 → 3, layer2.0.conv1.weight 4 → 3",
        "regret: at most 0.00011 in 95 % of redrawn tables, 5.2 % of the predicted loss",
        "bits in 200 redrawn tables",
    ):
        assert words in " ".join(shown.split()), words


def test_outlook_of_a_plan_is_in_its_json(cli, tmp_path):
    save_plan(tmp_path / "plan.json", sample_report().plan)
    payload = json.loads(cli("show", str(tmp_path / "plan.json"), "--json").stdout)["payload"]
    assert payload["marginals"][0]["next_step"] == 64
    assert payload["alternatives"][1]["changes"] == {"conv1.weight": 6}
    assert payload["stability"]["n_replicas"] == 200
