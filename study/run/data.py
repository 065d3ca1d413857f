"""Images by the name of a benchmark, from torchvision's files or recompressed ones, verified by their MD5 sums."""

import io
import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import calculate_md5

from study.errors import StudyError
from study.protocol.settings import Benchmark

# MD5 sums of the unpacked files; torchvision has only those of the packed ones, and CIFAR's
MNIST_SUMS = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
JPEG_SUMS = {
    "cifar10-jpeg-train.parquet": "b64f10f37d09a0a7f29c618b692ce59b",
    "cifar10-jpeg-test.parquet": "e4494033740a91a6c8fbe4e2948551be",
}


class RecompressedCIFAR10:
    """CIFAR-10's images as JPEG files of quality 75, in two Parquet files with columns jpeg and label.

    They are not the original's to the pixel, and torchvision has no download of them.

    Attributes:
        data: uint8, shape (N, 32, 32, 3).
        targets: labels, length N.
    """

    folder = "CIFAR10-jpeg"

    def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
        if download:
            self.download()
        from pyarrow.parquet import read_table  # takes a moment, which runs on other data need not wait

        table = read_table(root / self.folder / [*JPEG_SUMS][not train])
        self.data = np.stack([Image.open(io.BytesIO(jpeg)) for jpeg in table["jpeg"].to_pylist()])
        self.targets = table["label"].to_pylist()

    def download(self) -> None:
        raise RuntimeError("there is no download")


DATASETS = {
    "split_mnist": datasets.MNIST,
    "permuted_mnist": datasets.MNIST,
    "split_fmnist": datasets.FashionMNIST,
    "split_cifar10": datasets.CIFAR10,
    "split_cifar10_jpeg": RecompressedCIFAR10,
    "split_cifar100": datasets.CIFAR100,
}
SECONDS_TO_ANSWER = 30  # that a server has; without a limit, a machine behind a firewall waits for hours


class DataError(StudyError):
    """Data is missing or damaged."""


@dataclass(frozen=True)
class Images:
    """Images as uint8 ``pixels`` (N, channels, height, width), and int64 ``targets`` (N,) from 0."""

    pixels: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Encoding:
    """Maps bytes to inputs and back: ``(byte / levels - mean) / std``, with shape (channels or 1, 1, 1)."""

    levels: int
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, settings: Benchmark) -> "Encoding":
        mean, std = (torch.tensor(value).reshape(-1, 1, 1) for value in (settings.mean, settings.std))
        return cls(16 if settings.name.endswith("_digits") else 255, mean, std)

    def decode(self, pixels: Tensor) -> Tensor:
        """Inputs as float32 from bytes, shapes (…, channels, height, width)."""
        inputs = pixels.to(torch.float32, copy=True)  # in-place operations take half the time
        return inputs.div_(self.levels).sub_(self.mean.to(pixels.device)).div_(self.std.to(pixels.device))

    def is_exact(self) -> bool:
        """Whether :meth:`encode` restores every byte, so that inputs can be kept as bytes."""
        pixels = torch.arange(self.levels + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1)
        pixels = pixels.expand(-1, max(len(self.mean), len(self.std)), 1, 1)
        return bool((self.encode(self.decode(pixels)) == pixels).all())

    def encode(self, inputs: Tensor) -> Tensor:
        """Inverse of :meth:`decode`."""
        pixels = (inputs * self.std.to(inputs.device) + self.mean.to(inputs.device)) * self.levels
        return pixels.round().to(torch.uint8)


def data_root(named: Path | None) -> Path:
    """The data folder: ``named`` by ``--data-root``, else ``$CLREG_DATA_ROOT``, else ``data`` in the current folder.

    Raises:
        DataError: the named folder does not exist. A typo must not start a download.
    """
    variable = os.environ.get("CLREG_DATA_ROOT")
    source, root = ("CLREG_DATA_ROOT", Path(variable)) if named is None and variable else ("--data-root", named)
    if root is None:
        return Path("data")
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "is not there"
        raise DataError(
            f"{source}: {root} {problem}; allowed: a folder that holds the data, or an empty one to download it to"
        )
    return root


def load_images(name: str, root: Path) -> tuple[Images, Images]:
    """Training and test images of a benchmark's data; of the digits, all images and none.

    Missing files are downloaded by torchvision, and MD5 sums checked. A process reads the same files once.

    Args:
        name: a benchmark's name.
        root: torchvision's root, with ``MNIST/raw``, ``cifar-10-batches-py`` and so on.

    Raises:
        DataError: files are missing and cannot be downloaded, or are damaged.
    """
    return read_images(name, root.resolve())


@lru_cache(maxsize=2)
def read_images(name: str, root: Path) -> tuple[Images, Images]:
    """As :func:`load_images`, for an absolute path."""
    if name.endswith("_digits"):
        digits = load_digits()
        pixels = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
        targets = torch.from_numpy(digits.target).long()
        return Images(pixels, targets), Images(pixels[:0], targets[:0])
    dataset = DATASETS[name]
    _check_sums(dataset, root)  # report damaged files rather than replace them
    if _missing(dataset, root):
        _download(dataset, root)
        _check_sums(dataset, root)
    if dataset.__name__ in MNIST_SUMS:
        files = [str(path) for path in _sums(dataset, root)]
        train, test = ((read_image_file(files[i]), read_label_file(files[i + 1])) for i in (0, 2))
        return _images(*train), _images(*test)
    train, test = (dataset(root, train=train) for train in (True, False))
    return _images(train.data, train.targets), _images(test.data, test.targets)


def _sums(dataset: type, root: Path) -> dict[Path, str]:
    """MD5 sums of the files of a dataset."""
    name = dataset.__name__
    if name in MNIST_SUMS:
        return {root / name / "raw" / file: md5 for file, md5 in MNIST_SUMS[name].items()}
    if dataset is RecompressedCIFAR10:
        return {root / dataset.folder / file: md5 for file, md5 in JPEG_SUMS.items()}
    files = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    return {root / dataset.base_folder / file: md5 for file, md5 in files}


def _missing(dataset: type, root: Path) -> list[str]:
    return [path.name for path in _sums(dataset, root) if not path.is_file()]


def _check_sums(dataset: type, root: Path) -> None:
    for path, expected in _sums(dataset, root).items():
        if path.is_file() and (found := calculate_md5(path)) != expected:
            raise DataError(f"{path} is damaged: its MD5 sum is {found}, not {expected}; delete it and get it again")


def _download(dataset: type, root: Path) -> None:
    name, folder = dataset.__name__, next(iter(_sums(dataset, root))).parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"), ExitStack() as restored:  # so that only one worker downloads
            restored.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
            socket.setdefaulttimeout(SECONDS_TO_ANSWER)
            if _missing(dataset, root):
                dataset(root, download=True)
    except (RuntimeError, OSError) as error:  # how torchvision, and the system, say what went wrong
        missing = ", ".join(_missing(dataset, root))
        if not missing:
            return  # the sums tell what is wrong with the files
        problem = " ".join(f"{type(error).__name__}: {error}".split())  # torchvision's errors have several lines
        raise DataError(
            f"{name} is not in {folder}, where {missing} should be, and could not be downloaded ({problem}); put "
            "torchvision's files there, or name the folder that they are in with --data-root or CLREG_DATA_ROOT"
        ) from error


def _images(pixels: Any, targets: Any) -> Images:
    pixels = torch.as_tensor(pixels)
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return Images(pixels.contiguous(), torch.as_tensor(targets))
