"""Multi-CV's data sets: found, decoded once, grouped and checked."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from supervised.multi_cv import data as multi_cv
from supervised.multi_cv.data import DATA_SETS, MultiCVError, available, default_data_dir, download, load

RNG = np.random.default_rng(0)
TEN = np.arange(10, dtype=np.uint8)


@pytest.fixture(autouse=True)
def nothing_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a cache of its own, on disk and in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load.cache_clear()


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_idx(file: Path, array: np.ndarray) -> None:
    """:param array: written with its own shape, gzipped if the file is called so"""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    data = header + array.tobytes()
    file.write_bytes(gzip.compress(data, 1) if file.suffix == ".gz" else data)


def write_idx_pair(folder: Path, half: str, images: np.ndarray, labels: np.ndarray, ending: str = ".gz") -> None:
    write_idx(folder / f"{half}-images-idx3-ubyte{ending}", images)
    write_idx(folder / f"{half}-labels-idx1-ubyte{ending}", labels)


def write_image(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_folders(folder: Path, n_classes: int, size: int = 32, names: tuple[str, ...] = ("0_0", "0_1", "1_0")) -> Path:
    """
    Each class with two images to train on and one to test on.

    :param names: of these three, as GTSRB has them
    """
    for i in range(n_classes):
        for half, name in zip(("train", "train", "test"), names, strict=True):
            write_image(folder / half / f"class{i:03}" / f"{name}.png", noise(size, size, 3))
    return folder


def write_zip(file: Path, folder: Path, top: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for inner in sorted(folder.rglob("*.png")):
            archive.write(inner, top + inner.relative_to(folder).as_posix())


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# -- where a data set may lie ----------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".gz", ""])
def test_idx_files_get_a_border_and_three_channels(tmp_path: Path, ending: str) -> None:
    train, test = noise(30, 28, 28), noise(10, 28, 28)
    write_idx_pair(tmp_path / "mnist", "train", train, np.tile(TEN, 3), ending)
    write_idx_pair(tmp_path / "mnist", "t10k", test, TEN, ending)
    data = load(str(tmp_path), "mnist")
    assert data.train.dtype == data.test.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == data.groups.dtype == torch.int64
    for read, written in ((data.train, train), (data.test, test)):
        expected = np.zeros((len(written), 3, 32, 32), np.uint8)
        for channel in range(3):
            expected[:, channel, 2:30, 2:30] = written
        np.testing.assert_array_equal(read.numpy(), expected)
    assert data.train_labels.tolist() == list(range(10)) * 3 and data.test_labels.tolist() == list(range(10))
    assert data.groups.tolist() == list(range(30))


def test_folders_are_classes_in_order_of_their_names(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "cifar10", 10)
    (folder / "train" / "class003" / ".hidden.png").write_bytes(b"no image")
    (folder / "train" / "class003" / "notes.txt").write_text("no image")
    data = load(str(tmp_path), "cifar10")
    assert data.train_labels.tolist() == [i for i in range(10) for _ in range(2)]
    assert data.test_labels.tolist() == list(range(10)) and data.groups.tolist() == list(range(20))
    for read, file in ((data.train[7], "train/class003/0_1.png"), (data.test[9], "test/class009/1_0.png")):
        with Image.open(folder / file) as image:
            np.testing.assert_array_equal(read.permute(1, 2, 0).numpy(), np.asarray(image))


def test_folders_that_are_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    for half, n in (("train", 2), ("test", 1)):
        for of_class in range(43):
            folder = tmp_path / "gtsrb" / half / str(of_class)
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (32, 32), (of_class, i, 0)).save(folder / f"{half}{of_class}_{i}.png")
    data = load(str(tmp_path), "gtsrb")
    assert torch.equal(data.train[:, 0, 0, 0].long(), data.train_labels)
    assert data.test[:, 0, 0, 0].tolist() == data.test_labels.tolist()
    assert sorted(data.test_labels.tolist()) == list(range(43))


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "cifar10", 10)
    image = Image.fromarray(noise(32, 32, 3))
    (folder / "train" / "class000" / "0_0.png").unlink()
    (folder / "train" / "class000" / "0_1.png").unlink()
    kinds = ("L.png", "P.png", "1.bmp", "RGB.ppm", "RGB.JPG", "L.webp")
    for i, kind in enumerate(kinds):
        image.convert(kind.split(".")[0]).save(folder / "train" / "class000" / f"{i}{kind}")
    data = load(str(tmp_path), "cifar10")
    assert data.train_labels.bincount().tolist() == [6] + [2] * 9
    assert np.array_equal(data.train[3].permute(1, 2, 0).numpy(), np.asarray(image))
    grey = torch.from_numpy(np.array(image.convert("L")))
    assert torch.equal(data.train[0], grey.expand(3, 32, 32))
    assert set(data.train[2].unique().tolist()) == {0, 255}


def test_small_grey_images_in_folders_get_a_border(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "notmnist", 10, size=28)
    write_image(folder / "train" / "class000" / "0_0.png", grey := noise(28, 28))
    data = load(str(tmp_path), "notmnist")
    assert data.train.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(data.train[0].numpy(), np.stack([np.pad(grey, 2)] * 3))


@pytest.mark.parametrize("place", ["cifar10.zip", "cifar10/cifar10.zip", "cifar/cifar10.zip"])
@pytest.mark.parametrize("top", ["", "cifar10/"])
def test_a_zip_is_the_same_as_folders(tmp_path: Path, place: str, top: str) -> None:
    write_folders(tmp_path / "in_folders" / "cifar10", 10)
    write_zip(tmp_path / "zipped" / place, tmp_path / "in_folders" / "cifar10", top)
    zipped, folders = load(str(tmp_path / "zipped"), "cifar10"), load(str(tmp_path / "in_folders"), "cifar10")
    for part in ("train", "train_labels", "groups", "test", "test_labels"):
        assert torch.equal(getattr(zipped, part), getattr(folders, part))


def test_the_first_place_counts(tmp_path: Path) -> None:
    write_folders(tmp_path / "mnist", 10, size=28, names=("a", "b", "c"))
    write_zip(tmp_path / "mnist.zip", write_folders(tmp_path / "other", 10))
    with Image.open(tmp_path / "mnist" / "train" / "class000" / "a.png") as image:
        in_folders = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(load(str(tmp_path), "mnist").train[0, :, 2:30, 2:30].numpy(), in_folders)
    for half in ("train", "t10k"):
        write_idx_pair(tmp_path / "mnist", half, np.full((20, 28, 28), 9, np.uint8), np.tile(TEN, 2))
    load.cache_clear()
    assert load(str(tmp_path), "mnist").train[0, :, 2:30, 2:30].unique().tolist() == [9]


def test_what_is_there_is_known_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available(str(tmp_path / "nowhere")) == []
    for file in ("notmnist/t10k-images-idx3-ubyte.gz", "cifar/cifar100.zip", "svhn/train/0/empty.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "train_32x32.mat").touch()
    (tmp_path / "facescrub").mkdir()
    assert available(str(tmp_path)) == ["cifar100", "mnist", "svhn", "notmnist"]
    # What is there in another layout is not passed over.
    (tmp_path / "gtsrb" / "GTSRB").mkdir(parents=True)
    with pytest.raises(MultiCVError, match=r"no GTSRB in .*gtsrb has only GTSRB\)\. To have it there: python -m"):
        available(str(tmp_path))
    shutil.rmtree(tmp_path / "gtsrb")
    # Nor is a download that is not whole.
    (tmp_path / "FashionMNIST").mkdir()
    with pytest.raises(MultiCVError, match=r"no Fashion-MNIST in .*\(of which there is only FashionMNIST\)"):
        available(str(tmp_path))
    (tmp_path / "FashionMNIST").rmdir()
    shutil.rmtree(tmp_path / "svhn")
    with pytest.raises(MultiCVError, match=r"no SVHN in .*\(of which there is only train_32x32\.mat\)"):
        available(str(tmp_path))
    (tmp_path / "train_32x32.mat").unlink()
    assert available(str(tmp_path)) == ["cifar100", "mnist", "notmnist"]
    # Nor is another spelling of a name.
    for file in ("svhn.log", "CIFAR-10.tar", "mnist.md"):  # which are none
        (tmp_path / file).touch()
    assert available(str(tmp_path)) == ["cifar100", "mnist", "notmnist"]
    for spelling, name in (("CIFAR-10", "cifar10"), ("fashionMnist", "fashion-mnist"), ("SVHN.zip", r"svhn\.zip")):
        (tmp_path / spelling).mkdir()
        with pytest.raises(MultiCVError, match=rf"has {spelling}: call it {name}$"):
            available(str(tmp_path))
        (tmp_path / spelling).rmdir()
    monkeypatch.setenv("LEAP_RL_DATA", "/some/where")
    assert default_data_dir() == Path("/some/where")
    monkeypatch.delenv("LEAP_RL_DATA")
    assert default_data_dir() == tmp_path / "cache" / "leap_rl"


# -- torchvision's downloads -----------------------------------------------------------------------


def test_torchvisions_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    written = {"data_batch_1": noise(20, 3, 32, 32), "test_batch": noise(10, 3, 32, 32)}
    for file, images in written.items():
        batch = {"data": images.reshape(-1, 3072), "labels": [i % 10 for i in range(len(images))]}
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    with pytest.raises(MultiCVError, match=r"cifar-10-batches-py in .* is damaged: Dataset not found or corrupted"):
        load(str(tmp_path), "cifar10")
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    data = load(str(tmp_path), "cifar10")
    np.testing.assert_array_equal(data.train.numpy(), written["data_batch_1"])
    np.testing.assert_array_equal(data.test.numpy(), written["test_batch"])
    assert data.train_labels.tolist() == list(range(10)) * 2 and data.groups.tolist() == list(range(20))


def test_torchvisions_mnist(tmp_path: Path) -> None:
    train = noise(20, 28, 28)
    write_idx_pair(tmp_path / "MNIST" / "raw", "train", train, np.tile(TEN, 2), "")
    write_idx_pair(tmp_path / "MNIST" / "raw", "t10k", noise(10, 28, 28), TEN, "")
    data = load(str(tmp_path), "mnist")
    for channel in range(3):
        np.testing.assert_array_equal(data.train[:, channel, 2:30, 2:30].numpy(), train)
    assert data.test.shape == (10, 3, 32, 32) and data.test_labels.tolist() == list(range(10))
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.tile(TEN, 3))
    os.utime(tmp_path / "MNIST" / "raw", ns=(1, 1))
    load.cache_clear()
    with pytest.raises(MultiCVError, match="raw has 30 labels for 20 images"):
        load(str(tmp_path), "mnist")


def test_torchvisions_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    monkeypatch.setattr(SVHN, "split_list", {half: ["", f"{half}_32x32.mat", None] for half in ("train", "test")})
    train = noise(32, 32, 3, 20)
    # Its own files call the digit 0 ten.
    savemat(tmp_path / "train_32x32.mat", {"X": train, "y": np.tile(TEN, 2)[:, None] + 1})
    savemat(tmp_path / "test_32x32.mat", {"X": noise(32, 32, 3, 10), "y": TEN[:, None] + 1})
    data = load(str(tmp_path), "svhn")
    np.testing.assert_array_equal(data.train.numpy(), np.moveaxis(train, (3, 2), (0, 1)))
    assert data.test_labels.tolist() == [*range(1, 10), 0]


def write_gtsrb_download(data_dir: Path) -> None:
    """One track of two frames a class, of other sizes than 32×32."""
    root = data_dir / "gtsrb"
    table = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i in range(43):
        for frame in range(2):
            write_image(root / "GTSRB" / "Training" / f"{i:05}" / f"00000_{frame:05}.ppm", noise(40, 30 + i, 3))
        write_image(root / "GTSRB" / "Final_Test" / "Images" / f"{i:05}.ppm", noise(33, 33, 3))
        # Not in the order of the names.
        table.append(f"{i:05}.ppm;33;33;5;5;28;28;{42 - i}")
    (root / "GT-final_test.csv").write_text("\n".join(table) + "\n")


def test_torchvisions_gtsrb(tmp_path: Path) -> None:
    write_gtsrb_download(tmp_path)
    data = load(str(tmp_path), "gtsrb")
    assert data.train.shape == (86, 3, 32, 32) and data.test.shape == (43, 3, 32, 32)
    assert data.train_labels.tolist() == [i for i in range(43) for _ in range(2)]
    assert data.groups.tolist() == data.train_labels.tolist()  # one track each, though all are called 00000
    assert data.test_labels.tolist() == list(range(42, -1, -1))
    with Image.open(tmp_path / "gtsrb/GTSRB/Training/00007/00000_00001.ppm") as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.train[15].permute(1, 2, 0).numpy(), expected)
    (tmp_path / "gtsrb/GTSRB/Training/00007/00000_00001.ppm").write_bytes(b"no image")
    os.utime(tmp_path / "gtsrb/GTSRB/Training/00007", ns=(1, 1))
    load.cache_clear()
    with pytest.raises(MultiCVError, match=r"Training/00007/00000_00001\.ppm is damaged"):
        load(str(tmp_path), "gtsrb")


# -- groups ----------------------------------------------------------------------------------------


def test_a_track_of_gtsrb_is_a_group(tmp_path: Path) -> None:
    write_folders(tmp_path / "gtsrb", 43, names=("00000_00000", "00000_00001", "00001_00000"))
    write_image(tmp_path / "gtsrb" / "train" / "class005" / "00002_00000.png", noise(32, 32, 3))
    data = load(str(tmp_path), "gtsrb")
    groups = data.groups[data.train_labels == 5].tolist()
    assert groups[0] == groups[1] != groups[2]
    assert len(data.groups) == 87 and len(data.groups.unique()) == 44
    # The names of the original test tell no track.
    for file in (tmp_path / "gtsrb" / "test").rglob("*.png"):
        file.rename(file.with_name("00000.png"))
    load.cache_clear()
    assert torch.equal(load(str(tmp_path), "gtsrb").groups, data.groups)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("00000_00000", "00000_00001", "00000_00002"), "track 00000 of class class000 in train and test"),
        (("a", "b", "00000_00000"), r"class000/a\.png tells no track by its name, expected TRACK_FRAME"),
    ],
)
def test_tracks_that_cannot_be_kept_apart(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    write_folders(tmp_path / "gtsrb", 43, names=names)
    with pytest.raises(MultiCVError, match=message):
        load(str(tmp_path), "gtsrb")


def test_one_half_is_split_and_copies_stay_together(tmp_path: Path) -> None:
    """Fifty images have a copy each, ten of these with another label, and one image has nine."""
    images = noise(400, 28, 28)
    labels = np.tile(TEN, 40)
    images[300:310] = images[201:211]
    images[310:350] = images[250:290]
    images[3:103:10] = images[3]
    write_idx_pair(tmp_path / "notmnist", "t10k", images, labels)
    data = load(str(tmp_path), "notmnist")
    assert data.train_labels.bincount().tolist() == [32] * 10 and data.test_labels.bincount().tolist() == [8] * 10
    assert not rows(data.train) & rows(data.test) and len(rows(data.test)) < 80
    read = sorted((x.numpy().tobytes(), int(y)) for x, y in zip(data.train, data.train_labels, strict=True))
    read += [(x.numpy().tobytes(), int(y)) for x, y in zip(data.test, data.test_labels, strict=True)]
    written = [(np.stack([np.pad(x, 2)] * 3).tobytes(), int(y)) for x, y in zip(images, labels, strict=True)]
    assert sorted(read) == sorted(written)
    copies = np.unique(data.train[:, 0].flatten(1).numpy(), axis=0, return_inverse=True)[1].ravel()
    assert len(set(copies.tolist())) < len(data.train)
    assert len(set(zip(copies.tolist(), data.groups.tolist(), strict=True))) == len(set(copies.tolist()))
    assert len(data.groups.unique()) == len(set(copies.tolist()))
    # Not a choice of the moment, nor of names.
    load.cache_clear()
    shutil.rmtree(tmp_path / "cache")
    for file in list((tmp_path / "notmnist").iterdir()):
        file.rename(file.with_name(file.name.replace("t10k", "train")))
    assert torch.equal(load(str(tmp_path), "notmnist").test, data.test)


def test_what_notmnist_has_in_both_halves_is_left_out_of_the_training(tmp_path: Path) -> None:
    train, test = noise(40, 28, 28), noise(20, 28, 28)
    train[5], train[17] = test[3], test[3]
    for half, images in (("train", train), ("t10k", test)):
        write_idx_pair(tmp_path / "notmnist", half, images, np.tile(TEN, len(images) // 10))
    data = load(str(tmp_path), "notmnist")
    assert len(data.train) == len(data.train_labels) == len(data.groups) == 38 and len(data.test) == 20
    assert not rows(data.train) & rows(data.test)


def test_copies_of_notmnist_are_a_group_wherever_they_lie(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "notmnist", 10, size=28)
    shutil.copy(folder / "train/class001/0_0.png", folder / "train/class004/0_1.png")
    groups = load(str(tmp_path), "notmnist").groups
    assert groups[2] == groups[9] and len(groups.unique()) == 19


# -- decoded once ----------------------------------------------------------------------------------


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each image that is decoded is noted in it."""
    opened: list[str] = []
    original = multi_cv._opened

    def noted(where: Path, file: str, read: Callable[[str], bytes]) -> Image.Image:
        opened.append(file)
        return original(where, file, read)

    monkeypatch.setattr(multi_cv, "_opened", noted)
    return opened


@pytest.mark.parametrize("zipped", [False, True])
def test_a_data_set_is_decoded_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    folder = write_folders(tmp_path / ("drawn" if zipped else "cifar10"), 10)
    if zipped:
        write_zip(tmp_path / "cifar10.zip", folder)
    opened = count_decoded(monkeypatch)
    first = load(str(tmp_path), "cifar10")
    assert len(opened) == 30
    assert load(str(tmp_path), "cifar10") is first
    load.cache_clear()
    again = load(str(tmp_path), "cifar10")
    assert len(opened) == 30 and again is not first
    for part in ("train", "train_labels", "groups", "test", "test_labels"):
        assert torch.equal(getattr(again, part), getattr(first, part))
    (cached,) = tmp_path.glob("cache/leap_rl/*")
    whole = cached.read_bytes()
    for damage in (whole[:-500], b"", b"no zip"):  # which costs decoding, but no more
        cached.write_bytes(damage)
        load.cache_clear()
        assert torch.equal(load(str(tmp_path), "cifar10").train, first.train) and cached.read_bytes() == whole
    del opened[30:]
    write_image(folder / "train" / "class003" / "one_more.png", noise(32, 32, 3))
    if zipped:
        write_zip(tmp_path / "cifar10.zip", folder)
    load.cache_clear()
    assert len(load(str(tmp_path), "cifar10").train) == 21 and len(opened) == 61
    (folder / "train" / "class003" / "one_more.png").unlink()
    if zipped:
        write_zip(tmp_path / "cifar10.zip", folder)
    load.cache_clear()
    assert len(load(str(tmp_path), "cifar10").train) == 20


def test_changed_idx_files_are_read_again(tmp_path: Path) -> None:
    for half in ("train", "t10k"):
        write_idx_pair(tmp_path / "mnist", half, noise(20, 28, 28), np.tile(TEN, 2))
    load(str(tmp_path), "mnist")
    write_idx_pair(tmp_path / "mnist", "train", np.full((30, 28, 28), 7, np.uint8), np.tile(TEN, 3))
    load.cache_clear()
    assert load(str(tmp_path), "mnist").train[:, :, 2:30, 2:30].unique().tolist() == [7]


def test_nothing_half_done_is_kept(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "cifar10", 10)
    (folder / "test" / "class009" / "1_0.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(MultiCVError, match=r"test/class009/1_0\.png is damaged"):
            load(str(tmp_path), "cifar10")
    assert not list(tmp_path.glob("cache/**/*.npz"))
    write_image(folder / "test" / "class009" / "1_0.png", noise(32, 32, 3))
    load(str(tmp_path), "cifar10")
    assert [file.name[:19] for file in tmp_path.glob("cache/leap_rl/*")] == ["multi-cv-2-cifar10-"]


# -- what cannot be used ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar", r"no data set 'cifar', did you mean .*cifar10.*\? \(there are cifar10, cifar100, mnist"),
        ("MNIST", "no data set 'MNIST', did you mean mnist"),
        ("imagenet", r"no data set 'imagenet' \(there are"),
    ],
)
def test_an_unknown_name(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(MultiCVError, match=message):
        load(str(tmp_path), name)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_that_is_not_there(tmp_path: Path, name: str) -> None:
    description = DATA_SETS[name]
    with pytest.raises(MultiCVError) as raised:
        load(str(tmp_path), name)
    message = str(raised.value)
    for place in (
        "train-images-idx3-ubyte.gz",
        f"{name}/train/CLASS/IMAGE",
        f"cifar/{name}.zip",
        *description.download,
    ):
        assert place in message
    assert message.startswith(f"no {description.title} in {tmp_path}: looked for IDX files")
    if description.torchvision is None:
        assert f"into {tmp_path}/{name}/train" in message
    else:
        assert message.endswith(f"python -m supervised.multi_cv train --download --data-dir {tmp_path}")


def test_a_download_is_of_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    for name in ("MNIST", "SVHN"):
        fetch = lambda *args, name=name, **kwargs: fetched.append((name, *args, kwargs))  # noqa: E731
        monkeypatch.setattr(f"torchvision.datasets.{name}", fetch)
    (tmp_path / "cifar10.zip").touch()
    with pytest.raises(MultiCVError, match="torchvision has no download of notMNIST: put its images"):
        download(str(tmp_path), ["svhn", "notmnist"])
    assert not fetched
    download(str(tmp_path), ["svhn", "cifar10", "mnist"])
    halves = {"SVHN": ("train", "test"), "MNIST": (True, False)}
    assert fetched == [(n, str(tmp_path), half, {"download": True}) for n in halves for half in halves[n]]


def damaged_idx(folder: Path, damage: str) -> None:
    for half in ("train", "t10k"):
        write_idx_pair(folder, half, noise(20, 28, 28), np.tile(TEN, 2))
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    match damage:
        case "no labels":
            labels.unlink()
        case "other size":
            write_idx(images, noise(20, 30, 32))
        case "other count":
            write_idx(labels, np.tile(TEN, 3))
        case "high labels":
            write_idx(labels, np.tile(TEN, 2) + 1)
        case "few classes":
            for file in (labels, folder / "t10k-labels-idx1-ubyte.gz"):
                write_idx(file, np.tile(TEN, 2) % 9)
        case "few images":
            write_idx(labels, np.where(np.arange(20) == 13, 4, np.tile(TEN, 2)).astype(np.uint8))
        case "cut gzip":
            images.write_bytes(images.read_bytes()[:-500])
        case "no gzip":
            images.write_bytes(b"no gzip")
        case "cut":
            images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes())[:-500]))
        case "empty":
            images.write_bytes(gzip.compress(b""))
        case "not IDX":
            images.write_bytes(gzip.compress(b"something else" * 100))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no labels", r"has train-images-idx3-ubyte\.gz without train-labels-idx1-ubyte"),
        ("other size", r"train-images-idx3-ubyte\.gz has images of 32×30, expected 28×28"),
        ("other count", r"train-labels-idx1-ubyte\.gz has 30 labels for 20 images"),
        ("high labels", r"train-labels-idx1-ubyte\.gz has labels from 1 to 10, expected 0 to 9"),
        ("few classes", "mnist has 9 classes, expected 10 in MNIST"),
        ("few images", "has 1 training and 2 test images of class 3, expected at least 2 and 1"),
        ("cut gzip", r"train-images-idx3-ubyte\.gz is damaged"),
        ("no gzip", r"train-images-idx3-ubyte\.gz is damaged.*gzip"),
        ("cut", r"train-images-idx3-ubyte\.gz is damaged: expected an IDX file of bytes in 3 dimensions"),
        ("empty", r"train-images-idx3-ubyte\.gz is damaged"),
        ("not IDX", r"train-images-idx3-ubyte\.gz is damaged: expected an IDX file"),
    ],
)
def test_idx_files_that_cannot_be_used(tmp_path: Path, damage: str, message: str) -> None:
    damaged_idx(tmp_path / "mnist", damage)
    with pytest.raises(MultiCVError, match=message):
        load(str(tmp_path), "mnist")


def test_half_of_a_data_set_that_has_two(tmp_path: Path) -> None:
    write_idx_pair(tmp_path / "mnist", "train", noise(30, 28, 28), np.tile(TEN, 3))
    with pytest.raises(MultiCVError, match="has no t10k-images-idx3-ubyte"):
        load(str(tmp_path), "mnist")


@pytest.mark.parametrize("name", [name for name, description in DATA_SETS.items() if description.size == 32])
def test_idx_files_are_not_of_images_in_color(tmp_path: Path, name: str) -> None:
    n_classes = DATA_SETS[name].n_classes
    for half in ("train", "t10k"):
        labels = np.tile(np.arange(n_classes, dtype=np.uint8), 2)
        write_idx_pair(tmp_path / name, half, noise(2 * n_classes, 28, 28), labels)
    with pytest.raises(
        MultiCVError, match=f"{name} has IDX files, which are grey, expected 32×32 in color: use folders"
    ):
        load(str(tmp_path), name)


def damaged_folders(folder: Path, damage: str) -> None:
    write_folders(folder, 10)
    image = folder / "train" / "class004" / "0_0.png"
    match damage:
        case "no test":
            shutil.rmtree(folder / "test")
        case "empty test":
            shutil.rmtree(folder / "test")
            (folder / "test" / "class000").mkdir(parents=True)
        case "no classes":
            shutil.copy(image, folder / "train")
        case "too deep":
            write_image(folder / "train" / "class004" / "inner" / "a.png", noise(32, 32, 3))
        case "no halves":
            (folder / "train").rename(folder / "training")
            (folder / "test").rename(folder / "testing")
        case "other size":
            write_image(image, noise(30, 28, 3))
        case "small":
            write_image(image, noise(28, 28, 3))
        case "alpha":
            write_image(image, noise(32, 32, 4))
        case "deep":
            Image.fromarray(np.zeros((32, 32), np.uint16)).save(image)
        case "few classes":
            for half in ("train", "test"):
                shutil.rmtree(folder / half / "class009")
        case "another class":
            write_image(folder / "test" / "class010" / "a.png", noise(32, 32, 3))
        case "one to train":
            image.unlink()
        case "none to test":
            (folder / "test" / "class004" / "1_0.png").unlink()
        case "cut image":
            image.write_bytes(image.read_bytes()[:500])
        case "no image":
            image.write_bytes(b"no image")
        case "a program":
            image.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("a program", r"train/class004/0_0\.png is damaged"),
        ("no test", "cifar10 has no test/CLASS/IMAGE .*expected both train and test"),
        ("empty test", "cifar10 has no test/CLASS/IMAGE"),
        ("no classes", r"cifar10 has train/0_0\.png, expected train/CLASS/IMAGE"),
        ("too deep", r"cifar10 has train/class004/inner/a\.png, expected train/CLASS/IMAGE"),
        ("no halves", r"no CIFAR-10 in .*\(.*cifar10 has only testing, training\)"),
        ("other size", r"train/class004/0_0\.png is 28×30, expected 32×32"),
        ("small", r"train/class004/0_0\.png is 28×28, expected 32×32"),
        ("alpha", r"train/class004/0_0\.png has mode RGBA, expected RGB, L, P or 1"),
        ("deep", r"train/class004/0_0\.png has mode I;16, expected RGB, L, P or 1"),
        ("few classes", "cifar10 has 9 classes, expected 10 in CIFAR-10"),
        ("another class", "cifar10 has 11 classes, expected 10 in CIFAR-10"),
        ("one to train", "1 training and 1 test images of class class004, expected at least 2 and 1"),
        ("none to test", "2 training and 0 test images of class class004, expected at least 2 and 1"),
        ("cut image", r"train/class004/0_0\.png is damaged"),
        ("no image", r"train/class004/0_0\.png is damaged"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, damage: str, message: str) -> None:
    damaged_folders(tmp_path / "cifar10", damage)
    with pytest.raises(MultiCVError, match=message):
        load(str(tmp_path), "cifar10")


def test_zips_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "cifar10.zip"
    file.write_bytes(b"no zip")
    with pytest.raises(MultiCVError, match=r"cifar10\.zip is damaged: .*fetch it again"):
        load(str(tmp_path), "cifar10")
    folder = write_folders(tmp_path / "drawn", 10)
    write_zip(file, folder)
    content = bytearray(file.read_bytes())
    content[500] ^= 255  # inside the first image
    file.write_bytes(content)
    with pytest.raises(MultiCVError, match=r"cifar10\.zip.* is damaged"):
        load(str(tmp_path), "cifar10")
    write_zip(file, folder, "elsewhere/")
    with pytest.raises(MultiCVError, match=r"cifar10\.zip has no train/CLASS/IMAGE"):
        load(str(tmp_path), "cifar10")


# -- the real ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "n_groups"),
    [
        pytest.param("cifar10", 10_000, 2_000, 10_000, marks=pytest.mark.slow),
        pytest.param("cifar100", 10_000, 2_000, 10_000, marks=pytest.mark.slow),
        ("mnist", 60_000, 10_000, 60_000),
        pytest.param("fashion-mnist", 60_000, 10_000, 60_000, marks=pytest.mark.slow),
        pytest.param("gtsrb", 6_450, 2_494, 943, marks=pytest.mark.slow),
        ("notmnist", 8_000, 2_000, None),
    ],
)
def test_the_real_data_sets(data_dir: Path, name: str, n_train: int, n_test: int, n_groups: int | None) -> None:
    assert name in available(str(data_dir))
    data = load(str(data_dir), name)
    assert data.train.shape == (n_train, 3, 32, 32) and data.test.shape == (n_test, 3, 32, 32)
    n_classes = DATA_SETS[name].n_classes
    for labels, n in ((data.train_labels, n_train), (data.test_labels, n_test)):
        assert len(labels) == n and labels.unique().tolist() == list(range(n_classes))
        if name != "mnist":
            assert labels.bincount().tolist() == [n // n_classes] * n_classes
    assert len(data.groups) == n_train
    if n_groups is not None:
        assert len(data.groups.unique()) == n_groups
    if name == "notmnist":
        assert not rows(data.train) & rows(data.test)
        assert len(rows(data.train)) == len(data.groups.unique())
        assert len(rows(data.train)) + len(rows(data.test)) == 9_804
    if name == "gtsrb":
        with zipfile.ZipFile(data_dir / "gtsrb" / "gtsrb.zip") as archive:
            parts = [file[:-4].split("/") for file in sorted(archive.namelist()) if file.endswith(".png")]
        tracks = {half: [(p[2], p[3].split("_")[0]) for p in parts if p[1] == half] for half in ("train", "test")}
        assert not set(tracks["train"]) & set(tracks["test"])
        paired = set(zip(tracks["train"], data.groups.tolist(), strict=True))
        assert len(paired) == len(set(tracks["train"])) == 943
