"""Modules that do more than their classes say."""

from __future__ import annotations

from torch import nn

HOOKS = tuple(name for name in vars(nn.Module()) if "hooks" in name and "state_dict" not in name)


def is_altered(module: nn.Module) -> bool:
    """Whether a module, or one within it, has a hook or a forward of its own."""
    found = [vars(submodule) for submodule in module.modules()]
    return any("forward" in own or any(own.get(hooks) for hooks in HOOKS) for own in found)
