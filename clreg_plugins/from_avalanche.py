"""Conversion of Avalanche's own plugins."""

import warnings

from avalanche.training.plugins import EWCPlugin as AvalancheEWC
from avalanche.training.plugins import MASPlugin as AvalancheMAS
from avalanche.training.plugins import SynapticIntelligencePlugin as AvalancheSI

from clreg_plugins.checks import FLOAT32_MAX, within
from clreg_plugins.ewc import EWCPlugin, OnlineEWCPlugin
from clreg_plugins.importance.path_integral import checked_damping
from clreg_plugins.mas import MASPlugin
from clreg_plugins.plugin import RegularizationPlugin
from clreg_plugins.si import SIPlugin

DIFFERENCES: dict[type, tuple[str, ...]] = {
    AvalancheEWC: (
        "λ: ours has the 1/2 in front, so reg_lambda = 2 · ewc_lambda.",
        'Fisher: Avalanche squares the gradient of each batch mean. Ours does the same under fisher="batched"; '
        'fisher="exact" is the Fisher information, and needs a different λ.',
        "Criterion: ours takes the log-likelihood that the criterion stands for; class weights, label smoothing and "
        "the like play no part in the Fisher.",
        "Separate penalties: the same sum, but in memory and time that do not grow with the experiences.",
        "Data: ours reads the experience with its eval transforms and in its own order; Avalanche uses whatever "
        "transforms the dataset is set to.",
        "Modes: ours puts every module's train or eval mode back; Avalanche leaves the whole model in train mode.",
    ),
    AvalancheMAS: (
        "λ: ours has the 1/2 in front, so reg_lambda = 2 · lambda_reg.",
        "Importance: Avalanche takes |∇ of the batch mean of ‖z‖²|; ours does the same with per_sample=False.",
        "Accumulation: Avalanche takes Ω ← αΩ + (1−α)Ω_new, which lets the first experiences fade; ours weights all "
        "experiences equally. They agree up to the second experience with α = 0.5, and only in the first with any "
        "other α.",
        "Modes: Avalanche measures with dropout and batch statistics on, and so changes BatchNorm's running "
        "statistics; ours measures in eval mode and changes nothing.",
    ),
    AvalancheSI: (
        "λ: the same, reg_lambda = si_lambda; ξ is Avalanche's eps.",
        'Gradient: Avalanche uses that of the total loss, penalty included; ours does so with gradient="total".',
        "Negative totals: Avalanche keeps them; ours does so with clip=False.",
        "Upper bound: Avalanche cuts Ω at 0.001; ours does not cut it.",
        "Parameters: Avalanche leaves out BatchNorm's and those in excluded_parameters; ours includes all.",
        "Damping: Avalanche divides by Δ² + eps with eps = 1e-7 by default, far below Zenke's 0.1.",
        "Device: Avalanche moves its state to the CPU at every step; ours stays on the parameters' device.",
        "On a CPU: Avalanche 0.6 keeps views of the parameters there instead of copies, so that Δθ, and with it Ω, is "
        "always 0 and its penalty does nothing; ours is the same on every device.",
    ),
}
"""By Avalanche's class, how it differs from the plugin that :func:`from_avalanche` makes of it."""

LARGEST = FLOAT32_MAX / 2
"""λ of a penalty without the 1/2 in front, which is doubled here."""


def from_avalanche(plugin: object) -> RegularizationPlugin:
    """Convert one of Avalanche's plugins, not yet used in training, to ours, with λ and the closest definitions.

    Every remaining difference in definition is listed in one ``UserWarning``, and in :data:`DIFFERENCES`.

    Args:
        plugin: Avalanche's ``EWCPlugin``, ``MASPlugin`` or ``SynapticIntelligencePlugin``.

    Returns:
        ``EWCPlugin``, ``OnlineEWCPlugin``, ``MASPlugin`` or ``SIPlugin``.

    Raises:
        TypeError: ``plugin`` is something else.
        ValueError: it holds importances already, an option outside what is allowed, or one that ours does not
            support: several values of ``si_lambda``, which in Avalanche rescale the whole penalty in each
            experience, or parameters that are excluded by name.
    """
    kind = next((kind for kind in DIFFERENCES if isinstance(plugin, kind)), None)
    if kind is None:
        allowed = ", ".join(f"avalanche's {k.__name__}" for k in DIFFERENCES)
        given = f"the class {plugin.__name__}" if isinstance(plugin, type) else f"of type {_full_name(type(plugin))}"
        raise TypeError(f"plugin is {given}; allowed: an instance of {allowed}")
    converted = _CONVERTERS[kind](plugin)
    listed = "\n".join(f"- {difference}" for difference in DIFFERENCES[kind])
    warnings.warn(
        f"{type(converted).__name__} made from avalanche's {kind.__name__}:\n{listed}",
        stacklevel=2,
    )
    return converted


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _ewc(plugin: AvalancheEWC) -> EWCPlugin:
    _require_untrained(plugin, bool(plugin.importances))
    reg_lambda = 2 * within("ewc_lambda", plugin.ewc_lambda, 0, LARGEST)
    if plugin.mode == "online":
        gamma = within("decay_factor", plugin.decay_factor, 0, 1)
        return OnlineEWCPlugin(reg_lambda, gamma=gamma, fisher="batched")
    return EWCPlugin(reg_lambda, fisher="batched")


def _mas(plugin: AvalancheMAS) -> MASPlugin:
    _require_untrained(plugin, plugin.importance is not None)
    return MASPlugin(
        2 * within("lambda_reg", plugin._lambda, 0, LARGEST),
        output="squared_norm",
        accumulate="average",
        per_sample=False,
    )


def _si(plugin: AvalancheSI) -> SIPlugin:
    _require_untrained(plugin, bool(plugin.ewc_data[1]))
    values = [within("si_lambda", value, 0) for value in plugin.si_lambda]
    if len(set(values)) != 1:
        raise ValueError(f"si_lambda is {list(plugin.si_lambda)}; allowed: one value for all experiences")
    if plugin.excluded_parameters:
        raise ValueError(f"excluded_parameters is {sorted(plugin.excluded_parameters)}; allowed: none")
    return SIPlugin(values[0], xi=checked_damping(plugin.eps, "eps"), gradient="total", clip=False)


def _require_untrained(plugin: object, trained: bool) -> None:
    if trained:
        raise ValueError(
            f"the {type(plugin).__name__} holds importances of experiences already; "
            "allowed: one that has not been trained with"
        )


_CONVERTERS = {AvalancheEWC: _ewc, AvalancheMAS: _mas, AvalancheSI: _si}
