"""What trains at which rate: every module names its own parameters, and nothing is left over."""

from __future__ import annotations

from typing import Any

from torch import nn

from xcrossrec.config import TrainingConfig
from xcrossrec.exceptions import ModelError
from xcrossrec.models.model import Model


def parameter_groups(model: Model, config: TrainingConfig) -> list[dict[str, Any]]:
    """The groups of an optimizer, as the modules of a model name them.

    A module with parameters has a method ``parameter_groups``, which gives its trained ones by the name of the setting
    that is their learning rate.

    Returns:
        one mapping a group, with ``params``, ``lr`` and no weight decay.

    Raises:
        ModelError: a parameter trains that no module names, or is named twice; or a group is empty, is frozen, or has
            no such rate.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    missing = dict(names)
    groups = []
    for module in model:
        # sentence-transformers' own modules name nothing
        named: dict[str, list[nn.Parameter]] = getattr(module, "parameter_groups", dict)()
        for rate, parameters in named.items():
            owner = f"the group {rate!r} of {type(module).__name__}"
            if not hasattr(config, rate):
                raise ModelError(f"{owner} is no learning rate of the settings: name one of TrainingConfig's")
            if not parameters:
                raise ModelError(f"{owner} has no parameter: leave it out, or name what it trains")
            for parameter in parameters:
                if missing.pop(id(parameter), None) is None:
                    again = names.get(id(parameter))
                    frozen = f"a frozen parameter of shape {tuple(parameter.shape)}"
                    what = f"{again} a second time" if again else frozen
                    raise ModelError(f"{owner} names {what}: name each trained parameter once")
            groups.append({"params": parameters, "lr": getattr(config, rate), "weight_decay": 0.0})
    if missing:
        raise ModelError(
            f"{next(iter(missing.values()))} trains, but no module gives it a learning rate: name it in the "
            "parameter_groups of the module that owns it"
        )
    return groups
