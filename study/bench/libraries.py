"""Passes of other libraries; those that are not installed are named."""

import copy
import importlib
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from study.bench.passes import Importance, Pass
from study.bench.workloads import Images

HUTCHINSON_PRODUCTS = 10

Cotangents = Callable[[Tensor, Tensor], list[Tensor]]
"""``(outputs of one sample, its target) -> cotangents at the outputs``."""


def other_libraries() -> tuple[list[Pass], dict[str, str]]:
    """The passes of all libraries that are installed, and for each missing one the reason."""
    found, missing = torch_func(), {}
    for name, passes in (("BackPACK", backpack), ("curvlinops", curvlinops)):
        try:
            found += passes(_imported(name.lower()))
        except ImportError as error:
            missing[name] = f"not installed ({error}); `pip install -e '.[bench]'` installs it"
    return found, missing


def _imported(name: str) -> ModuleType:
    with warnings.catch_warnings():  # deprecated features that they use
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def torch_func() -> list[Pass]:
    """Per-sample vector–Jacobian products with ``vmap``."""
    kinds = (("exact Fisher", _exact, 2), ("empirical Fisher", _empirical, 2), ("MAS", lambda z, _: [2 * z], 1))
    return [
        Pass(computes, "torch.func", partial(_vmap, cotangents=cotangents, power=power), chooses_batch=True)
        for computes, cotangents, power in kinds
    ]


def _exact(z: Tensor, _: Tensor) -> list[Tensor]:
    pi = z.softmax(dim=0)
    return [root * (unit - pi) for root, unit in zip(pi.sqrt(), torch.eye(len(z), device=z.device), strict=True)]


def _empirical(z: Tensor, y: Tensor) -> list[Tensor]:
    return [F.one_hot(y, len(z)) - z.softmax(dim=0)]


def _vmap(model: nn.Module, images: Images, batch: int, *, cotangents: Cotangents, power: int) -> Importance:
    model.eval()
    values = {name: p.detach() for name, p in model.named_parameters()}

    def of_one(x: Tensor, y: Tensor) -> Importance:
        z, pull_back = vjp(lambda changed: functional_call(model, changed, (x.unsqueeze(0),))[0], values)
        squares: dict[str, Tensor] = {}
        for v in cotangents(z.detach(), y):
            for name, gradient in pull_back(v)[0].items():
                squares[name] = squares[name] + gradient.square() if name in squares else gradient.square()
        return squares if power == 2 else {name: square.sqrt() for name, square in squares.items()}

    totals = {name: torch.zeros_like(value) for name, value in values.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel that vmap supports
        for x, y in zip(images.inputs.split(batch), images.targets.split(batch), strict=True):
            for name, moment in vmap(of_one)(x, y).items():
                totals[name] += moment.sum(dim=0)
    return {name: total / len(images.inputs) for name, total in totals.items()}


def backpack(library: ModuleType) -> list[Pass]:
    """BackPACK's first-order and second-order extensions (Dangel, Kunstner and Hennig 2020)."""
    extensions = _imported("backpack.extensions")
    sample = partial(extensions.DiagGGNMC, mc_samples=1)
    kinds = (("exact", extensions.DiagGGNExact), ("sample", sample), ("empirical", extensions.SumGradSquared))
    return [
        Pass(
            f"{variant} Fisher",
            "BackPACK",
            partial(_backpack, library, extension, variant != "empirical"),
            chooses_batch=True,
            random=variant == "sample",
        )
        for variant, extension in kinds
    ]


def _backpack(
    library: ModuleType, extension: Callable[[], Any], converter: bool, model: nn.Module, images: Images, batch: int
) -> Importance:
    is_a_chain = isinstance(model, nn.Sequential)  # BackPACK rewrites any other model
    extended = library.extend(copy.deepcopy(model).eval(), use_converter=converter and not is_a_chain)
    # a sum over samples: its squared gradients, and the diagonal of its GGN, add up over batches
    criterion = library.extend(nn.CrossEntropyLoss(reduction="sum"))
    totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    quantity = extension()
    for x, y in zip(images.inputs.split(batch), images.targets.split(batch), strict=True):
        with library.backpack(quantity), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its hooks fire at layers whose inputs need no gradient
            criterion(extended(x), y).backward()
        for total, p in zip(totals.values(), extended.parameters(), strict=True):
            total += getattr(p, quantity.savefield)
            p.grad = None
    return {name: total / len(images.inputs) for name, total in totals.items()}


def curvlinops(library: ModuleType) -> list[Pass]:
    """curvlinops estimates the diagonal of the GGN, here the exact Fisher, from products with random vectors."""
    note = f"curvlinops: Hutchinson's estimate from {HUTCHINSON_PRODUCTS} products; it has no exact diagonal."
    measure = partial(_hutchinson, library)
    return [Pass("exact Fisher", "curvlinops", measure, chooses_batch=True, random=True, note=note)]


def _hutchinson(library: ModuleType, model: nn.Module, images: Images, batch: int) -> Importance:
    model.eval()
    parameters = dict(model.named_parameters())
    data = list(zip(images.inputs.split(batch), images.targets.split(batch), strict=True))
    operator = library.GGNLinearOperator(
        model, nn.CrossEntropyLoss(), list(parameters.values()), data, check_deterministic=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated features that it uses
        diagonal = library.hutchinson_diag(operator, HUTCHINSON_PRODUCTS)
    parts = diagonal.split([p.numel() for p in parameters.values()])
    return {name: part.view_as(p).detach() for (name, p), part in zip(parameters.items(), parts, strict=True)}
