"""What 4-bit activations cost ResNet-20 before training, tensor by tensor, and which teacher knows more than it does.

Run: python benchmarks/four_bits.py [--trained runs/qat_cifar/w4a4-epochs10-seed0/module.safetensors]

The plan of case w4a4 of `qat_cifar.py`, seed 0. KL(float || quantized) in nats an image on photographs that no network
here was trained on: Tiny-ImageNet's validation images at 32 by 32, and mixed images made of 3,000 CIFAR-10 training
images. Neither takes part in any accuracy. Then what networks say of the 22 classes of Tiny-ImageNet that are CIFAR-10
classes (880 images, each and its mirror image): how often they are right, and the negative log-likelihood.
Fake-quantized; deterministic. --table prints results/four_bits.json as Markdown.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from activation_ranges import divergence
from environment import environment
from qat_cifar import CASES, N_CALIBRATION, chosen_plan, quant_config

import dyadiq as dq
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.quant.store import load_quant_module
from dyadiq.train.augment import crop_flip_mixup
from dyadiq.train.views import AveragedViews
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results/four_bits.json"
CASE = CASES["w4a4"]
N_MIXED = 3000
MODELS = ("cifar_resnet20", "cifar_resnet56")
SAME_CLASS = {
    "automobile": ("sports car", "limousine", "beach wagon", "convertible"),
    "bird": ("albatross", "goose", "black stork"),
    "cat": ("Egyptian cat", "tabby", "Persian cat"),
    "deer": ("gazelle",),
    "dog": ("German shepherd", "Labrador", "golden retriever", "Yorkshire", "Chihuahua", "standard poodle"),
    "frog": ("bullfrog", "tailed frog"),
    "ship": ("lifeboat", "gondola"),
    "truck": ("moving van",),
}


def is_weight(name):
    return name.endswith("weight")


# What of the plan gets 8 bits, and the methods before. The first and the last layer's weights have 8 in all of them.
WAYS = {
    "4 bits": (lambda name: False, ("gptq",)),
    "weights of 8 bits": (is_weight, ("gptq",)),
    "activations of 8 bits": (lambda name: not is_weight(name), ("gptq",)),
    "what the first block reads at 8 bits": (lambda name: name == "relu:narrow", ("gptq",)),
    "all copies of the residual stream at 8 bits": (lambda name: name.endswith(":narrow"), ("gptq",)),
    "what the last layer reads at 8 bits": (lambda name: name == "avg_pool2d", ("gptq",)),
    "4 bits, smoothed": (lambda name: False, ("smooth", "gptq")),
}


def at_half_size(split):
    return torch.nn.functional.avg_pool2d(torch.from_numpy(split.x), 2)


def widened(plan, wide):
    formats = {n: replace(f, bits=8) if wide(n) and f.bits < 8 else f for n, f in plan.formats.items()}
    return replace(plan, formats=formats)


def costs(model, data, sets, trained):
    """Yield the divergence on every set of images, for every way, and of a trained module if one is given."""
    images = torch.from_numpy(data.train.x[:N_CALIBRATION])
    graph = dq.separate_residuals(dq.capture(model, images[:2]))
    with torch.no_grad():
        wanted = {name: model(x).double().log_softmax(1) for name, x in sets.items()}

    def row(way, module):
        module.eval().set_mode_("fake")
        return {"way": way} | {name: divergence(module, x, wanted[name]) for name, x in sets.items()}

    with tempfile.TemporaryDirectory() as folder:
        plan = chosen_plan(Path(folder), graph, images, CASE, 0)
    for way, (wide, methods) in WAYS.items():
        module = dq.quantize(graph, widened(plan, wide), list(images.split(128)), config=quant_config(CASE))
        reconstruct_(module, list(images.split(128)), methods, seed=0)
        yield row(way, module)
    if trained is not None:
        yield row("4 bits, smoothed, trained", load_quant_module(trained))


def labelled(photographs, classes):
    """Return the images of classes that CIFAR-10 has, each and its mirror image, and their CIFAR-10 labels."""
    of = {name: label for label, names in SAME_CLASS.items() for name in names}
    found = {i: label for i, title in enumerate(photographs.classes) for n, label in of.items() if title.startswith(n)}
    assert len(found) == len(of), sorted(found)
    parts = []
    for split in (photographs.train, photographs.validation, photographs.test):
        taken = np.isin(split.y, list(found))
        labels = [classes.index(found[int(y)]) for y in split.y[taken]]
        parts.append((at_half_size(split)[torch.from_numpy(taken)], torch.tensor(labels)))
    x, y = (torch.cat(each) for each in zip(*parts, strict=True))
    return torch.cat([x, x.flip(3)]), torch.cat([y, y])


def knowledge(x, y):
    """Yield how often each network is right on labelled images, alone and shown mirror images too."""
    for name in MODELS:
        for views in ("one", "mirror"):
            teacher = AveragedViews(build_model(name, pretrained=True).eval(), views)
            with torch.no_grad():
                logits = torch.cat([teacher(part) for part in x.split(500)])
            right = float((logits.argmax(1) == y).float().mean())
            nll = float(torch.nn.functional.cross_entropy(logits, y))
            yield {"network": name, "views": views, "right": right, "nll": nll, "n_images": len(y)}


def table(document):
    """Return the two Markdown tables."""
    lines = ["| network | photographs | mixed images |", "|---|---|---|"]
    lines += [f"| {row['way']} | {row['photographs']:.3f} | {row['mixed']:.3f} |" for row in document["costs"]]
    lines += ["", "| teacher | views | right % | negative log-likelihood |", "|---|---|---|---|"]
    for row in document["teachers"]:
        lines.append(f"| {row['network']} | {row['views']} | {100 * row['right']:.1f} | {row['nll']:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, help="a fine-tuned module of that case, to measure as well")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        data, photographs = load_dataset("cifar10", seed=0), load_dataset("tiny_imagenet", seed=0)
        model = build_model("cifar_resnet20", pretrained=True).eval()
        x = torch.from_numpy(data.validation.x[:N_MIXED])
        mixed = crop_flip_mixup(x, x.amin((0, 2, 3)), torch.Generator().manual_seed(0))
        sets = {"photographs": at_half_size(photographs.test), "mixed": mixed}
        document = {"environment": environment(), "trained": arguments.trained is not None}
        document["teachers"] = list(knowledge(*labelled(photographs, data.classes)))
        document["costs"] = list(costs(model, data, sets, arguments.trained))
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
