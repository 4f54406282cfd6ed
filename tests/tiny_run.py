"""A recipe that runs in seconds, on five noisy clusters; used by pipeline and command line tests."""

import numpy as np

RECIPE = """
name = "tiny"
threads = 1

[data]
name = "npz"
options = {{ path = "{data}" }}

[model]
name = "jet_tagger"

[train]
epochs = 15
batch_size = 64
learning_rate = 1e-2

[quant]
product_bits = 24

[analyze]
bits = [2, 4, 8]
activation_bits = [4, 8]
n_samples = 64

[allocate]
budget = {{ bops = "4%" }}

[finetune]
epochs = 2

[verify]
against = ["exact", "onnx"]

[export]
to = ["onnx"]
"""


def one_layer():
    """A model that is synthesised and placed in seconds: ``model.name = "tiny_run:one_layer"``."""
    from torch import nn

    return nn.Sequential(nn.Linear(16, 5))


def write_tiny_recipe(folder):
    """Write the data and the recipe, and return the recipe's path."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(5, 16))
    arrays = {}
    for part, n in (("train", 400), ("test", 100)):
        y = np.arange(n) % 5
        arrays[f"x_{part}"] = (centres[y] + 0.5 * generator.normal(size=(n, 16))).astype(np.float32)
        arrays[f"y_{part}"] = y
    np.savez(folder / "tiny.npz", **arrays)
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(data=folder / "tiny.npz"))
    return recipe
