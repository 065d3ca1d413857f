"""Other libraries that measure a diagonal Fisher; those that are not installed are said to be missing."""

import copy
import importlib
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from study.bench.passes import Moments, Pass
from study.bench.record import PEERS

HUTCHINSON_PRODUCTS = 10

Cotangents = Callable[[Tensor, Tensor], list[Tensor]]


def other_libraries() -> tuple[list[Pass], dict[str, str]]:
    """The passes of all libraries that are here, and why others are not, by name."""
    found, missing = torch_func(), {}
    for module, passes in (("backpack", backpack), ("curvlinops", curvlinops)):
        try:
            found += passes(_imported(module))
        except ImportError as error:
            missing[PEERS[module]] = f"not installed ({error}); `pip install clreg[bench]` brings it"
    return found, missing


def _imported(name: str) -> ModuleType:
    with warnings.catch_warnings():  # of deprecated things that they use
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------ torch.func


def _exact(z: Tensor, _: Tensor) -> list[Tensor]:
    pi = z.softmax(dim=0)
    return [root * (unit - pi) for root, unit in zip(pi.sqrt(), torch.eye(len(z), device=z.device), strict=True)]


def _empirical(z: Tensor, y: Tensor) -> list[Tensor]:
    return [F.one_hot(y, len(z)) - z.softmax(dim=0)]


def _squared_norm(z: Tensor, _: Tensor) -> list[Tensor]:
    return [2 * z]


def _vmap(
    model: nn.Module, inputs: Tensor, targets: Tensor, batch: int, *, cotangents: Cotangents, power: int
) -> Moments:
    """Per-sample vector–Jacobian products, vectorised over the samples of a batch."""
    model.eval()
    values = {name: p.detach() for name, p in model.named_parameters()}

    def of_one(x: Tensor, y: Tensor) -> Moments:
        z, pull_back = vjp(lambda changed: functional_call(model, changed, (x.unsqueeze(0),))[0], values)
        squares: dict[str, Tensor] = {}
        for v in cotangents(z.detach(), y):
            for name, gradient in pull_back(v)[0].items():
                squares[name] = squares[name] + gradient.square() if name in squares else gradient.square()
        return squares if power == 2 else {name: square.sqrt() for name, square in squares.items()}

    totals = {name: torch.zeros_like(value) for name, value in values.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the one attention kernel that vmap can batch
        for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
            for name, moment in vmap(of_one)(x, y).items():
                totals[name] += moment.sum(dim=0)
    return {name: total / len(inputs) for name, total in totals.items()}


def torch_func() -> list[Pass]:
    """What a user of PyTorch writes with ``vmap``."""
    return [
        Pass("exact Fisher", "torch.func", partial(_vmap, cotangents=_exact, power=2)),
        Pass("empirical Fisher", "torch.func", partial(_vmap, cotangents=_empirical, power=2)),
        Pass("MAS, squared norm", "torch.func", partial(_vmap, cotangents=_squared_norm, power=1)),
    ]


# -------------------------------------------------------------------------------------------------- BackPACK


def _backpack(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    batch: int,
    *,
    library: ModuleType,
    extension: Callable[[], object],
    converter: bool,
) -> Moments:
    extended = library.extend(copy.deepcopy(model).eval(), use_converter=converter and _branches(model))
    # a sum over samples: its squared gradients, and the diagonal of its GGN, add up over batches
    criterion = library.extend(nn.CrossEntropyLoss(reduction="sum"))
    totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    quantity = extension()
    for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
        with library.backpack(quantity), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its hooks, which fire at layers whose inputs need no gradient
            criterion(extended(x), y).backward()
        for total, p in zip(totals.values(), extended.parameters(), strict=True):
            total += getattr(p, quantity.savefield)
            p.grad = None
    return {name: total / len(inputs) for name, total in totals.items()}


def _branches(model: nn.Module) -> bool:
    """Whether a model is more than a chain of layers: BackPACK then rewrites it."""
    return not isinstance(model, nn.Sequential)


def backpack(library: ModuleType) -> list[Pass]:
    """BackPACK's first-order and second-order extensions (Dangel, Kunstner and Hennig 2020)."""
    extensions = _imported("backpack.extensions")
    monte_carlo = partial(extensions.DiagGGNMC, mc_samples=1)
    kinds = {
        "exact Fisher": (extensions.DiagGGNExact, True, False),
        "empirical Fisher": (extensions.SumGradSquared, False, False),
        "sample Fisher": (monte_carlo, True, True),
    }
    return [
        Pass(
            computes,
            "BackPACK",
            partial(_backpack, library=library, extension=extension, converter=converter),
            random=random,
            all_classes_at_once=extension is extensions.DiagGGNExact,
        )
        for computes, (extension, converter, random) in kinds.items()
    ]


# ------------------------------------------------------------------------------------------------ curvlinops


def _hutchinson(model: nn.Module, inputs: Tensor, targets: Tensor, batch: int, *, library: ModuleType) -> Moments:
    model.eval()
    parameters = dict(model.named_parameters())
    data = list(zip(inputs.split(batch), targets.split(batch), strict=True))
    operator = library.GGNLinearOperator(
        model, nn.CrossEntropyLoss(), list(parameters.values()), data, check_deterministic=False
    )
    diagonal = library.hutchinson_diag(operator, HUTCHINSON_PRODUCTS)
    parts = diagonal.split([p.numel() for p in parameters.values()])
    return {name: part.view_as(p).detach() for (name, p), part in zip(parameters.items(), parts, strict=True)}


def curvlinops(library: ModuleType) -> list[Pass]:
    """curvlinops estimates the diagonal of the GGN, here the exact Fisher, from products with random vectors."""
    note = f"its released version has no exact diagonal: Hutchinson's estimate from {HUTCHINSON_PRODUCTS} products"
    measure = partial(_hutchinson, library=library)
    return [Pass("exact Fisher, estimated", "curvlinops", measure, random=True, note=note)]
