"""ResNet-20 as an int8 .tflite file: how far LiteRT and our integer program agree on CIFAR-10 test images.

    python benchmarks/litert_agreement.py [--images N] [--json PATH]

Both run the same W8A8 network with trained weights, calibrated on 256 training images (tflite_maker.py says what
differs). The share of images with the same largest logit, and the accuracy of both. Writes
benchmarks/results/litert_agreement.json. Needs LiteRT (ai-edge-litert) and the data pack.
"""

import argparse
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from arguments import write_results
from engine_vs_peers import litert_interpreter, quantized
from environment import environment
from tflite_maker import steps_of, tflite_bytes

import dyadiq as dq
from dyadiq.zoo import build_model
from dyadiq.zoo.cifar_data import load_cifar10_dataset

RESULTS = Path(__file__).parent / "results/litert_agreement.json"
N_CALIBRATION, N_AT_ONCE = 256, 100


def logits_of_litert(content, images):
    """LiteRT's int8 logits, ``[N, 10]``."""
    interpreter = litert_interpreter(content)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        interpreter.set_tensor(source["index"], np.ascontiguousarray(np.moveaxis(image, 0, -1))[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"])[0].copy())
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_cifar10_dataset(n_train=N_CALIBRATION, n_validation=10)
    batch = torch.tensor(data.train.x)
    images, labels = data.test.x[: arguments.images], data.test.y[: arguments.images]
    module = quantized(build_model("cifar_resnet20", pretrained=True).eval(), batch)
    program, ours = dq.lower(module), []
    for start in range(0, len(images), N_AT_ONCE):
        (logits,) = dq.run_reference(program, {"x": images[start : start + N_AT_ONCE]}).values()
        ours.append(logits.argmax(1))
    ours, document = np.concatenate(ours), {}
    for name, slices in (("litert", False), ("litert_slices", True)):
        theirs = logits_of_litert(tflite_bytes(*steps_of(module, batch, slices)), images).argmax(1)
        document[name] = {
            "same_class_percent": round(100 * float(np.mean(theirs == ours)), 2),
            "accuracy_percent": round(100 * float(np.mean(theirs == labels)), 2),
        }
    document |= {
        "ours": {"accuracy_percent": round(100 * float(np.mean(ours == labels)), 2)},
        "n_images": len(images),
        "n_calibration": N_CALIBRATION,
        "version": metadata.version("ai-edge-litert"),
        "kind": "measured",
        "environment": environment(),
    }
    write_results(arguments.json, document)
    print({name: document[name] for name in ("ours", "litert", "litert_slices")})


if __name__ == "__main__":
    main()
