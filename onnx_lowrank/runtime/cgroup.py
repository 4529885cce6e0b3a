"""The control groups of this process: what a container, a job or a service may use, see cgroups(7), both versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def read_limits(controller: str, second: tuple[str, ...], first: tuple[str, ...]) -> Iterator[list[int | None]]:
    """Read numbers of every group from the process's own one up; limits of all of them hold.

    Args:
        controller: such as ``memory``.
        second: names of files of version 2, such as ``memory.max``; one may hold several numbers.
        first: names of files of version 1.

    Yields:
        The numbers of the files of one group, in order; None for one that is not limited. Groups that lack a file are
        left out.
    """
    for root, path, unified in _places(controller):
        for folder in [path, *path.parents]:
            with suppress(OSError, ValueError):
                texts = [(root / folder / name).read_text() for name in (second if unified else first)]
                yield [None if word in {"max", "-1"} else int(word) for text in texts for word in text.split()]


def _places(controller: str) -> Iterator[tuple[Path, Path, bool]]:
    """Yield where groups are mounted, the own one there, and whether it is version 2; once for each hierarchy."""
    lines = []
    with suppress(OSError):
        lines = OWN.read_text().splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = Path(path.lstrip("/"))
        if not controllers:
            yield from ((MOUNT / name, inside, True) for name in ("", "unified"))
        elif controller in controllers.split(","):
            yield MOUNT / controller, inside, False
