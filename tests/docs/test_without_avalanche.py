"""The page on loops, Trainers and adapters: its numbers are those of slow float64 references."""

import copy
from collections.abc import Callable, Iterator
from contextlib import chdir
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clreg_plugins import QuadraticPenalty, fisher_diagonal
from tests import oracles
from tests.docs.pages import blocks, run
from tests.oracles import Tensors

PAGE = "docs/without_avalanche.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict[str, Any]:
    """What the page leaves behind; ``trained[id(penalty)]`` holds the plain loop's model after each task."""
    trained: dict[int, list[nn.Module]] = {}

    def record(names: dict[str, Any]) -> None:
        if "trained" in names:
            return
        train, names["trained"] = names["train"], trained

        def recorded(task: Any, penalty: QuadraticPenalty, reg_lambda: float) -> None:
            train(task, penalty, reg_lambda)
            trained.setdefault(id(penalty), []).append(copy.deepcopy(names["model"]))

        names["train"] = recorded

    with chdir(tmp_path_factory.mktemp("page")):
        return run(PAGE, record)


def parameters_of(model: nn.Module) -> Tensors:
    return {name: p.detach() for name, p in model.named_parameters()}


# --------------------------------------------------------------- the plain loop


def _fisher(model: nn.Module, samples: oracles.Samples) -> Tensors:
    return oracles.fisher(model, samples, variant="exact", likelihood="categorical")


def _terms(name: str, models: list[nn.Module], tasks: list[Any]) -> list[tuple[float, Tensors, Tensors]]:
    """(weight, importance, anchor) of each task's term, by the definition of the method."""
    anchors, last = [parameters_of(model) for model in models], len(models) - 1
    if name == "ewc":
        return [(1.0, _fisher(m, t.tensors), a) for m, t, a in zip(models, tasks, anchors, strict=True)]
    if name == "online":
        fishers = [_fisher(m, t.tensors) for m, t in zip(models, tasks, strict=True)]
        return [(0.9 ** (last - i), fisher, anchors[last]) for i, fisher in enumerate(fishers)]
    if name == "mas":
        found = [oracles.mas(m, t.tensors, output="squared_norm") for m, t in zip(models, tasks, strict=True)]
        return [(1 / len(found), importance, anchors[last]) for importance in found]
    return [(1.0, {n: torch.ones_like(p) for n, p in anchors[last].items()}, anchors[last])]


@pytest.mark.parametrize("name", ["ewc", "online", "mas", "l2"])
def test_the_plain_loops_penalty_and_its_gradient_are_the_explicit_sum(page, name):
    models = page["trained"][id(page[name])]
    assert len(models) == len(page["tasks"]) == 3
    here = {n: (p + 0.1 * torch.randn_like(p)).detach().requires_grad_() for n, p in page["parameters"].items()}
    value, gradient = oracles.quadratics(_terms(name, models, page["tasks"]), here)
    term = page[name].loss_term(here, 3.0)
    assert term.item() == pytest.approx(1.5 * value, rel=1e-4), f"{name}: {term.item()}, by definition {1.5 * value}"
    found = dict(zip(here, torch.autograd.grad(term, here.values()), strict=True))
    oracles.assert_close(found, {n: 1.5 * g for n, g in gradient.items()}, 1e-4, name)


def test_each_method_takes_fewer_than_ten_lines():
    for name in ("ewc", "online", "mas", "l2"):
        block = next(b for b in blocks(PAGE) if b.startswith(f"{name} = QuadraticPenalty()"))
        assert len(block.splitlines()) < 10, f"{name} takes {len(block.splitlines())} lines"


# ---------------------------------------------------------------------- Trainer


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("kind", ["language_model", "classifier"])
def test_an_update_of_trainer_contains_the_penaltys_gradient_once(page, kind, accumulated, tmp_path):
    """The update with the penalty less the one without is −lr · λ Ω (θ − θ*), however many batches make a step."""
    data = page["texts"][0] if kind == "language_model" else page["reviews"]
    before, rate, reg_lambda = parameters_of(page[kind]), 0.1, 0.5
    importance = {n: torch.rand_like(p) for n, p in before.items()}
    anchor = {n: (p + torch.randn_like(p)).detach() for n, p in before.items()}
    arguments = page["TrainingArguments"](
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulated,
        max_grad_norm=0,
        lr_scheduler_type="constant",
        learning_rate=rate,
        optim="sgd",
        save_strategy="no",
        use_cpu=True,
    )
    after = []
    for strength in (0.0, reg_lambda):
        model, penalty = copy.deepcopy(page[kind]), QuadraticPenalty()
        penalty.grow(before)
        penalty.add_term(importance, anchor)
        page["RegularizedTrainer"](model, arguments, train_dataset=data, penalty=penalty, reg_lambda=strength).train()
        after.append(parameters_of(model))
    _, gradient = oracles.quadratics([(1.0, importance, anchor)], before)
    update = {n: after[1][n] - after[0][n] for n in before}
    oracles.assert_close(update, {n: -rate * reg_lambda / 2 * g for n, g in gradient.items()}, 1e-4, kind)


def test_trainers_loss_contains_the_penalty_in_training_alone(page, tmp_path):
    model, penalty = copy.deepcopy(page["language_model"]), QuadraticPenalty()
    trainer = page["RegularizedTrainer"](
        model, page["TrainingArguments"](str(tmp_path), use_cpu=True), penalty=penalty, reg_lambda=4.0
    )
    ones = {n: torch.ones_like(p) for n, p in parameters_of(model).items()}
    penalty.add_term(ones, {n: p + 0.1 for n, p in parameters_of(model).items()})
    batch = next(iter(DataLoader(page["texts"][0], batch_size=4)))
    task = model.eval()(**batch).loss.item()
    assert trainer.compute_loss(model, batch).item() == pytest.approx(task)
    want = task + 2 * 0.01 * sum(p.numel() for p in model.parameters())
    got = trainer.compute_loss(model.train(), batch).item()
    assert got == pytest.approx(want, rel=1e-5), f"the loss is {got}, task and penalty are {want}"


# ------------------------------------------------------------ sequences, padded


def _unpadded(task: list[Tensors]) -> Iterator[tuple[Tensor, Tensors]]:
    """Each sequence alone and cut to its length: there is no padding that could count."""
    for text in task:
        yield text["input_ids"][: int(text["attention_mask"].sum())].unsqueeze(0), text


def _mean_over(task: list[Tensors], moments: Callable[[Tensor, Tensors], Iterator[Tensors]]) -> Tensors:
    total: Tensors = {}
    for tokens, text in _unpadded(task):
        for moment in moments(tokens, text):
            total = oracles._add(total, moment, 1 / len(task))
    return total


def language_model_fisher(model: nn.Module, task: list[Tensors], variant: str) -> Tensors:
    """One sequence and, for "exact", one label of one position at a time. Norms of Llama stay in float32."""
    model = oracles._double(model)

    def moments(tokens: Tensor, text: Tensors) -> Iterator[Tensors]:
        log_p = model(tokens).logits[0, :-1].log_softmax(dim=-1)
        if variant == "exact":
            for position in log_p:
                for label in position:
                    yield oracles._scaled(oracles._squared(oracles._gradient(model, label)), label.exp().item())
            return
        labels = log_p.argmax(dim=-1) if variant == "predicted" else tokens[0, 1:]
        yield oracles._squared(oracles._gradient(model, sum(log_p[t, y] for t, y in enumerate(labels.tolist()))))

    return _mean_over(task, moments)


def assert_close(got: Tensors, want: Tensors, what: str) -> None:
    """Attention's key biases have the gradient 0, up to the rounding of what cancels there."""
    floor = 1e-14 * max(value.max().item() for value in want.values())
    got, want = ({n: torch.where(v > floor, v, 0) for n, v in tensors.items()} for tensors in (got, want))
    oracles.assert_close(got, want, 1e-4, what)


@pytest.mark.parametrize("variant", ["exact", "predicted", "empirical"])
def test_a_language_models_fisher_leaves_padding_out(page, variant):
    model, task = page["language_model"], page["texts"][0]
    got = fisher_diagonal(model, DataLoader(task, batch_size=3), variant=variant, **page["reading"])
    assert_close(got, language_model_fisher(model, task, variant), variant)


def test_the_batched_variant_squares_the_gradient_of_a_batchs_mean(page):
    model, task = page["language_model"], page["texts"][0]
    got = fisher_diagonal(model, DataLoader(task, batch_size=2), variant="batched", **page["reading"])
    double, want = oracles._double(model), {}
    for start in (0, 2):
        mean = sum(
            double(tokens).logits[0, :-1].log_softmax(dim=-1).gather(1, tokens[0, 1:, None]).sum()
            for tokens, _ in _unpadded(task[start : start + 2])
        )
        want = oracles._add(want, oracles._squared(oracles._gradient(double, mean / 2)), 1 / 2)
    assert_close(got, want, "batched")


def test_a_draw_takes_a_label_at_every_position_and_estimates_the_exact_fisher(page):
    """Within 5 standard errors, entry by entry, and no closer than chance allows over all entries."""
    model, loader = page["language_model"], DataLoader(page["texts"][0], batch_size=4)
    runs = [
        fisher_diagonal(model, loader, variant="sample", draws=20, seed=1000 * run, **page["reading"])
        for run in range(30)
    ]
    scores = []
    for name, want in language_model_fisher(model, page["texts"][0], "exact").items():
        draws = torch.stack([run[name].double() for run in runs])
        drawn = draws.std(dim=0) > 1e-3 * want.max()  # tokens that no sequence holds have 0 without an error
        z = (draws.mean(dim=0) - want)[drawn] / (draws.std(dim=0)[drawn] / len(runs) ** 0.5)
        assert z.abs().max() < 5, f"{name}: {z.abs().max():.2f} standard errors from the exact Fisher"
        scores.append(z)
    spread = torch.cat(scores).square().mean().sqrt().item()
    assert 0.5 < spread < 1.6, f"deviations are {spread:.2f} standard errors on average, expected about 1"


def test_a_sequence_without_a_label_is_no_sample(page):
    """One token has no next one: it does not count in N."""
    model, task = page["language_model"], page["texts"][0]
    loader = DataLoader([page["sequence"](1), *task], batch_size=2)
    for variant in ("exact", "empirical"):
        got = fisher_diagonal(model, loader, variant=variant, **page["reading"])
        assert_close(got, language_model_fisher(model, task, variant), variant)


def test_mas_of_a_language_model_leaves_padding_out(page):
    model = oracles._double(page["language_model"])

    def moments(tokens: Tensor, text: Tensors) -> Iterator[Tensors]:
        gradient = oracles._gradient(model, model(tokens).logits.square().sum())
        yield {name: value.abs() for name, value in gradient.items()}

    assert_close(page["sensitivity"], _mean_over(page["texts"][0], moments), "MAS")


def test_a_sequence_classifiers_fisher_needs_the_dataloader_alone(page):
    model = oracles._double(page["classifier"])

    def moments(tokens: Tensor, text: Tensors) -> Iterator[Tensors]:
        for label in model(tokens).logits[0].log_softmax(dim=-1):
            yield oracles._scaled(oracles._squared(oracles._gradient(model, label)), label.exp().item())

    assert_close(page["review_fisher"], _mean_over(page["reviews"], moments), "exact")
    loader = DataLoader(page["reviews"], batch_size=2)
    got = fisher_diagonal(page["classifier"], loader, variant="empirical")

    def true_label(tokens: Tensor, text: Tensors) -> Iterator[Tensors]:
        log_p = model(tokens).logits[0].log_softmax(dim=-1)
        yield oracles._squared(oracles._gradient(model, log_p[text["labels"]]))

    assert_close(got, _mean_over(page["reviews"], true_label), "empirical")


# ------------------------------------------------------------------------- LoRA


@pytest.mark.parametrize("variant", ["exact", "empirical"])
def test_adapters_have_their_fisher_and_the_base_has_none(page, variant):
    lora, task, adapters = page["lora"], page["texts"][1], page["adapters"]
    got = fisher_diagonal(lora, DataLoader(task, batch_size=2), variant=variant, **page["reading"])
    assert_close(got, language_model_fisher(lora, task, variant), variant)
    assert all(".lora_A." in name or ".lora_B." in name for name in adapters)
    assert all(got[name].any() for name in adapters), "an adapter that was trained has importance 0"
    assert not any(got[name].any() for name in got if name not in adapters), "a frozen weight has an importance"


def test_only_b_matters_before_training(page):
    lora = page["get_peft_model"](page["LlamaForCausalLM"](page["config"]), page["adapted"])
    got = fisher_diagonal(lora, DataLoader(page["texts"][0], batch_size=2), variant="empirical", **page["reading"])
    assert {name for name, value in got.items() if value.any()} == {n for n in page["adapters"] if ".lora_B." in n}


def test_the_penalty_holds_the_adapters_alone(page):
    penalty = page["lora_penalty"]
    assert set(penalty.importance) == set(page["adapters"]) == set(penalty.active)
    assert penalty.n_terms == 2
