"""Every estimator on every kind of model equals the slow reference, on the fast and on the general paths."""

import functools

import pytest
import torch
from torch.utils.data import TensorDataset

from clreg_plugins.importance import fisher_diagonal, mas_importance
from clreg_plugins.importance.engine.cotangents import draws_and_targets, fisher_cotangents
from tests import oracles
from tests.importance.cases import CASES, SAMPLES

# of even kernels, padded "same", PyTorch says once that it pads by hand
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

ESTIMATORS = (
    "fisher exact",
    "fisher sample",
    "fisher predicted",
    "fisher empirical",
    "fisher batched",
    "mas squared_norm",
    "mas mean_square",
    "mas vector",
    "mas batched",
)
PAIRS = [
    (case, e) for case in CASES for e in ESTIMATORS if (CASES[case].likelihood, e) != ("gaussian", "fisher predicted")
]
DRAWS, SEED, BATCH = 3, 5, 4  # 6 samples: a batch of 4 and one of 2


@functools.cache
def drawn_labels(case_name: str) -> list[torch.Tensor]:
    """The targets behind the cotangents that "sample" begins with, one for each draw, batch b with seed + b."""
    case = CASES[case_name]
    model, samples = case.model().double().eval(), case.samples()
    draws = [[] for _ in range(DRAWS)]
    for index, start in enumerate(range(0, SAMPLES, BATCH)):
        with torch.no_grad():
            z = oracles._outputs(model, tuple(part[start : start + BATCH] for part in samples))
        generator = torch.Generator().manual_seed(SEED + index)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(draws_and_targets, "FEW_OUTPUTS", 0)
            each = [*fisher_cotangents("sample", case.likelihood, DRAWS).vectors(z, None, generator)]
        for s, v in enumerate(each):
            v = v * DRAWS**0.5
            if case.likelihood == "categorical":
                draws[s].append(v.argmax(dim=1))
            elif case.likelihood == "gaussian":
                draws[s].append(z + v)
            else:
                draws[s].append((v > 0).double())
    return [torch.cat(parts) for parts in draws]


@functools.cache
def reference(case_name: str, estimator: str) -> oracles.Tensors:
    case = CASES[case_name]
    model, samples = case.model(), case.samples()
    kind, name = estimator.split()
    if estimator == "mas batched":
        return oracles.mas(model, samples, output="squared_norm", batch_size=BATCH)
    if kind == "mas":
        return oracles.mas(model, samples, output=name, mask_value=case.mask_value)
    if name == "batched":
        return oracles.batched_fisher(model, samples, likelihood=case.likelihood, batch_size=BATCH)
    drawn = drawn_labels(case_name) if name == "sample" else None
    return oracles.fisher(model, samples, variant=name, likelihood=case.likelihood, drawn=drawn)


def measure(case_name: str, estimator: str, dtype: torch.dtype, path: str):
    case = CASES[case_name]
    samples = tuple(part.to(dtype) if part.is_floating_point() else part for part in case.samples())
    model, data = case.model().to(dtype), TensorDataset(*samples)
    kind, name = estimator.split()
    options = {"batch_size": BATCH, "seed": SEED, "path": path}
    with oracles.default_dtype(dtype):
        if estimator == "mas batched":
            return mas_importance(model, data, per_sample=False, **options)
        if kind == "mas":
            return mas_importance(model, data, output=name, mask_value=case.mask_value, **options)
        options["draws"] = DRAWS
        return fisher_diagonal(model, data, variant=name, likelihood=case.likelihood, **options)


@pytest.mark.filterwarnings("error:the fast rule for")
@pytest.mark.parametrize(("case", "estimator"), PAIRS)
def test_estimator_equals_reference(case, estimator):
    exact = measure(case, estimator, torch.float64, "auto")
    oracles.assert_close(exact, reference(case, estimator), 1e-10, "float64")
    single = measure(case, estimator, torch.float32, "auto")
    oracles.assert_close(single, reference(case, estimator), 1e-4, "float32")


PER_SAMPLE = [pair for pair in PAIRS if "batched" not in pair[1]]


@pytest.mark.parametrize(("case", "estimator"), PER_SAMPLE)
def test_general_paths_equal_reference(case, estimator):
    expected = reference(case, estimator)
    slow = measure(case, estimator, torch.float64, "one_at_a_time")
    oracles.assert_close(slow, expected, 1e-10, "one_at_a_time")
    assert set(slow.paths.values()) <= {"one_at_a_time", "unused"}
    if CASES[case].vectorisable:
        vectorised = measure(case, estimator, torch.float64, "vectorised")
        oracles.assert_close(vectorised, expected, 1e-10, "vectorised")
        assert set(vectorised.paths.values()) <= {"vectorised", "unused"}
    else:
        with pytest.raises(ValueError, match=r"path is 'vectorised', but .*; allowed: auto, one_at"):
            measure(case, estimator, torch.float64, "vectorised")


@pytest.mark.parametrize("case", CASES)
def test_only_parameters_without_a_rule_take_the_general_path(case):
    """One bare Parameter must not slow down a whole ResNet."""
    paths = measure(case, "fisher exact", torch.float64, "auto").paths
    other = CASES[case].not_by_rule
    expected = "vectorised" if CASES[case].vectorisable else "one_at_a_time"
    for name, path in paths.items():
        general = any(name == prefix or name.startswith(prefix + ".") for prefix in other)
        wanted = {expected} if general else {"rule"}
        if "multi-head, one task" in case and ".0.classifier" in name:
            wanted = {"unused"}
        assert path in wanted, f"{name} took {path}, expected {wanted}"
