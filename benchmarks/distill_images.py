"""From which images a network of 4-bit activations learns its teacher best, judged by images that it never saw.

Run: python benchmarks/distill_images.py

ResNet-20 by the plan of case w4a4_cutmix of `qat_cifar.py`, seed 0, fine-tuned for 3 epochs on 20,000 of the training
images, changed in different ways and at different rates; the teacher is the float network shown mirror images too.
Judged by photographs (Tiny-ImageNet at 32 by 32, as in `four_bits.py`), which no network here was trained on: KL of
the teacher to the student in nats an image, and how often the student is right on those of CIFAR-10's classes. CIFAR-10
test images take no part, so that settings may be chosen by it. One seed. --table prints results/distill_images.json.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from activation_ranges import divergence
from environment import environment
from four_bits import at_half_size, labelled
from qat_cifar import CASES, N_CALIBRATION, chosen_plan, quant_config, settings

import dyadiq as dq
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.train import finetune
from dyadiq.train.views import AveragedViews
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results/distill_images.json"
CASE = CASES["w4a4_cutmix"]
EPOCHS, N_TRAIN = 3, 20_000
WAYS = [("crop_flip", 4e-4), ("crop_flip_mixup", 4e-4), ("crop_flip_cutmix", 4e-4), ("crop_flip_cutmix", 8e-4)]


def judged(network, teacher, photographs, labels):
    """Return what photographs say of a network."""
    network.eval()
    with torch.no_grad():
        wanted = torch.cat([teacher(x) for x in photographs.split(500)]).double().log_softmax(1)
        said = torch.cat([network(x) for x in labels[0].split(500)])
    right = float((said.argmax(1) == labels[1]).float().mean())
    nll = float(torch.nn.functional.cross_entropy(said, labels[1]))
    return {"divergence": divergence(network, photographs, wanted), "right": right, "nll": nll}


def rows(data, photographs, labels):
    """Yield what photographs say of the float network, of the quantized one, and of it after each training."""
    model = build_model("cifar_resnet20", pretrained=True).eval()
    teacher = AveragedViews(model, CASE.teacher_views).eval()
    images = torch.from_numpy(data.train.x[:N_CALIBRATION])
    batches = list(images.split(128))
    graph = dq.separate_residuals(dq.capture(model, images[:2]))
    with tempfile.TemporaryDirectory() as folder:
        plan = chosen_plan(Path(folder), graph, images, CASE, 0)
    start = {"augment": None, "learning_rate": None}
    yield start | {"network": "float"} | judged(model, teacher, photographs, labels)
    for number, (augment, rate) in enumerate(WAYS):
        module = dq.quantize(graph, plan, batches, config=quant_config(CASE))
        reconstruct_(module, batches, CASE.methods, seed=0)
        if not number:
            yield start | {"network": "4 bits, untrained"} | judged(module, teacher, photographs, labels)
        config = settings(replace(CASE, augment=augment, learning_rate=rate), EPOCHS, 0)
        finetune(module, data.train, config=config, teacher=model)
        how = {"network": "4 bits, trained", "augment": augment, "learning_rate": rate}
        yield how | judged(module, teacher, photographs, labels)


def table(document):
    """Return the Markdown table."""
    lines = ["| network | images | rate | KL from the teacher | right % | negative log-likelihood |"]
    lines.append("|---|---|---|---|---|---|")
    for row in document["rows"]:
        how = f"{row['augment'] or ''} | {row['learning_rate'] or ''}"
        said = f"{row['divergence']:.3f} | {100 * row['right']:.1f} | {row['nll']:.2f}"
        lines.append(f"| {row['network']} | {how} | {said} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        data, tiny = load_dataset("cifar10", seed=0, n_train=N_TRAIN), load_dataset("tiny_imagenet", seed=0)
        found = []
        for row in rows(data, at_half_size(tiny.test), labelled(tiny, data.classes)):
            print(row, flush=True)
            found.append(row)
        RESULTS.write_text(json.dumps({"environment": environment(), "rows": found}, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
