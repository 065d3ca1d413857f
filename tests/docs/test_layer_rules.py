"""The page on layers' own rules: its rules give what the definition gives."""

import pytest
import torch
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance, register_layer_rule
from tests import oracles
from tests.docs.pages import run


@pytest.fixture(scope="module")
def page():
    return run("docs/layer_rules.md")


@pytest.mark.parametrize(
    ("model", "importance"),
    [("model", "general"), ("model", "fast"), ("model", "checked"), ("low_rank", "factors"), ("normed", "norms")],
)
def test_the_pages_importances_are_the_fisher(page, model, importance):
    """By the general path, by a rule, and where a wrong rule was found out."""
    got = page[importance]
    want = oracles.fisher(page[model], page["data"].tensors, variant="exact", likelihood="categorical")
    oracles.assert_close(got, want, 1e-4, importance)
    assert not any(value.requires_grad for value in got.values()), f"{importance}: a graph is left on it"


@pytest.mark.parametrize("layer", ["Scale", "LowRank", "LlamaRMSNorm"])
def test_its_rules_hold_at_several_positions_and_for_mas(page, layer):
    module = page[layer](*{"LowRank": (4, 4, 2)}.get(layer, (4,)))
    torch.nn.init.normal_(next(module.parameters()))
    model = torch.nn.Sequential(module, torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(12, 20))
    x = torch.randn(9, 3, 4)
    found = {
        "Fisher": fisher_diagonal(model, TensorDataset(x)),
        "squared_norm": mas_importance(model, TensorDataset(x)),
        "vector": mas_importance(model, TensorDataset(x), output="vector"),
    }
    for what, got in found.items():
        assert set(got.paths.values()) == {"rule"}, f"{what}: {got.paths}"
        assert not any(value.requires_grad for value in got.values()), f"{what}: a graph is left on the importance"
        if what == "Fisher":
            want = oracles.fisher(model, (x,), variant="exact", likelihood="categorical")
        else:
            want = oracles.mas(model, (x,), output=what)
        oracles.assert_close(got, want, 1e-4, what)


@pytest.mark.parametrize("gradients", ["the sum", "the sum over √K", "the first"])
def test_a_rule_that_is_right_for_one_vector_alone_is_found_out(page, gradients):
    class Mixed(page["ScaleRule"]):
        def gradients(self, module, a, g):
            product = torch.einsum("ni,nki->nki", a, g)
            if gradients == "the first":
                return {"scale": product[:, :1]}
            return {"scale": product.sum(1, keepdim=True) / (g.shape[1] ** 0.5 if "√" in gradients else 1)}

    register_layer_rule(page["Scale"], Mixed())
    try:
        with pytest.warns(UserWarning, match=r"the fast rule for 1\.scale disagrees with autograd"):
            got = fisher_diagonal(page["model"], page["data"])
    finally:
        register_layer_rule(page["Scale"], page["ScaleRule"]())
    oracles.assert_close(got, dict(page["fast"]), 1e-4, "with a wrong rule")


def test_a_rule_that_does_not_apply_leaves_its_layer_to_the_general_path(page):
    class Never(page["ScaleRule"]):
        def applies(self, module):
            return False

    register_layer_rule(page["Scale"], Never())
    try:
        got = fisher_diagonal(page["model"], page["data"])
    finally:
        register_layer_rule(page["Scale"], page["ScaleRule"]())
    assert got.paths["1.scale"] == "vectorised"
    oracles.assert_close(got, dict(page["fast"]), 1e-4, "without the rule")
