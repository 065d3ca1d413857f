"""Models and images that everything is measured on. Images are random: times do not depend on what they show."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.models import VisionTransformer, resnet18, resnet50, vit_b_16


@dataclass(frozen=True)
class Images:
    """Inputs (n, *shape) and targets (n,) on the device, and the same on the CPU for code that reads a dataset."""

    inputs: Tensor
    targets: Tensor
    dataset: TensorDataset

    def first(self, n: int) -> "Images":
        return Images(self.inputs[:n], self.targets[:n], TensorDataset(*(each[:n] for each in self.dataset.tensors)))

    def double(self) -> "Images":
        inputs, targets = self.dataset.tensors
        return Images(self.inputs.double(), self.targets, TensorDataset(inputs.double(), targets))


@dataclass(frozen=True)
class Workload:
    """A model and the amount of data for it.

    Attributes:
        name: shown in tables.
        build: a model with this many outputs; picklable where memory is measured on a CPU.
        shape: of an image.
        batch: images in a training step.
        samples: images in an importance pass.
        sizes: batch sizes of another library's pass, ascending, of which it gets the one that suits it best.
        is_mlp: whether its exact Fisher is compared with a matrix product.
    """

    name: str
    build: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    batch: int = 128
    samples: int = 1024
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    is_mlp: bool = False

    def model(self, classes: int, device: torch.device) -> nn.Module:
        """The same initial model each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build(classes).to(device)

    def images(self, n: int, classes: int, device: torch.device) -> Images:
        """Inputs uniform in [0, 1], and random labels."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(n, *self.shape, generator=generator)
        targets = torch.randint(0, classes, (n,), generator=generator)
        return Images(inputs.to(device), targets.to(device), TensorDataset(inputs, targets))


def mlp(hidden: int, classes: int = 10) -> nn.Module:
    """784-hidden-hidden-classes with ReLU."""
    layers = [nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


def cnn(classes: int) -> nn.Module:
    """3×3 convolutions of 32, 32, 64 and 64 channels on 32×32 images, pooled after the second and the fourth."""
    layers: list[nn.Module] = []
    for n_in, n_out, halve in ((3, 32, False), (32, 32, True), (32, 64, False), (64, 64, True)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        if halve:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, classes))


def small_vit(classes: int) -> nn.Module:
    """torchvision's VisionTransformer on 32×32 images: patches of 8×8, width 128, 4 layers of 4 heads."""
    return _with_outputs(VisionTransformer(32, 8, 4, 4, 128, 256, num_classes=classes))


def _with_outputs(model: VisionTransformer) -> VisionTransformer:
    """torchvision initialises the head to zero, which would make all other gradients zero."""
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
    """ResNet-18 with a third of the channels for 32×32 images (Lopez-Paz and Ranzato 2017).

    The layers of Avalanche's ``SlimResNet18``, as modules without in-place operations, which BackPACK requires.
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


_MLP = partial(Workload, shape=(784,), samples=12_000, sizes=(64, 256, 512, 1024), is_mlp=True)
MLP_400 = _MLP("MLP 400-400", partial(mlp, 400))
MLP_1000 = _MLP("MLP 1000-1000", partial(mlp, 1000))
CNN = Workload("4-layer CNN", cnn, (3, 32, 32), samples=2048)
REDUCED_RESNET = Workload("reduced ResNet-18", ReducedResNet18, (3, 32, 32))
SMALL_VIT = Workload("small ViT", small_vit, (3, 32, 32))

# for a GPU
RESNET_18 = Workload("ResNet-18", lambda classes: resnet18(num_classes=classes), (3, 224, 224))
_GPU = partial(Workload, shape=(3, 224, 224), batch=64)
RESNET_50 = _GPU("ResNet-50", lambda classes: resnet50(num_classes=classes), samples=512, sizes=(16, 32, 64))
VIT_B_16 = _GPU("ViT-B/16", lambda n: _with_outputs(vit_b_16(num_classes=n)), samples=256, sizes=(8, 16, 32))


def training_epoch(model: nn.Module, images: Images, batch: int) -> Callable[[], None]:
    """One epoch in plain PyTorch with a fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def epoch() -> None:
        model.train()
        for x, y in zip(images.inputs.split(batch), images.targets.split(batch), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return epoch
