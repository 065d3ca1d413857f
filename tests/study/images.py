"""Small generated images in the files of the published data sets, with their sums in place of the published ones."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import datasets

from study.run import data

Bytes = NDArray[np.uint8]

CIFAR = {10: datasets.CIFAR10, 100: datasets.CIFAR100}


def labelled(n_classes: int, per_class: int, shape: tuple[int, ...], seed: int) -> tuple[Bytes, Bytes]:
    """Images of each class, brighter for higher labels, in a random order: shapes (N, *shape) and (N,)."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(n_classes, dtype=np.uint8), per_class))
    level = (255 // n_classes) * labels.reshape(-1, *[1] * len(shape))
    return (random.integers(0, 255 // n_classes, (len(labels), *shape)) + level).astype(np.uint8), labels


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_mnist(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "MNIST", per_class: int = 12
) -> dict[str, Bytes]:
    """``MNIST/raw`` in ``root``: images of 28 x 28 pixels, and a third as many for testing.

    Returns:
        The content of each file by its name.
    """
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    content, sums = {}, {}
    for part, size, seed in (("train", per_class, 0), ("t10k", per_class // 3, 1)):
        images, labels = labelled(10, size, (28, 28), seed)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = f"{part}-{kind}-ubyte"
            header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")
            (folder / file).write_bytes(header.tobytes() + array.tobytes())
            content[file], sums[file] = array, md5(folder / file)
    monkeypatch.setitem(data.MNIST_SUMS, name, sums)
    return content


def write_cifar(
    root: Path, monkeypatch: pytest.MonkeyPatch, n_classes: int = 10, per_class: int = 6
) -> dict[str, tuple[Bytes, Bytes]]:
    """``cifar-10-batches-py`` or ``cifar-100-python`` in ``root``: pickled rows of 3 x 32 x 32 bytes.

    Returns:
        Images, shape (N, 3, 32, 32), and labels of "train" and "test".
    """
    dataset = CIFAR[n_classes]
    folder = root / dataset.base_folder
    folder.mkdir()
    content, lists = {}, {}
    for part, size, seed in (("train", per_class, 0), ("test", max(1, per_class // 3), 1)):
        images, labels = labelled(n_classes, size, (3, 32, 32), seed)
        names = [name for name, _ in (dataset.train_list if part == "train" else dataset.test_list)]
        lists[part] = []
        for name, rows in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
            key = "labels" if n_classes == 10 else "fine_labels"
            entry = {"data": images[rows].reshape(len(rows), -1), key: labels[rows].tolist()}
            (folder / name).write_bytes(pickle.dumps(entry))
            lists[part].append([name, md5(folder / name)])
        content[part] = images, labels
    meta = dict(dataset.meta)
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [str(i) for i in range(n_classes)]}))
    meta["md5"] = md5(folder / meta["filename"])
    for attribute, value in (("train_list", lists["train"]), ("test_list", lists["test"]), ("meta", meta)):
        monkeypatch.setattr(dataset, attribute, value)
    return content


def damage(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
