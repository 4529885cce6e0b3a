"""Image files by name, in a folder or in an archive.

An archive is never unpacked to disk: its members are read into memory one at a time, so their names cannot
point anywhere. Every way of reading is safe from several threads: ``zipfile`` locks its file, a plain tar is
read at the offsets of its index through a file handle per member, and a compressed tar, which can only be
read from front to back, is held in memory.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import commonpath

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
LARGEST_IMAGE_BYTES = 256 * 2**20
LARGEST_COMPRESSED_TAR_BYTES = 2 * 2**30


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Encoded images in a fixed order.

    Attributes:
        source: the path they come from, as the user wrote it.
        names: path of each image inside its folder or archive, sorted.
        folders: paths of the folders beside them, with images or without.
        read_member: bytes of the image of a name; raises on damage and on more than `LARGEST_IMAGE_BYTES`.
    """

    source: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    read_member: Callable[[str], bytes]

    def class_labels(self) -> NDArray[np.int64] | None:
        """Number the class folders: those directly below the deepest folder that holds all the images.

        Returns:
            Position of each image's class folder in the sorted order of the folder names (folders without
            images count), shape (images,); None unless every image lies in a class folder.
        """
        parents = [name.rpartition("/")[0] for name in self.names]
        root = commonpath(set(parents))
        start = len(root) + 1 if root else 0
        classes = [parent[start:].partition("/")[0] for parent in parents]
        if not all(classes):
            return None
        empty = {folder[start:] for folder in self.folders if folder.rpartition("/")[0] == root}
        position = {name: index for index, name in enumerate(sorted(set(classes) | empty))}
        return np.array([position[name] for name in classes], dtype=np.int64)


def split_archive_path(path: Path) -> tuple[Path, str]:
    """Tell the file or folder that exists from a path that goes on inside an archive.

    Returns:
        The existing path, and the rest of ``path`` inside it with forward slashes ("" where there is none).

    Raises:
        CalibrationError: nothing exists at ``path``, nor an archive at the start of it.
    """
    if path.exists():
        return path, ""
    for parent in path.parents:
        if parent.is_file() and is_archive(parent):
            return parent, path.relative_to(parent).as_posix()
    raise CalibrationError(f"{path}: no such file or folder: check the path of the calibration data")


def is_archive(path: Path) -> bool:
    """Whether the name ends as one of the archives that can be read."""
    return path.name.lower().endswith(ARCHIVE_ENDINGS)


def open_image_files(path: Path) -> ImageFiles:
    """List the images below a folder, an archive, or a folder inside an archive.

    Args:
        path: of a folder, of one of `ARCHIVE_ENDINGS`, or an archive's path that goes on inside it.

    Returns:
        The images, known by `IMAGE_ENDINGS`; hidden files and folders are passed over.

    Raises:
        CalibrationError: the path is missing, cannot be read, is another kind of file or holds no image.
    """
    root, inside = split_archive_path(path)
    if root.is_dir():
        listing, read_member = _open_folder(root)
    elif is_archive(root):
        listing, read_member = _open_archive(root)
    else:
        wanted = ", ".join((".npy", ".npz", *ARCHIVE_ENDINGS))
        raise CalibrationError(f"{path}: neither a folder nor one of {wanted}: pass data of one of these kinds")
    shown = {name: is_folder for name, is_folder in listing.items() if _is_shown(name)}
    start = f"{inside}/" if inside else ""
    kept = {name: is_folder for name, is_folder in shown.items() if f"{name}/".startswith(start)}
    if inside and not kept:
        tops = ", ".join(sorted({name.partition("/")[0] for name in shown})[:5]) or "nothing"
        raise CalibrationError(
            f"{root}: no '{inside}' inside; it holds {tops}: correct the path after the archive's name"
        )
    names = sorted(name for name, is_folder in kept.items() if not is_folder and name.lower().endswith(IMAGE_ENDINGS))
    if not names:
        raise CalibrationError(
            f"{path}: no images found (looked for {' '.join(IMAGE_ENDINGS)}): pass a folder with some"
        )
    folders = tuple(sorted(name for name, is_folder in kept.items() if is_folder))
    return ImageFiles(str(path), tuple(names), folders, read_member)


def _is_shown(name: str) -> bool:
    """Whether a file is meant to be seen; ``._x.jpg`` and ``__MACOSX`` are notes that a Mac leaves."""
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


# What the openers return: {name: whether it is a folder}, and how to read the bytes of a name.
Opened = tuple[Mapping[str, bool], Callable[[str], bytes]]


def _open_folder(root: Path) -> Opened:
    def fail(error: OSError) -> None:
        raise CalibrationError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from error

    listing: dict[str, bool] = {}
    seen: set[str] = set()
    for folder, below, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else [name for name in below if _is_shown(name)]  # links can make circles
        if real not in seen:
            seen.add(real)
            inside = Path(folder).relative_to(root)
            listing.update({(inside / name).as_posix(): True for name in below})
            listing.update({(inside / name).as_posix(): False for name in files})

    def read_member(name: str) -> bytes:
        path = root / name
        _check_size(path.stat().st_size)
        return path.read_bytes()

    return listing, read_member


def _open_archive(path: Path) -> Opened:
    ending = path.name.lower()
    try:
        if ending.endswith(".zip"):
            return _open_zip(path)
        return _open_tar(path) if ending.endswith(".tar") else _open_compressed_tar(path)
    except CalibrationError:
        raise
    except Exception as error:  # damaged archives raise nearly everything, from EOFError to struct.error
        raise CalibrationError(f"{path}: cannot be read as an archive ({error}): make or download it anew") from error


def _open_zip(path: Path) -> Opened:
    archive = zipfile.ZipFile(path)  # stays open as long as the samples live
    members = {_clean(member.filename): member for member in archive.infolist()}

    def read_member(name: str) -> bytes:
        member = members[name]
        _check_size(member.file_size)
        with archive.open(member) as file:
            return file.read(member.file_size)  # never more, whatever the compressed stream holds

    return {name: member.is_dir() for name, member in members.items()}, read_member


def _open_tar(path: Path) -> Opened:
    with tarfile.open(path, "r:") as archive:
        members = {_clean(member.name): member for member in archive if member.isreg() or member.isdir()}
        end = archive.offset
    with path.open("rb") as file:  # tarfile takes a broken or cut off header for the end of the archive
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {end}, damaged or cut off")

    def read_member(name: str) -> bytes:
        member = members[name]
        _check_size(member.size)
        with path.open("rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)

    return {name: member.isdir() for name, member in members.items()}, read_member


def _open_compressed_tar(path: Path) -> Opened:
    listing: dict[str, bool] = {}
    content: dict[str, bytes] = {}
    total = 0
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = _clean(member.name)
            if member.isdir():
                listing[name] = True
            elif member.isreg() and name.lower().endswith(IMAGE_ENDINGS):
                total += member.size
                if total > LARGEST_COMPRESSED_TAR_BYTES:
                    raise CalibrationError(
                        f"{path}: more than {LARGEST_COMPRESSED_TAR_BYTES >> 20} MiB of images, which have "
                        f"to be kept in memory for a compressed tar: unpack it, or make it a .tar or .zip"
                    )
                file = archive.extractfile(member)
                content[name] = file.read() if file else b""
                listing[name] = False

    def read_member(name: str) -> bytes:
        _check_size(len(content[name]))
        return content[name]

    return listing, read_member


def _clean(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _check_size(size: int) -> None:
    if size > LARGEST_IMAGE_BYTES:
        raise OSError(f"file of {size >> 20} MiB, more than the {LARGEST_IMAGE_BYTES >> 20} MiB an image may have")
