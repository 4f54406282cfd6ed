"""A QuantModule to one file and back: graph, plan, config, quantizer types, and its state dict.

Used by the pipeline and by users who fine-tune elsewhere. Container and hash: `core.artifact`; no pickle.
The module comes back in eval mode, on the CPU, with the mode, flags and dtype it had.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dyadiq.core.affine import AffineParams
from dyadiq.core.artifact import read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError, ConfigError, GraphError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import BitPlan
from dyadiq.core.qtype import QType
from dyadiq.ir.serialize import graph_from_payload, graph_to_payload
from dyadiq.quant.estimators import DEFAULT
from dyadiq.quant.module import QuantModule

__all__ = ["load_quant_module", "save_quant_module"]

SCHEMA = "dyadiq.quant-module/1"
_STATE = "state."


def save_quant_module(path: str | os.PathLike[str], module: QuantModule) -> str:
    """Store a quantized module and return its hash.

    Raises:
        ArtifactError: A value that cannot be stored (NaN in the graph's attributes, say).
        StorageError: The disk is full or not writable.
    """
    graph, arrays = graph_to_payload(module.graph)
    payload = {
        "graph": graph,
        "plan": module.plan.to_json(),
        "config": module.config.to_json(),
        "quantizers": {
            name: {"type": str(quantizer.qtype), "enabled": quantizer.enabled}
            for name, quantizer in module.quantizers_by_name().items()
        },
        "learn_scales": module.learn_scales,
        "estimator": module.estimator.name,
        "batchnorm_frozen": module.batchnorm_frozen,
        "batchnorm_momentum": module.batchnorm_momentum,
        "mode": module.mode,
    }
    state = {f"{_STATE}{name}": value.detach().cpu().numpy() for name, value in module.state_dict().items()}
    return write_artifact(path, SCHEMA, payload, arrays | state)


def load_quant_module(path: str | os.PathLike[str]) -> QuantModule:
    """Read a quantized module.

    Raises:
        ArtifactError: Damaged file, wrong hash, newer version, or not a quantized module.
    """
    payload, arrays = read_artifact(path, SCHEMA)
    try:
        return _decode(payload, arrays)
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError, GraphError, QuantError) as err:
        raise ArtifactError(f"{path}: does not describe a quantized module ({err}). Save it again.") from err


def _decode(payload: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> QuantModule:
    plan = BitPlan.from_json(payload["plan"])
    state = {name.removeprefix(_STATE): value for name, value in arrays.items() if name.startswith(_STATE)}
    params = {
        name: AffineParams(
            scale=state[f"quantizers.{name}.scale"].astype(np.float64),
            zero_point=state[f"quantizers.{name}.zero_point"],
            qtype=QType.parse(facts["type"]),
            group_factor=state.get(f"quantizers.{name}.group_factor"),
            fmt=plan.formats[name],
        )
        for name, facts in payload["quantizers"].items()
    }
    module = QuantModule(
        graph_from_payload(payload["graph"], arrays),
        plan,
        QuantConfig.from_json(payload["config"]),
        params,
        learn_scales=payload["learn_scales"],
        freeze_bn=payload["batchnorm_frozen"],
        batchnorm_momentum=payload["batchnorm_momentum"],
    )
    module.set_estimator_(payload.get("estimator", DEFAULT.name))  # Files of before there were others have none.
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    if any(value.dtype == torch.float64 for value in tensors.values()):
        module.double()
    module.load_state_dict(tensors)
    for name, quantizer in module.quantizers_by_name().items():
        quantizer.enabled = payload["quantizers"][name]["enabled"]
    return module.set_mode_(payload["mode"]).eval()
