"""Methods in a protocol -> the plugins that make them."""

from avalanche.core import SupervisedPlugin

from clreg_plugins import EWCPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, SIPlugin
from study.protocol import EWC, L2, MAS, SI, Method, OnlineEWC

PLUGIN = {L2: L2Plugin, EWC: EWCPlugin, OnlineEWC: OnlineEWCPlugin, MAS: MASPlugin, SI: SIPlugin}


def build_plugins(method: Method, strength: float | None, seed: int) -> list[SupervisedPlugin]:
    """The plugins of a method: one, or none for naive and joint training.

    Args:
        method: its kind and options.
        strength: λ.
        seed: of a method's own random draws.
    """
    if type(method) not in PLUGIN:
        return []
    options = method.model_dump(exclude={"kind"})
    if isinstance(method, EWC | OnlineEWC):
        options["seed"] = seed
    return [PLUGIN[type(method)](strength, **options)]
