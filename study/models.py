"""Names in a protocol -> modules."""

from collections.abc import Sequence
from itertools import pairwise

from avalanche.benchmarks import NCExperience, NCScenario
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from torch import Tensor, nn

from study.protocol import Model, Scenario

N_INPUTS = 64  # pixels of a digit


class MultiHeadMLP(MultiTaskModule):
    """A shared trunk, and for each task a head of its own that is frozen until its experience comes.

    All heads are there from the start, so that looking at the accuracy on experiences to come changes nothing
    in training. Being frozen until then, they are not anchored at values that were never trained.

    Args:
        trunk: (N, inputs) -> (N, features).
        features: its output's width.
        benchmark: with the tasks to make heads for.
    """

    def __init__(self, trunk: nn.Module, features: int, benchmark: NCScenario) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = MultiHeadClassifier(features, initial_out_features=2, masking=False)
        for experience in benchmark.train_stream:
            avalanche_model_adaptation(self.heads, experience)
        self.heads.requires_grad_(False)

    def adaptation(self, experience: NCExperience) -> None:
        """Let the heads of an experience that is about to be trained on learn."""
        super().adaptation(experience)
        if self.training:
            for task in experience.task_labels:
                self.heads.classifiers[str(task)].requires_grad_(True)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Logits, shape (N, classes of a task), of inputs (N, inputs) with task labels (N,)."""
        return self.heads(self.trunk(x), task_labels)


def build_model(settings: Model, scenario: Scenario, benchmark: NCScenario) -> nn.Module:
    """A fresh model, initialised from torch's global generator.

    One head a task in the task-incremental scenario, otherwise one head over all classes that labels name.
    """
    trunk = _trunk([N_INPUTS, *settings.hidden])
    features = settings.hidden[-1]
    if scenario == "task":
        return MultiHeadMLP(trunk, features, benchmark)
    classes = {label for experience in benchmark.train_stream for label in experience.classes_in_this_experience}
    return nn.Sequential(*trunk, nn.Linear(features, len(classes)))


def _trunk(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)
