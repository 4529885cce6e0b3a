"""Files on their way: written beside their places, and renamed to them together once all are complete.

A publication writes into folders of its own, one in every folder that it has files for::

    .onnx-lowrank-SCOPE-PID-START-RANDOM.tmp/       a name that nothing else has

The name says which process it belongs to: its number, when it started, and the kernel and the container that count it
so. What a killed process has left is removed by the next one that writes into the same folder, if it can see that this
process is gone; what another machine or container has left stays, since its processes cannot be seen from here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType

from onnx_lowrank import interruption
from onnx_lowrank.errors import OutputError

_PROC = Path("/proc")
_NAME = re.compile(r"\.onnx-lowrank-(?P<scope>[0-9a-f]+)-(?P<pid>\d+)-(?P<start>\d+)-\w+\.tmp")
_DEAD = "ZX"  # states of a process that has ended, and whose parent has not looked


class Publication:
    """Files that become final together when the block ends without an error, and vanish when it fails.

    A path that is a link is written through: the file that it leads to is replaced, and the link stays.

    Args:
        is_result: whether somebody asked for the files, and is told of them after an interruption.
    """

    def __init__(self, *, is_result: bool = True) -> None:
        self._is_result = is_result
        self._folders: dict[Path, Path] = {}  # own ones, by the folder that they are in
        self._files: list[tuple[Path, Path, Path]] = []  # where it is written, its final place, how messages call it
        self._temporary = 0  # so many
        self._registered = contextlib.ExitStack()

    def __enter__(self) -> Publication:
        self._registered.enter_context(interruption.cleaned_up(self._clean))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._registered:
            if kind is None:
                self._publish()

    def add(self, path: Path) -> Path:
        """Return where to write a file that is to become ``path``; of several files, the first is renamed first.

        Raises:
            OutputError: nothing can be written beside ``path``.
        """
        place = final_place(path)
        with explained(path):
            file = self._folder(place.parent) / place.name
        self._files.append((file, place, path))
        return file

    @contextlib.contextmanager
    def left_out_on_error(self) -> Iterator[None]:
        """Leave out the files that are added inside of a block that fails; the others may still become final."""
        before = len(self._files)
        try:
            yield
        except BaseException:
            for file, _, _ in self._files[before:]:
                file.unlink(missing_ok=True)
            del self._files[before:]
            raise

    def temporary(self, suffix: str) -> Path:
        """Return where to write a file that vanishes with the publication."""
        self._temporary += 1
        return self._folder(Path(tempfile.gettempdir())) / f"{self._temporary}{suffix}"

    def _folder(self, parent: Path) -> Path:
        if parent not in self._folders:
            remove_leftovers(parent)
            with interruption.together():
                prefix = f".onnx-lowrank-{_scope()}-{os.getpid()}-{_start(os.getpid()) or 0}-"
                self._folders[parent] = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=parent))
        return self._folders[parent]

    def _publish(self) -> None:
        """Flush all files to the disk and rename them; where one fails, put back what was there before."""
        for file, _, path in self._files:
            with explained(path), file.open("r+b") as stream:
                os.fsync(stream.fileno())
        interruption.check()
        begun: list[tuple[Path, Path, Path]] = []
        with interruption.together():
            try:
                for number, (file, place, path) in enumerate(self._files):
                    with explained(path):
                        begun.append((file, place, file.with_name(f"old {number}")))
                        if len(self._files) > 1 and place.is_file():
                            _keep(*begun[-1][1:])
                        file.replace(place)
            except BaseException:
                _put_back(begun)
                raise
            for _, _, path in self._files if self._is_result else ():
                interruption.note_written(path)

    def _clean(self) -> None:
        for folder in list(self._folders.values()):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)  # a file that another thread wrote meanwhile


def final_place(path: Path) -> Path:
    """Return the file that is written where a path is given: what it leads to, if it is a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into an OutputError that names the file."""
    try:
        yield
    except IsADirectoryError as error:
        raise OutputError(
            f"{path}: cannot be written, as it has become a folder meanwhile: remove it or choose another name"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}): free some space or choose another place"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this program have left in a folder that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name and name["scope"] == _scope() and _is_gone(int(name["pid"]), int(name["start"])):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False) and entry.stat().st_uid == os.geteuid():
                        shutil.rmtree(entry.path, ignore_errors=True)


def _keep(place: Path, backup: Path) -> None:
    """Keep what is in the place of a file, which stays there until it is replaced."""
    try:
        backup.hardlink_to(place)
    except OSError:  # a file system without links, or a file of someone else's
        place.rename(backup)


def _put_back(begun: list[tuple[Path, Path, Path]]) -> None:
    """Undo renamings, the last one first; the last may not have happened."""
    for file, place, old in reversed(begun):
        with contextlib.suppress(OSError):
            if old.exists():
                old.replace(place)
            elif not file.exists():
                place.unlink()


@cache
def _scope() -> str:
    """Return what tells the processes of this kernel and container from others that may have the same number."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text()
        namespace = (_PROC / "self/ns/pid").readlink()
    except OSError:  # not Linux
        return "0"
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def _is_gone(pid: int, start: int) -> bool:
    """Return whether a process that started at a time is surely gone; never where that cannot be seen."""
    return _scope() != "0" and _start(pid) != start


def _start(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks; None where it has ended or cannot be seen."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in _DEAD else int(fields[19])  # fields 3 and 22 of proc(5)
