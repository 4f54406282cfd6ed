"""A float network that is an ONNX file, as a module: its parameters under the file's names, its graph inside.

Used by `build_model` for names that end in ``.onnx``. It runs by the interpreter of float graphs, with the running
statistics of its batch norms in every mode; `graph` gives the network with whatever the parameters are by then.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dyadiq.core.errors import ConfigError
from dyadiq.ir.execute import run_graph
from dyadiq.ir.graph import Graph
from dyadiq.ir.onnx_import import import_onnx

__all__ = ["OnnxModel", "is_onnx_name", "onnx_model"]


def is_onnx_name(name: str) -> bool:
    """Return whether a model's name is that of an ONNX file.

    Example:
        >>> is_onnx_name("nets/net.onnx"), is_onnx_name("resnet18")
        (True, False)
    """
    return name.endswith(".onnx")


def onnx_model(path: str | Path, *, output: str | None = None) -> OnnxModel:
    """Return the network of an ONNX file.

    Args:
        path: The file.
        output: Name of the tensor to end at, if not at the model's outputs; e.g. the one before a Softmax.

    Raises:
        ArtifactError: Not an ONNX file, or a damaged one.
        CaptureError: What a graph cannot hold, all of it listed.
        ConfigError: A network without parameters.
        MissingDependencyError: The package onnx is absent.
        UnknownNameError: No such tensor.
    """
    return OnnxModel(import_onnx(path, outputs=() if output is None else (output,)))


class OnnxModel(nn.Module):
    """A float graph as a module.

    Attributes:
        names: Parameter of the graph to its name in the state dict.
    """

    def __init__(self, graph: Graph) -> None:
        """Take a graph; its parameters are copied.

        Raises:
            ConfigError: It has no parameters.
        """
        super().__init__()
        if not graph.params:
            raise ConfigError("a network without parameters: there is nothing to quantize.")
        self._structure = graph
        self.names = {name: name.replace(".", "/") for name in graph.params}
        for name, values in graph.params.items():
            self.register_parameter(self.names[name], nn.Parameter(torch.tensor(np.asarray(values))))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs of the graph."""
        params = {name: getattr(self, own) for name, own in self.names.items()}
        outputs = run_graph(self._structure, inputs, params)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def graph(self) -> Graph:
        """Return the network as a graph, with the parameters of now."""
        state = {name: getattr(self, own).detach().cpu().numpy().copy() for name, own in self.names.items()}
        return replace(self._structure, params=state)
