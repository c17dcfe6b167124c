"""Eight image data sets (Serrà et al., ICML 2018) on disk: found, decoded once, and kept as tensors of one shape."""

from __future__ import annotations

import difflib
import gzip
import io
import math
import os
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from platformdirs import user_cache_path
from torch import Tensor

from leap_rl.ending import how_to_install
from supervised.decoded import decoded_once

SIZE = 32
HALVES = ("train", "test")
IDX = {"train": "train", "test": "t10k"}
"""What the names of IDX files begin with."""
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "GIF", "TIFF")
"""Pillow's names of these: others of its readers run programs, or are too rarely used to be trusted."""
MODES = ("RGB", "L", "P", "1")
"""Of Pillow, those that become RGB and lose nothing."""
SPLIT_SEED = 0


class MultiCVError(ValueError):
    """A data set is unknown, missing, partial or damaged; says what was looked for and how to get it."""


@dataclass(frozen=True)
class Description:
    """
    :param title: name of the data set in full
    :param n_classes: of it
    :param torchvision: its class that reads it
    :param download: what torchvision's download leaves in the folder of all data
    :param size: height and width of the original images, which are grey if they are 28×28
    :param how: to get it; ``{data_dir}`` stands for the folder of all data
    """

    title: str
    n_classes: int
    torchvision: str | None = None
    download: tuple[str, ...] = ()
    size: int = SIZE
    how: str = "python -m supervised.multi_cv train --download --data-dir {data_dir}"

    def how_to_get(self, data_dir: str | Path) -> str:
        """With the folder as a shell takes it."""
        return self.how.format(data_dir=shlex.quote(str(data_dir)))


DATA_SETS = {
    "cifar10": Description("CIFAR-10", 10, "CIFAR10", ("cifar-10-batches-py",)),
    "cifar100": Description("CIFAR-100", 100, "CIFAR100", ("cifar-100-python",)),
    "mnist": Description("MNIST", 10, "MNIST", ("MNIST/raw",), size=28),
    "fashion-mnist": Description("Fashion-MNIST", 10, "FashionMNIST", ("FashionMNIST/raw",), size=28),
    "svhn": Description("SVHN", 10, "SVHN", ("train_32x32.mat", "test_32x32.mat")),
    "gtsrb": Description(
        "GTSRB", 43, "GTSRB", ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")
    ),
    "notmnist": Description(
        "notMNIST",
        10,
        size=28,
        how="put its images, 28×28 and grey, into {data_dir}/notmnist/train/LETTER and "
        "{data_dir}/notmnist/test/LETTER, with a folder for each letter from A to J",
    ),
    "facescrub": Description(
        "FaceScrub",
        100,
        how="scale the faces of its 100 persons to 32×32, and put them into "
        "{data_dir}/facescrub/train/PERSON and {data_dir}/facescrub/test/PERSON",
    ),
}


@dataclass(frozen=True, eq=False)
class DataSet:
    """
    Images in RGB, those that are 28×28 with a border of zeros.

    :param train: uint8, shape (n, 3, 32, 32)
    :param train_labels: int64, shape (n,)
    :param groups: int64, shape (n,): training images of one group must stay together when they are split, as they show
        the same. A track of GTSRB is a group, and the copies of an image of notMNIST are; elsewhere each image is one
    :param test: as ``train``
    :param test_labels: as ``train_labels``
    """

    train: Tensor
    train_labels: Tensor
    groups: Tensor
    test: Tensor
    test_labels: Tensor


def default_data_dir() -> Path:
    """``LEAP_RL_DATA``, or where torchvision downloads to for us."""
    root = os.environ.get("LEAP_RL_DATA")
    return Path(root) if root else user_cache_path("leap_rl")


def available(data_dir: str) -> list[str]:
    """
    Names of the data sets that are there, none of which is read for it.

    :raises MultiCVError: if a folder of a data set's name holds something else, or a download is not whole
    """
    names = [name for name in DATA_SETS if _found(Path(data_dir), name) is not None]
    for name in DATA_SETS:
        if name in names:
            continue
        if _inside(Path(data_dir) / name) or _begun(Path(data_dir), name):
            raise MultiCVError(_missing(Path(data_dir), name))
        misspelt = _misspelt(Path(data_dir), name)
        if misspelt:
            raise MultiCVError(f"{data_dir} has {misspelt}: call it {name}{'.zip' * misspelt.endswith('.zip')}")
    return names


def download(data_dir: str, names: Iterable[str]) -> None:
    """
    Have torchvision download data sets, those that are not there.

    :param data_dir: the folder of all data
    :param names: in ``DATA_SETS``
    :raises MultiCVError: before anything is downloaded, if torchvision has no download of one
    """
    absent = [name for name in names if _found(Path(data_dir), name) is None]
    for name in absent:
        description = DATA_SETS[name]
        if description.torchvision is None:
            how = description.how_to_get(data_dir)
            raise MultiCVError(f"torchvision has no download of {description.title}: {how}")
    for name in absent:
        _by_torchvision(name, Path(data_dir), download=True)


def check_name(name: str) -> None:
    """:raises MultiCVError: if there is no such data set"""
    if name not in DATA_SETS:
        near = difflib.get_close_matches(name.lower(), DATA_SETS, cutoff=0.5)
        did_you_mean = f", did you mean {' or '.join(near)}?" if near else ""
        raise MultiCVError(f"no data set {name!r}{did_you_mean} (there are {', '.join(DATA_SETS)})")


@lru_cache(maxsize=len(DATA_SETS))
def load(data_dir: str, name: str) -> DataSet:
    """
    Read a data set from the first of these places where it is:

    - ``NAME/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``, or the same without ``.gz``. Of notMNIST one half
      is enough, of which a fifth becomes the test
    - ``NAME/{train,test}/CLASS/IMAGE``, of which the classes are numbered by name; names that are all numbers by these
    - the same in ``NAME.zip``, ``NAME/NAME.zip`` or ``cifar/NAME.zip``
    - torchvision's download

    :param data_dir: the folder of all data
    :param name: in ``DATA_SETS``
    :raises MultiCVError: if it is unknown, missing, partial or damaged
    """
    check_name(name)
    found = _found(Path(data_dir), name)
    if found is None:
        raise MultiCVError(_missing(Path(data_dir), name))
    sources, decode = found
    arrays = {
        key: torch.from_numpy(array) for key, array in decoded_once(f"multi-cv-2-{name}", sources, decode).items()
    }
    for half in HALVES:
        if arrays[half].ndim == 3:
            # Three views of one grey channel.
            arrays[half] = arrays[half][:, None].expand(-1, 3, -1, -1)
    return DataSet(**arrays)


# -- where it is -----------------------------------------------------------------------------------


def _found(data_dir: Path, name: str) -> tuple[list[Path], Callable[[], dict[str, np.ndarray]]] | None:
    """What to decode, and what decodes it to the arrays of a ``DataSet``; grey images have no channels yet."""
    folder = data_dir / name
    idx_files = _idx_files(folder)
    if idx_files:
        return list(idx_files.values()), partial(_from_idx, name, folder, idx_files)
    halves = [folder / half for half in HALVES if (folder / half).is_dir()]
    if halves:
        return halves, partial(_from_folder, name, folder)
    for file in (data_dir / f"{name}.zip", folder / f"{name}.zip", data_dir / "cifar" / f"{name}.zip"):
        if file.is_file():
            return [file], partial(_from_zip, name, file)
    download = [data_dir / part for part in DATA_SETS[name].download]
    if download and all(part.exists() for part in download):
        return download, partial(_from_torchvision, name, data_dir)
    return None


def _missing(data_dir: Path, name: str) -> str:
    description = DATA_SETS[name]
    places = [
        f"IDX files ({name}/train-images-idx3-ubyte.gz and so on)",
        f"folders ({name}/train/CLASS/IMAGE and {name}/test/CLASS/IMAGE)",
        f"a zip of these ({name}.zip, {name}/{name}.zip or cifar/{name}.zip)",
        *([f"torchvision's download ({', '.join(description.download)})"] if description.download else []),
    ]
    inside = _inside(data_dir / name)
    instead = f" ({data_dir / name} has only {', '.join(inside[:3])}{' …' * (len(inside) > 3)})" if inside else ""
    begun = _begun(data_dir, name)
    if begun and not inside:
        instead = f" (of which there is only {', '.join(begun)})"
    how = description.how_to_get(data_dir)
    looked_for = f"{', '.join(places[:-1])} or {places[-1]}"
    return f"no {description.title} in {data_dir}: looked for {looked_for}{instead}. To have it there: {how}"


def _begun(data_dir: Path, name: str) -> list[str]:
    """What there is of torchvision's download: files, or the folders that hold them."""
    parts = {Path(part).parts[0] for part in DATA_SETS[name].download} - {name}
    return sorted(part for part in parts if (data_dir / part).exists())


def _misspelt(data_dir: Path, name: str) -> str | None:
    """A folder or zip whose name differs by its case and marks alone; torchvision's own have such names."""
    own = {name, *(Path(part).parts[0] for part in DATA_SETS[name].download)}
    for found in _inside(data_dir):
        stem = found.removesuffix(".zip")
        is_one = (data_dir / found).is_dir() or stem != found
        if is_one and stem not in own and _letters(stem) == _letters(name):
            return found
    return None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _idx_files(folder: Path) -> dict[str, Path]:
    """Those that are there, by their names without ``.gz``."""
    names = [f"{half}-{kind}-ubyte" for half in IDX.values() for kind in ("images-idx3", "labels-idx1")]
    places = {name: [file for file in (folder / f"{name}.gz", folder / name) if file.is_file()] for name in names}
    return {name: files[0] for name, files in places.items() if files}


# -- IDX files -------------------------------------------------------------------------------------


def _from_idx(name: str, folder: Path, files: dict[str, Path]) -> dict[str, np.ndarray]:
    if DATA_SETS[name].size != 28:
        raise MultiCVError(
            f"{folder} has IDX files, which are grey, expected {SIZE}×{SIZE} in color: use folders, train/CLASS/IMAGE "
            "and test/CLASS/IMAGE"
        )
    images, labels = {}, {}
    for half, prefix in IDX.items():
        names = [f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        there = [files[n] for n in names if n in files]
        if len(there) == 1:
            raise MultiCVError(
                f"{folder} has {there[0].name} without {' or '.join(n for n in names if n not in files)}"
            )
        if there:
            images[half], labels[half] = _read_idx(there[0], 3), _read_idx(there[1], 1).astype(np.int64)
            height, width = images[half].shape[1:]
            if (height, width) != (28, 28):
                raise MultiCVError(f"{there[0]} has images of {width}×{height}, expected 28×28")
            _check_labels(name, there[1], images[half], labels[half])
    if len(images) == 1:
        if name != "notmnist":  # which comes as one set
            missing = next(prefix for half, prefix in IDX.items() if half not in images)
            raise MultiCVError(f"{folder} has no {missing}-images-idx3-ubyte, with or without .gz: a partial copy")
        [(x, y)] = zip(images.values(), labels.values(), strict=True)
        test = _a_fifth(x, y)
        images, labels = {"train": x[~test], "test": x[test]}, {"train": y[~test], "test": y[test]}
    _leave_out_copies(name, images, labels)
    _check_classes(name, folder, labels["train"].tolist(), labels["test"].tolist())
    return _arrays(images, labels, _groups(name, images["train"]))


def _read_idx(file: Path, n_dimensions: int) -> np.ndarray:
    """Bytes of that many dimensions."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise MultiCVError(f"{file} is damaged: {error}; fetch it again") from None
    start = 4 + 4 * n_dimensions
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if data[:4] != bytes([0, 0, 8, n_dimensions]) or len(data) != start + math.prod(shape):
        raise MultiCVError(
            f"{file} is damaged: expected an IDX file of bytes in {n_dimensions} dimensions, as many as it announces; "
            "fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _a_fifth(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Draw a test: a fifth of each class, as nearly as copies of an image, which stay together, allow.

    :return: bool, shape (n,)
    """
    copies: dict[int, list[int]] = {}
    for row, group in enumerate(_numbered(image.tobytes() for image in images)):
        copies.setdefault(int(group), []).append(row)
    room = {label: max(1, round(count / 5)) for label, count in Counter(labels.tolist()).items()}
    test = np.zeros(len(images), dtype=bool)
    for group in np.random.default_rng(SPLIT_SEED).permutation(len(copies)).tolist():
        # Copies may have different labels: the labels of notMNIST are noisy.
        wanted = Counter(labels[copies[group]].tolist())
        if all(count <= room[label] for label, count in wanted.items()):
            test[copies[group]] = True
            for label, count in wanted.items():
                room[label] -= count
    return test


# -- folders and zips ------------------------------------------------------------------------------


def _from_folder(name: str, folder: Path) -> dict[str, np.ndarray]:
    files = [file for half in HALVES for file in glob(f"{half}/**", root_dir=folder, recursive=True)]
    return _from_files(name, folder, files, lambda file: (folder / file).read_bytes())


def _from_zip(name: str, file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            return _from_files(name, file, archive.namelist(), archive.read)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise MultiCVError(f"{file} is damaged: {error}; fetch it again") from None


def _from_files(name: str, where: Path, files: Iterable[str], read: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """
    :param where: the folder or zip, for messages
    :param files: in it
    :param read: gives what is in a file
    """
    found: dict[str, list[tuple[str, str]]] = {half: [] for half in HALVES}
    for file in sorted(files):
        half, *inner = file.removeprefix(f"{name}/").split("/")
        if half in HALVES and file.lower().endswith(ENDINGS) and not Path(file).name.startswith("."):
            if len(inner) != 2:
                raise MultiCVError(f"{where} has {file}, expected {half}/CLASS/IMAGE")
            found[half].append((inner[0], file))
    for half in HALVES:
        if not found[half]:
            kinds = ", ".join(ending[1:] for ending in ENDINGS)
            raise MultiCVError(f"{where} has no {half}/CLASS/IMAGE ({kinds}), expected both train and test")
    # Whatever names alone can tell is told before any image is decoded.
    classes = _check_classes(name, where, *([label for label, _ in found[half]] for half in HALVES))
    number = {label: i for i, label in enumerate(classes)}
    labels = {half: np.array([number[label] for label, _ in found[half]]) for half in HALVES}
    tracks = _tracks(where, found["train"], found["test"]) if name == "gtsrb" else None
    images = {half: np.stack([_image(name, where, file, read) for _, file in found[half]]) for half in HALVES}
    _leave_out_copies(name, images, labels)
    return _arrays(images, labels, _groups(name, images["train"]) if tracks is None else tracks)


def _image(name: str, where: Path, file: str, read: Callable[[str], bytes]) -> np.ndarray:
    image = _opened(where, file, read)
    sizes = sorted({SIZE, DATA_SETS[name].size})
    if image.size not in [(size, size) for size in sizes]:
        expected = " or ".join(f"{size}×{size}" for size in sizes)
        raise MultiCVError(f"{where / file} is {image.width}×{image.height}, expected {expected}")
    return _padded(np.asarray(image).transpose(2, 0, 1))


def _opened(where: Path, file: str, read: Callable[[str], bytes]) -> Image.Image:
    """In RGB."""
    try:
        image = Image.open(io.BytesIO(read(file)), formats=FORMATS)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MultiCVError(f"{where / file} is damaged: {error}") from None
    if image.mode not in MODES:
        raise MultiCVError(f"{where / file} has mode {image.mode}, expected {', '.join(MODES[:-1])} or {MODES[-1]}")
    return image.convert("RGB")


def _tracks(where: Path, train: Sequence[tuple[Hashable, str]], test: Sequence[tuple[Hashable, str]]) -> np.ndarray:
    """
    GTSRB's groups: a track is one sign that a car drives towards, and its frames are almost equal.

    :param train: class and file of each image. A file is named ``<track>_<frame>``, and tracks are of a class
    :param test: as ``train``; the original names of the test tell no track
    """
    in_train = [(label, Path(file).stem.rpartition("_")[0]) for label, file in train]
    in_test = {(label, Path(file).stem.rpartition("_")[0]) for label, file in test}
    for (label, track), (_, file) in zip(in_train, train, strict=True):
        if not track:
            raise MultiCVError(f"{where / file} tells no track by its name, expected TRACK_FRAME")
        if (label, track) in in_test:
            raise MultiCVError(
                f"{where} has track {track} of class {label} in train and test, expected all frames of a track in one"
            )
    return _numbered(in_train)


# -- torchvision's downloads -----------------------------------------------------------------------


def _from_torchvision(name: str, data_dir: Path) -> dict[str, np.ndarray]:
    halves = _halves_by_torchvision(name, data_dir)
    where = data_dir / DATA_SETS[name].download[0]
    if name == "gtsrb":
        # Only the names of the files tell the tracks.
        files = {half: [(label, os.path.abspath(file)) for file, label in halves[half]._samples] for half in HALVES}
        labels = {half: np.array([label for label, _ in files[half]]) for half in HALVES}
        _check_classes(name, where, labels["train"].tolist(), labels["test"].tolist())
        groups = _tracks(where, files["train"], files["test"])
        images = {half: np.stack([_scaled(file) for _, file in files[half]]) for half in HALVES}
        return _arrays(images, labels, groups)
    images = {half: np.asarray(halves[half].data) for half in HALVES}
    if name.startswith("cifar"):
        images = {half: x.transpose(0, 3, 1, 2) for half, x in images.items()}
    labels = {half: np.asarray(halves[half].labels if name == "svhn" else halves[half].targets) for half in HALVES}
    for half in HALVES:
        _check_labels(name, where, images[half], labels[half])
    _check_classes(name, where, labels["train"].tolist(), labels["test"].tolist())
    return _arrays(images, labels, _groups(name, images["train"]))


def _halves_by_torchvision(name: str, data_dir: Path) -> dict[str, Any]:
    """Data sets of its class."""
    description = DATA_SETS[name]
    try:
        return _by_torchvision(name, data_dir, download=False)
    except ImportError as error:
        raise MultiCVError(
            f"{description.title} can't be read by torchvision's {description.torchvision}: {error}; "
            f"{how_to_install('supervised')}"
        ) from None
    except Exception as error:  # each of its classes fails in its own way
        parts = ", ".join(description.download)
        raise MultiCVError(
            f"{parts} in {data_dir} is damaged: {error or repr(error)}; remove it and fetch it again: "
            f"{description.how_to_get(data_dir)}"
        ) from None


def _by_torchvision(name: str, data_dir: Path, download: bool) -> dict[str, Any]:
    import torchvision.datasets  # type: ignore[import-untyped]

    reader = getattr(torchvision.datasets, str(DATA_SETS[name].torchvision))
    by_name = name in ("svhn", "gtsrb")
    return {half: reader(str(data_dir), half if by_name else half == "train", download=download) for half in HALVES}


def _scaled(file: str) -> np.ndarray:
    image = _opened(Path(file).parent, Path(file).name, lambda _: Path(file).read_bytes())
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


# -- what all have in common -----------------------------------------------------------------------


def _check_labels(name: str, where: Path, images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise MultiCVError(f"{where} has {len(labels)} labels for {len(images)} images")
    highest = DATA_SETS[name].n_classes - 1
    if len(labels) and not 0 <= labels.min() <= labels.max() <= highest:
        raise MultiCVError(f"{where} has labels from {labels.min()} to {labels.max()}, expected 0 to {highest}")


def _check_classes(name: str, where: Path, train: Iterable[Any], test: Iterable[Any]) -> list[Any]:
    """
    :param train: class of each image
    :param test: as ``train``
    :return: the classes, sorted; names that are all numbers by these
    """
    in_train, in_test = Counter(train), Counter(test)
    classes = sorted({*in_train, *in_test})
    if all(str(label).isdecimal() for label in classes):
        classes.sort(key=int)
    description = DATA_SETS[name]
    if len(classes) != description.n_classes:
        raise MultiCVError(
            f"{where} has {len(classes)} classes, expected {description.n_classes} in {description.title}"
        )
    for label in classes:
        if in_train[label] < 2 or not in_test[label]:
            raise MultiCVError(
                f"{where} has {in_train[label]} training and {in_test[label]} test images of class {label}, "
                "expected at least 2 and 1"
            )
    return classes


def _leave_out_copies(name: str, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    """Of notMNIST, the training images of which a copy is in the test."""
    if name == "notmnist":
        test = {image.tobytes() for image in images["test"]}
        kept = np.array([image.tobytes() not in test for image in images["train"]], dtype=bool)
        images["train"], labels["train"] = images["train"][kept], labels["train"][kept]


def _groups(name: str, images: np.ndarray) -> np.ndarray:
    """Of training images whose tracks nobody knows."""
    return _numbered(image.tobytes() for image in images) if name == "notmnist" else np.arange(len(images))


def _numbered(keys: Iterable[Hashable]) -> np.ndarray:
    """A number for each, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _padded(images: np.ndarray) -> np.ndarray:
    """:param images: shape (…, 28, 28) or (…, 32, 32)"""
    border = (SIZE - images.shape[-1]) // 2
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + [(border, border)] * 2)


def _arrays(images: dict[str, np.ndarray], labels: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "groups": groups,
        **{half: _padded(images[half]) for half in HALVES},
        **{f"{half}_labels": labels[half].astype(np.int64) for half in HALVES},
    }
