"""Each model with data for it, and which of its parameters must take a layer's rule."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tests.importance import models

SAMPLES = 6


@dataclass(frozen=True)
class Case:
    """A model and data for it, and which parameters must take a layer's rule."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (5,)
    targets: int | tuple[int, ...] = 3  # classes, or the shape of real-valued targets
    tokens: int | None = None  # inputs are tokens below this
    inputs: Callable[[Tensor], Tensor] = lambda x: x  # what to make of the random inputs
    tasks: tuple[int, ...] | None = None
    likelihood: str = "categorical"
    not_by_rule: tuple[str, ...] = field(default=())  # name prefixes; every other parameter says "rule"
    vectorisable: bool = True
    mask_value: float | None = None

    def model(self) -> nn.Module:
        """The model, the same each time, in training mode as a strategy would hand it over."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.build().train()

    def samples(self) -> tuple[Tensor, ...]:
        """Inputs, targets and, of multi-task models, task labels."""
        generator = torch.Generator().manual_seed(2)
        if self.tokens:
            x = torch.randint(0, self.tokens, (SAMPLES, *self.shape), generator=generator)
        else:
            x = torch.randn(SAMPLES, *self.shape, generator=generator)
        x = self.inputs(x)
        if isinstance(self.targets, int):
            y = torch.arange(SAMPLES) % self.targets
        else:
            y = torch.randn(SAMPLES, *self.targets, generator=generator)
            y = (y > 0).to(y) if self.likelihood == "bernoulli" else y
        return (x, y) if self.tasks is None else (x, y, torch.tensor(self.tasks))


CASES = {
    "mlp": Case(models.mlp),
    "masked in place": Case(models.masked_in_place, targets=1, mask_value=-1000.0),
    "conv2d": Case(models.conv2d, (2, 8, 5)),
    "conv2d at many positions": Case(models.conv2d_at_many_positions, (8, 24, 14)),
    "conv1d": Case(models.conv1d, (4, 9)),
    "conv3d": Case(models.conv3d, (2, 4, 4, 2)),
    "norms": Case(models.norms, (4, 3)),
    "resnet": Case(models.resnet, (2, 6, 6)),
    "resnet with bare parameter": Case(models.resnet_with_bare_parameter, (2, 6, 6), not_by_rule=("scale",)),
    "transformer": Case(models.transformer, (3, 4)),
    "attention": Case(models.attention, (3, 4)),
    "cross-attention": Case(
        models.cross_attention, (3, 4), not_by_rule=("attention.in_proj_weight", "attention.in_proj_bias")
    ),
    "attention over windows": Case(models.attention_over_windows, (4, 4), not_by_rule=("attention",)),
    "class token": Case(models.class_token, (3, 4), not_by_rule=("gain",)),
    "routed attention": Case(
        models.routed_attention,
        (4, 4),
        not_by_rule=("attention",),
        vectorisable=False,
        inputs=lambda x: torch.cat([torch.tensor([1, 1, 1, -1, -1, -1]).view(6, 1, 1) * x[:, :1].abs(), x[:, 1:]], 1),
    ),
    "checkpointed attention": Case(models.checkpointed_attention, (3, 4), vectorisable=False),
    "summands": Case(models.summands, (3, 4)),
    "one number a sample": Case(models.one_number_a_sample, (4,), targets=(), likelihood="gaussian"),
    "a sum of complex numbers": Case(models.a_sum_of_complex_numbers, (4,), not_by_rule=("shift",)),
    "no summands": Case(models.no_summands, (6, 4), not_by_rule=("twice", "position", "weight", "change")),
    "embedding": Case(models.embedding, (5,), tokens=6),
    "gru": Case(models.gru, (4, 4), not_by_rule=("gru",), vectorisable=False),
    "tokens in the batch": Case(models.tokens_in_the_batch, (3, 4), not_by_rule=("token",)),
    "tokens first": Case(models.tokens_first, (4, 4), not_by_rule=("token",)),
    "few tokens first": Case(models.tokens_first, (2, 4), not_by_rule=("token",)),
    "last of tokens first": Case(models.last_of_tokens_first, (3, 4), not_by_rule=("token",)),
    "empty tokens first": Case(
        models.last_of_tokens_first,
        (3, 4),
        not_by_rule=("token",),
        inputs=lambda x: x * torch.tensor([0, 1, 1, 0, 1, 0])[:, None, None],
    ),
    "embedded tokens first": Case(
        models.embedded_tokens_first,
        (3,),
        tokens=40,
        not_by_rule=("table",),
        inputs=lambda x: torch.tensor([[1, 2, 3], [4, 5, 6], [4, 5, 5], [7, 8, 9], [4, 2, 2], [10, 11, 12]]),
    ),
    "tied": Case(models.tied, (3,), not_by_rule=("encoder.weight", "encoder.bias")),
    "tied modules": Case(models.tied_modules, (4,), not_by_rule=("0", "2")),
    "called twice": Case(models.called_twice, (4,), not_by_rule=("step",)),
    "layers on constants": Case(
        models.layers_on_constants,
        (3, 4),
        not_by_rule=("positions", "query", "query_layer", "image", "conv", "task"),
    ),
    "reparametrised": Case(models.reparametrised, not_by_rule=("first.parametrizations", "second.gain")),
    "other layers": Case(models.other_layers, not_by_rule=("1", "2")),
    "keyword call": Case(models.keyword_call, not_by_rule=("head",)),
    "multi-head, mixed tasks": Case(
        models.MultiHead, targets=3, tasks=(0, 1, 1, 0, 1, 0), vectorisable=False, mask_value=-1000.0
    ),
    "multi-head, one task": Case(models.MultiHead, targets=3, tasks=(1,) * 6, vectorisable=False, mask_value=-1000.0),
    "incremental": Case(models.incremental, targets=2, mask_value=-1000.0),
    "regression": Case(lambda: models.mlp(2), targets=(2,), likelihood="gaussian"),
    "regression of a map": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 2, 3), nn.Tanh(), nn.Conv1d(2, 2, 2)),
        (2, 5),
        targets=(2, 2),
        likelihood="gaussian",
    ),
    "multi-label": Case(lambda: models.mlp(3), targets=(3,), likelihood="bernoulli"),
}
