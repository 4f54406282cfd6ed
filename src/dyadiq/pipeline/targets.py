"""The targets of a recipe with the options it gives them; the circuit that is synthesised is the one that is verified.

Used by the stages export, verify and hardware. Chooses; writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyadiq.recipe import HardwareSection, Recipe

if TYPE_CHECKING:
    from dyadiq.targets import Target

__all__ = ["CIRCUIT", "circuit_depth", "circuit_target", "recipe_target"]


CIRCUIT = ("hardware.devices", "hardware.depth")  # recipe keys that decide the text of the circuit


def recipe_target(recipe: Recipe, name: str) -> Target:
    """Return a target with the recipe's options; Verilog is that of the first device of ``[hardware]``.

    Raises:
        ConfigError: An option has a wrong value.
        UnknownNameError: No such target or option.
    """
    from dyadiq.targets import get_target

    options = dict(recipe.export.options.get(name, {}))
    if name == "verilog" and recipe.hardware is not None:
        options = {"depth": circuit_depth(recipe.hardware, recipe.hardware.devices[0])} | options
    return get_target(name).configured(**options)


def circuit_depth(section: HardwareSection, device: str) -> int:
    """Return the adders between registers for a device: the section's, or what suits the device's family.

    Raises:
        UnknownNameError: No such device.
    """
    from dyadiq.fpga.devices import find_device
    from dyadiq.fpga.synth import default_depth

    return section.depth or default_depth(find_device(device.lower()).family)


def circuit_target(recipe: Recipe, device: str) -> Target:
    """Return the target ``verilog`` for one device of ``[hardware]``.

    Raises:
        ConfigError: An option has a wrong value.
        UnknownNameError: No such device or option.
    """
    from dyadiq.targets import get_target

    assert recipe.hardware is not None, "a circuit is asked for by the stage hardware only"
    options = {"depth": circuit_depth(recipe.hardware, device)} | recipe.export.options.get("verilog", {})
    return get_target("verilog").configured(**options)
