"""Names in a protocol -> modules."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from avalanche.benchmarks import CLExperience, CLScenario
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule, SlimResNet18
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.models.utils import avalanche_forward
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from torch import Tensor, nn
from torch.utils.data import default_collate

from study.errors import ProtocolError
from study.protocol.own_code import build
from study.protocol.settings import AnyModel, Model, OwnModel, Scenario


class MultiHead(MultiTaskModule):
    """A shared trunk and one head for each task, frozen until its experience.

    All heads exist from the start, so evaluation on later experiences does not change training. Frozen heads are not
    anchored at untrained values.

    Args:
        trunk: (N, …) -> (N, features).
        features: width of its output.
        benchmark: with the tasks.
    """

    def __init__(self, trunk: nn.Module, features: int, benchmark: CLScenario) -> None:
        super().__init__()
        self.trunk = trunk
        classes = len(benchmark.train_stream[0].classes_in_this_experience)
        self.heads = MultiHeadClassifier(features, initial_out_features=classes, masking=False)
        for experience in benchmark.train_stream:
            avalanche_model_adaptation(self.heads, experience)
        self.heads.requires_grad_(False)

    def adaptation(self, experience: CLExperience) -> None:
        super().adaptation(experience)
        if self.training:
            for task in experience.task_labels:
                self.heads.classifiers[str(task)].requires_grad_(True)

    def forward(self, x: Tensor, task_labels: Tensor | None) -> Tensor:
        """Logits (N, classes of a task) of inputs (N, …) with task labels (N,); a dict by task without labels."""
        return self.heads(self.trunk(x), task_labels)


def build_model(settings: AnyModel, scenario: Scenario, benchmark: CLScenario, folder: Path = Path()) -> nn.Module:
    """A model initialised from torch's global generator, with a head for each task or one over all classes.

    Raises:
        ProtocolError: a model of the user's own cannot be built, or takes other inputs or gives other outputs.
    """
    classes = {label for experience in benchmark.train_stream for label in experience.classes_in_this_experience}
    if isinstance(settings, OwnModel):
        return _own_model(settings, scenario, benchmark, len(classes), folder)
    image = benchmark.train_stream[0].dataset[0][0]
    trunk, features = _trunk(settings, image)
    if scenario == "task":
        return MultiHead(trunk, features, benchmark)
    if scenario == "class" and settings.unseen_classes == "masked":
        head: nn.Module = IncrementalClassifier(features, initial_out_features=len(classes), masking=True)
    else:
        head = nn.Linear(features, len(classes))
    return nn.Sequential(trunk, head)


def _own_model(
    settings: OwnModel, scenario: Scenario, benchmark: CLScenario, n_classes: int, folder: Path
) -> nn.Module:
    offered = {"n_classes": n_classes, "num_classes": n_classes, "benchmark": benchmark, "scenario": scenario}
    model = build(settings, "model", folder, offered)
    said = f"model.kind = {settings.kind!r}"
    if not isinstance(model, nn.Module):
        raise ProtocolError(f"{said}: it gives a {type(model).__name__}; allowed: a torch.nn.Module")
    if scenario == "task" and not isinstance(model, MultiTaskModule):
        allowed = "an Avalanche MultiTaskModule, as avalanche.models.as_multitask makes one"
        raise ProtocolError(f"{said}: the scenario 'task' has a head for each task; allowed: {allowed}")
    inputs, _, tasks = default_collate([benchmark.train_stream[0].dataset[i] for i in (0, 0)])
    training = model.training
    try:
        with torch.no_grad():
            outputs = avalanche_forward(model.eval(), inputs, tasks)
    except Exception as error:
        raise ProtocolError(f"{said}: it does not take inputs of shape {tuple(inputs.shape)}: {error}") from error
    model.train(training)
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or (scenario != "task" and outputs.shape[1] < n_classes):
        allowed = "(N, classes)" if scenario == "task" else f"(N, {n_classes})"
        raise ProtocolError(f"{said}: for 2 samples it gives {shape}; allowed: logits of shape {allowed}")
    return model


def _trunk(settings: Model, image: Tensor) -> tuple[nn.Module, int]:
    """The network without its last layer, and the width of its features."""
    if settings.name == "mlp":
        return _mlp([image.numel(), *settings.hidden]), settings.hidden[-1]
    if settings.name == "cnn":
        trunk = _cnn([image.shape[0], *settings.hidden])
        with torch.no_grad():
            return trunk, trunk(image.unsqueeze(0)).shape[1]
    if settings.name == "resnet18_reduced":
        network = SlimResNet18(nclasses=1)
        features, network.linear = network.linear.in_features, nn.Identity()
        return network, features
    network = get_wrn_cifar(num_classes=1, blocks=28, width_factor=2)
    return nn.Sequential(network.features, nn.Flatten()), network.output.in_features


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


def _cnn(channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (n_in, n_out) in enumerate(pairwise(channels)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        if index % 2:
            layers.append(nn.MaxPool2d(2))
    # faster on a CPU, where pooling and small convolutions are vectorised over channels
    return nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of one float32 copy of all parameters."""
    return sum(p.numel() for p in model.parameters()) * torch.float32.itemsize
