import torch
from torch import nn

from dyadiq.quant.named import Scope, add_module_, add_tensors_, tensors_by_name


def test_state_dict_has_the_given_names_when_parts_are_attributes_of_modules():
    names = ["mode.weight", "training.forward", "0.1.weight", "weight", "a.register_buffer"]
    root = Scope()
    add_tensors_(root, {name: torch.ones(1) for name in names}, {"a.running_mean": torch.zeros(1)})
    assert set(root.state_dict()) == {*names, "a.running_mean"}
    assert set(tensors_by_name(root)) == {*names, "a.running_mean"}
    assert set(tensors_by_name(root, skip=["a", "0"])) == {"mode.weight", "training.forward", "weight"}


def test_skipped_scope_is_matched_whole_when_another_begins_alike():
    root = Scope()
    add_tensors_(root, {"ab.weight": torch.ones(1), "a.weight": torch.ones(1)}, {})
    assert list(tensors_by_name(root, skip=["a"])) == ["ab.weight"]


def test_module_keeps_what_is_below_its_name_when_added_before_or_after():
    for order in (["conv", "conv.weight"], ["conv.weight", "conv"]):
        root = Scope()
        for name in order:
            add_module_(root, name, nn.Linear(1, 1, bias=False))
        assert set(root.state_dict()) == {"conv.weight", "conv.weight.weight"}
