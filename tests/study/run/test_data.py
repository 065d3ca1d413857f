"""What is read is what the published files say, byte for byte; anything else is a DataError that says what to do."""

import io
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torchvision import datasets, transforms

from study.protocol.load import load_protocol, protocol_names
from study.protocol.settings import Benchmark
from study.run import data
from study.run.data import DataError, Encoding, data_root, load_images, read_images
from tests.study.images import CIFAR, damage, write_cifar, write_mnist


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without network, on which asking for it is a failure of its own."""

    def download(self: Any) -> None:
        pytest.fail("a download was tried")

    for dataset in set(data.DATASETS.values()):
        monkeypatch.setattr(dataset, "download", download)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: Any) -> None:
        raise OSError("Name or service\nnot known")

    for dataset in set(data.DATASETS.values()):
        monkeypatch.setattr(dataset, "download", download)


# ------------------------------------------------------------------------------- what is read


def test_digits_are_all_1797_images_in_17_levels():
    images, nothing = load_images("split_digits", Path())
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert images.pixels.dtype == torch.uint8
    assert (int(images.pixels.min()), int(images.pixels.max())) == (0, 16)
    assert images.targets[:10].tolist() == list(range(10))
    assert len(nothing.targets) == 0


@pytest.mark.parametrize(
    ("benchmark", "name"), [("split_mnist", "MNIST"), ("permuted_mnist", "MNIST"), ("split_fmnist", "FashionMNIST")]
)
def test_mnist_is_read_byte_for_byte(benchmark, name, tmp_path, monkeypatch, no_download):
    files = write_mnist(tmp_path, monkeypatch, name)
    for images, part in zip(load_images(benchmark, tmp_path), ("train", "t10k"), strict=True):
        np.testing.assert_array_equal(images.pixels.squeeze(1), files[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(images.targets, files[f"{part}-labels-idx1-ubyte"])
        assert images.targets.dtype == torch.int64


@pytest.mark.parametrize("n_classes", CIFAR)
def test_cifar_is_read_byte_for_byte_with_the_channels_first(n_classes, tmp_path, monkeypatch, no_download):
    parts = write_cifar(tmp_path, monkeypatch, n_classes, per_class=3)
    for images, part in zip(load_images(f"split_cifar{n_classes}", tmp_path), ("train", "test"), strict=True):
        np.testing.assert_array_equal(images.pixels, parts[part][0])
        np.testing.assert_array_equal(images.targets, parts[part][1])
        assert images.pixels.is_contiguous()


def test_recompressed_cifar10_is_read_in_the_order_of_its_files(mnist: Path):
    folder = mnist / data.RecompressedCIFAR10.folder
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    train, test = load_images("split_cifar10_jpeg", mnist)
    assert (train.pixels.shape, test.pixels.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert train.targets.bincount().tolist() == [5000] * 10
    table = parquet.read_table(folder / "cifar10-jpeg-test.parquet")
    for row in (0, 9_999):
        with Image.open(io.BytesIO(table["jpeg"][row].as_py())) as image:
            np.testing.assert_array_equal(test.pixels[row].permute(1, 2, 0), np.asarray(image))
        assert test.targets[row] == table["label"][row].as_py()


def test_recompressed_cifar10_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cifar10-jpeg-train.parquet, .* could not be downloaded .*no download"):
        load_images("split_cifar10_jpeg", tmp_path)


def test_mnists_files_are_the_published_ones(mnist: Path):
    for name, (first, last) in {"split_mnist": (5, 8), "split_fmnist": (9, 5)}.items():
        if not (mnist / data.DATASETS[name].__name__).is_dir():
            continue
        train, test = load_images(name, mnist)
        assert (len(train.targets), len(test.targets)) == (60_000, 10_000)
        assert (int(train.targets[0]), int(train.targets[-1])) == (first, last)
        theirs = data.DATASETS[name](mnist, train=False)
        assert torch.equal(test.pixels.squeeze(1), theirs.data)
        assert torch.equal(test.targets, theirs.targets)


# ------------------------------------------------------------------------------- what is wrong with it


def test_a_damaged_file_of_the_published_mnist_is_named(mnist: Path, tmp_path: Path, no_download):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (mnist / "MNIST" / "raw").iterdir():
        (raw / file.name).symlink_to(file.resolve())
    damaged = raw / "t10k-labels-idx1-ubyte"
    damaged.unlink()
    shutil.copyfile(mnist / "MNIST" / "raw" / damaged.name, damaged)
    damage(damaged)
    with pytest.raises(DataError, match=f"{damaged} is damaged: its MD5 sum is .*, not 27ae3e4e09519cfb.*; delete it"):
        load_images("split_mnist", tmp_path)


@pytest.mark.parametrize(
    "file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
)
def test_a_damaged_byte_in_mnist_is_found(file, tmp_path, monkeypatch, no_download):
    write_mnist(tmp_path, monkeypatch)
    damage(tmp_path / "MNIST" / "raw" / file)
    with pytest.raises(DataError, match=f"{tmp_path / 'MNIST' / 'raw' / file} is damaged"):
        load_images("split_mnist", tmp_path)


@pytest.mark.parametrize(
    ("n_classes", "file"), [(10, "data_batch_3"), (10, "test_batch"), (100, "train"), (100, "meta")]
)
def test_a_damaged_byte_in_cifar_is_found_without_asking_the_network(
    n_classes, file, tmp_path, monkeypatch, no_download
):
    write_cifar(tmp_path, monkeypatch, n_classes, per_class=3)
    path = tmp_path / CIFAR[n_classes].base_folder / file
    damage(path)
    with pytest.raises(DataError, match=f"{path} is damaged"):
        load_images(f"split_cifar{n_classes}", tmp_path)


def test_missing_data_is_an_error_that_says_what_to_do(tmp_path, offline):
    with pytest.raises(DataError) as caught:
        load_images("split_cifar100", tmp_path / "nowhere")
    said = str(caught.value)
    assert said.startswith(f"CIFAR100 is not in {tmp_path / 'nowhere' / 'cifar-100-python'}, where train, test, meta ")
    assert "could not be downloaded (OSError: Name or service not known)" in said
    assert "--data-root or CLREG_DATA_ROOT" in said
    assert "\n" not in said


def test_only_the_missing_files_are_named(tmp_path, monkeypatch, offline):
    write_mnist(tmp_path, monkeypatch)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="where t10k-labels-idx1-ubyte should be"):
        load_images("split_mnist", tmp_path)


def test_a_damaged_file_next_to_a_missing_one_is_named_before_anything_is_downloaded(
    tmp_path, monkeypatch, no_download
):
    write_mnist(tmp_path, monkeypatch)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    damage(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is damaged"):
        load_images("split_mnist", tmp_path)


def test_a_root_that_is_a_file_is_an_error(tmp_path, offline):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=r"MNIST is not in .*FileExistsError"):
        load_images("split_mnist", tmp_path / "data")


def test_a_folder_is_read_once_however_its_path_is_spelled(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    images = load_images("split_mnist", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for spelling in (Path(), Path("elsewhere/.."), tmp_path / "elsewhere" / ".."):
        assert load_images("split_mnist", spelling) is images, spelling
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: None)
    with pytest.raises(DataError, match="MNIST is not in"):  # the same spelling is another folder now
        load_images("split_mnist", Path())


# ------------------------------------------------------------------------------- getting it


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """A download that works, slowly; the network's time limit is noted at each."""
    write_mnist(tmp_path / "server", monkeypatch)
    limits: list[float | None] = []

    def download(self: datasets.MNIST) -> None:
        limits.append(socket.getdefaulttimeout())
        time.sleep(0.2)
        shutil.copytree(tmp_path / "server" / "MNIST", Path(self.root) / "MNIST")

    monkeypatch.setattr(datasets.MNIST, "download", download)
    return limits


def test_missing_files_are_downloaded_once_and_then_there(server, tmp_path):
    train, _ = load_images("split_mnist", tmp_path / "root")
    read_images.cache_clear()
    again, _ = load_images("split_mnist", tmp_path / "root")
    assert torch.equal(train.pixels, again.pixels)
    assert len(server) == 1


def test_a_download_does_not_wait_for_ever(server, tmp_path):
    load_images("split_mnist", tmp_path / "root")
    assert server == [data.SECONDS_TO_ANSWER]
    assert socket.getdefaulttimeout() is None


def test_of_workers_that_start_together_one_downloads_and_the_others_wait(server, tmp_path):
    read: list[Any] = []
    workers = [
        threading.Thread(target=lambda: read.append(load_images("split_mnist", tmp_path / "root"))) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read) == 3
    assert len(server) == 1


@pytest.mark.parametrize("benchmark", ["split_mnist", "split_cifar10"])
def test_what_is_downloaded_is_checked(benchmark, server, tmp_path, monkeypatch):
    write_cifar(tmp_path / "server", monkeypatch)

    def download(self: datasets.CIFAR10) -> None:
        shutil.copytree(tmp_path / "server" / self.base_folder, Path(self.root) / self.base_folder)

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    file = {"split_mnist": "MNIST/raw/train-images-idx3-ubyte", "split_cifar10": "cifar-10-batches-py/data_batch_1"}
    damage(tmp_path / "server" / file[benchmark])
    with pytest.raises(DataError, match=f"{tmp_path / 'root' / file[benchmark]} is damaged"):
        load_images(benchmark, tmp_path / "root")


def test_a_download_that_leaves_files_out_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: None)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte, train-labels-idx1-ubyte, .*RuntimeError"):
        load_images("split_mnist", tmp_path)


def test_the_root_is_named_in_a_call_or_in_the_environment_or_is_a_folder_here(tmp_path, monkeypatch):
    (tmp_path / "said").mkdir()
    (tmp_path / "exported").mkdir()
    monkeypatch.setenv("CLREG_DATA_ROOT", str(tmp_path / "exported"))
    assert data_root(tmp_path / "said") == tmp_path / "said"
    assert data_root(None) == tmp_path / "exported"
    for value in ("", None):
        monkeypatch.setenv("CLREG_DATA_ROOT", value) if value == "" else monkeypatch.delenv("CLREG_DATA_ROOT")
        assert data_root(None) == Path("data")


def test_a_root_that_is_named_and_is_not_there_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"--data-root: {tmp_path / 'nowhere'} is not there; allowed: a folder"):
        data_root(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"--data-root: {tmp_path / 'file'} is not a folder"):
        data_root(tmp_path / "file")
    monkeypatch.setenv("CLREG_DATA_ROOT", str(tmp_path / "away"))
    with pytest.raises(DataError, match=f"CLREG_DATA_ROOT: {tmp_path / 'away'} is not there"):
        data_root(None)
    assert not (tmp_path / "nowhere").exists()


# ------------------------------------------------------------------------------- bytes and inputs

BENCHMARKS = {name: load_protocol(name).benchmark for name in protocol_names()}


def every_byte(settings: Benchmark) -> torch.Tensor:
    """Each value that a pixel can have, in each channel: shape (values, channels, 1, 1)."""
    levels = Encoding.of(settings).levels
    channels = 3 if "cifar" in settings.name else 1
    return torch.arange(levels + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, channels, -1, -1)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_bytes_come_back_from_inputs_and_inputs_from_bytes_bit_for_bit(name):
    encoding, pixels = Encoding.of(BENCHMARKS[name]), every_byte(BENCHMARKS[name])
    inputs = encoding.decode(pixels)
    assert torch.equal(encoding.encode(inputs), pixels)
    assert torch.equal(encoding.decode(encoding.encode(inputs)), inputs)


def test_inputs_are_what_torchvisions_transforms_make_of_an_image():
    settings = BENCHMARKS["split-cifar100-task"]
    pixels = every_byte(settings).reshape(256, 3, 1, 1).permute(2, 3, 0, 1).reshape(1, 256, 3).numpy()
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(settings.mean, settings.std)])(pixels)
    ours = Encoding.of(settings).decode(torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(ours, theirs)


def test_each_channel_is_normalised_by_its_own_mean_and_std():
    encoding = Encoding.of(BENCHMARKS["fisher-split-cifar10-task"])
    black, white = encoding.decode(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1))
    means, stds = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    torch.testing.assert_close(black.flatten(), -means / stds)
    torch.testing.assert_close(white.flatten(), (1 - means) / stds)
