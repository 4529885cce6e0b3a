"""List and read image files in a folder or an archive.

An archive is never unpacked to the disk: its members are read into memory one at a time, so the path in a member's name
has no effect. All readers are safe to call from several threads: ``zipfile`` locks its file, a plain tar is read at the
offsets of its index through a file handle per member, and the images of a compressed tar are held in memory.

A compressed tar is not read through ``tarfile.extractfile`` because a gzip stream only runs forwards: every step back
decompresses it from the start, which takes 35 times as long for 200 images of 12 kB in random order.
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

from onnx_lowrank.errors import CalibrationError, check_name

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_IMAGE_BYTES = 256 * 2**20
MAX_COMPRESSED_TAR_BYTES = 2 * 2**30


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Encoded images in a fixed order.

    Attributes:
        source: path of the folder or archive, as the user wrote it.
        names: path of each image inside the folder or archive, sorted.
        folders: paths of the folders inside it, with or without images.
        read_member: returns the bytes of a named image; raises if it is damaged or exceeds `MAX_IMAGE_BYTES`.
    """

    source: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    read_member: Callable[[str], bytes]

    def class_folders(self) -> tuple[list[str], list[str]] | None:
        """Return the folder that each image lies in, and all such folders.

        Class folders are those directly below the deepest folder that holds all images.

        Returns:
            Name of each image's class folder; names of all class folders, also of those without images, sorted. None
            unless every image lies in a class folder.
        """
        parents = [name.rpartition("/")[0] for name in self.names]
        root = commonpath(set(parents))
        start = len(root) + 1 if root else 0
        classes = [parent[start:].partition("/")[0] for parent in parents]
        if not all(classes):
            return None
        empty = {folder[start:] for folder in self.folders if folder.rpartition("/")[0] == root}
        return classes, sorted(set(classes) | empty)


def split_archive_path(path: Path) -> tuple[Path, str]:
    """Split a path that may continue inside an archive.

    Returns:
        The existing file or folder, and the rest of ``path`` inside it with forward slashes ("" if there is none).

    Raises:
        CalibrationError: neither ``path`` nor an archive that it could continue inside exists.
    """
    check_name(path)
    if path.exists():
        return path, ""
    for parent in path.parents:
        if parent.is_file() and is_archive(parent):
            return parent, path.relative_to(parent).as_posix()
    raise CalibrationError(f"{path}: no such file or folder: check the path of the calibration data")


def is_archive(path: Path) -> bool:
    """Return whether the name ends in one of `ARCHIVE_ENDINGS`."""
    return path.name.lower().endswith(ARCHIVE_ENDINGS)


def open_image_files(path: Path) -> ImageFiles:
    """List the images below a folder, an archive, or a folder inside an archive.

    Args:
        path: of a folder, of an archive (see `ARCHIVE_ENDINGS`), or of a folder inside an archive.

    Returns:
        The files that end in one of `IMAGE_ENDINGS`, without hidden files and folders.

    Raises:
        CalibrationError: the path does not exist, cannot be read, is another kind of file or holds no image.
    """
    root, inside = split_archive_path(path)
    if root.is_dir():
        listing, read_member = _open_folder(root)
    elif is_archive(root):
        listing, read_member = _open_archive(root)
    else:
        endings = ", ".join((".npy", ".npz", *ARCHIVE_ENDINGS))
        raise CalibrationError(f"{path}: neither a folder nor one of {endings}: pass data of one of these kinds")
    visible = {name: is_folder for name, is_folder in listing.items() if _is_visible(name)}
    prefix = f"{inside}/" if inside else ""
    below = {name: is_folder for name, is_folder in visible.items() if f"{name}/".startswith(prefix)}
    if inside and not below:
        top_level = ", ".join(sorted({name.partition("/")[0] for name in visible})[:5]) or "nothing"
        raise CalibrationError(
            f"{root}: no '{inside}' inside; it holds {top_level}: correct the path after the archive's name"
        )
    names = sorted(name for name, is_folder in below.items() if not is_folder and name.lower().endswith(IMAGE_ENDINGS))
    if not names:
        raise CalibrationError(
            f"{path}: no images found (looked for {' '.join(IMAGE_ENDINGS)}): pass a folder with some"
        )
    folders = tuple(sorted(name for name, is_folder in below.items() if is_folder))
    return ImageFiles(str(path), tuple(names), folders, read_member)


def _is_visible(name: str) -> bool:
    """Return whether a file is not hidden; macOS adds ``._x.jpg`` and ``__MACOSX`` to archives."""
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


# {name: whether it is a folder}, and a function that returns the bytes of a named file.
Opened = tuple[Mapping[str, bool], Callable[[str], bytes]]


def _open_folder(root: Path) -> Opened:
    def fail(error: OSError) -> None:
        raise CalibrationError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from error

    listing: dict[str, bool] = {}
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # symbolic links may form a cycle
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if _is_visible(name)]
        inside = Path(folder).relative_to(root)
        listing.update({(inside / name).as_posix(): True for name in subfolders})
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
            return file.read(member.file_size)  # never more, even if the compressed stream holds more

    return {name: member.is_dir() for name, member in members.items()}, read_member


def _open_tar(path: Path) -> Opened:
    with tarfile.open(path, "r:") as archive:
        members = {_clean(member.name): member for member in archive if member.isreg() or member.isdir()}
        end = archive.offset
    with path.open("rb") as file:  # tarfile treats a damaged or truncated header as the end of the archive
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
    """Read all images in one pass over the stream."""
    listing: dict[str, bool] = {}
    content: dict[str, bytes] = {}
    size = 0
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = _clean(member.name)
            if member.isdir():
                listing[name] = True
            elif member.isreg() and name.lower().endswith(IMAGE_ENDINGS):
                size += member.size
                if size > MAX_COMPRESSED_TAR_BYTES:
                    raise CalibrationError(
                        f"{path}: more than {MAX_COMPRESSED_TAR_BYTES >> 20} MiB of images, which have "
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
    if size > MAX_IMAGE_BYTES:
        raise OSError(f"file of {size >> 20} MiB, more than the {MAX_IMAGE_BYTES >> 20} MiB an image may have")
