"""The models and data that everything is measured on: random images, since times do not depend on what they show."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18, resnet50, vit_b_16


@dataclass(frozen=True)
class Workload:
    """A model and how much data it gets.

    Attributes:
        name: in tables.
        build: a model with so many outputs; for a CPU one that another process can be sent.
        shape: of an image.
        batch: images in a training step.
        samples: images in an importance pass.
        wide: numbers of images that another library's pass may take at a time, of which it takes what suits it best;
            those for each class at once if there are at most 10.
    """

    name: str
    build: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    batch: int = 128
    samples: int = 512
    wide: tuple[int, ...] = (16, 32, 64, 128, 256)

    def at_a_time(self, classes: int, all_classes_at_once: bool) -> tuple[int, ...]:
        """Images that a peer may take at a time."""
        if not all_classes_at_once:
            return self.wide
        return tuple(max(1, wide * 10 // max(10, classes)) for wide in self.wide)

    def model(self, classes: int, device: torch.device) -> nn.Module:
        """The same initial model each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build(classes).to(device)

    def images(self, n: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs of shape (n, *shape), uniform in [0, 1], and labels of shape (n,)."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(n, *self.shape, generator=generator)
        return inputs.to(device), torch.randint(0, classes, (n,), generator=generator).to(device)


def mlp(hidden: int, classes: int = 10) -> nn.Module:
    """784-hidden-hidden-classes with ReLU."""
    layers = [nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


def cnn(classes: int) -> nn.Module:
    """Four 3×3 convolutions with 32, 32, 64 and 64 channels on 32×32 images, halved after the second and the fourth."""
    layers: list[nn.Module] = []
    for n_in, n_out, halve in ((3, 32, False), (32, 32, True), (32, 64, False), (64, 64, True)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        if halve:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, classes))


def small_vit(classes: int) -> nn.Module:
    """torchvision's VisionTransformer on 32×32 images: patches of 8×8, width 128, 4 layers of 4 heads."""
    return with_outputs(VisionTransformer(32, 8, 4, 4, 128, 256, num_classes=classes))


def with_outputs(model: VisionTransformer) -> VisionTransformer:
    """torchvision's, whose head is zero at first, with outputs that depend on the other layers from the start."""
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return model


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class ReducedResNet18(nn.Module):
    """The ResNet-18 of a third of the width that the field uses (Lopez-Paz and Ranzato 2017), 32×32 images.

    Layer by layer Avalanche's ``SlimResNet18``, without functions that write in place: BackPACK cannot follow those.
    """

    def __init__(self, classes: int, width: int = 20) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, n_in = [], width
        for factor, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
            blocks.append(_Block(n_in, factor * width, stride))
            n_in = factor * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(n_in, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, 32, 32)."""
        return self.head(self.blocks(self.stem(x)))


MLP_400 = Workload("MLP 400-400", partial(mlp, 400), (784,), samples=12_000, wide=(64, 256, 512, 1024))
MLP_1000 = Workload("MLP 1000-1000", partial(mlp, 1000), (784,), samples=12_000, wide=(64, 256, 512, 1024))
CNN = Workload("4-layer CNN", cnn, (3, 32, 32), samples=2048)
RESNET = Workload("reduced ResNet-18", ReducedResNet18, (3, 32, 32), samples=1024)
VIT = Workload("small ViT", small_vit, (3, 32, 32), samples=1024)

LARGE = (
    Workload("ResNet-18", lambda classes: resnet18(num_classes=classes), (3, 224, 224), samples=1024),
    Workload(
        "ResNet-50",
        lambda classes: resnet50(num_classes=classes),
        (3, 224, 224),
        batch=64,
        samples=512,
        wide=(16, 32, 64),
    ),
    Workload(
        "ViT-B/16",
        lambda classes: with_outputs(vit_b_16(num_classes=classes)),
        (3, 224, 224),
        batch=64,
        samples=256,
        wide=(8, 16, 32),
    ),
)
"""For a GPU."""


def training_epoch(model: nn.Module, inputs: Tensor, targets: Tensor, batch: int) -> Callable[[], None]:
    """One epoch of bare PyTorch on these images, with the fused Adam that the study uses."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def epoch() -> None:
        model.train()
        for rows in torch.arange(len(inputs)).split(batch):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[part]), targets[part]).backward()
            optimizer.step()

    return epoch
