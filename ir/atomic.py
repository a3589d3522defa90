"""Write files that are whole or absent."""

import contextlib
import os
import secrets
from collections.abc import Generator, Sequence
from typing import BinaryIO


class Replacement:
    """Is a file under a temporary name beside ``path`` until :func:`replace_all` moves it."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder, name = os.path.split(path)
        self.temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")

    @contextlib.contextmanager
    def open(self) -> Generator[BinaryIO]:
        """Open the temporary file for writing; it is removed when the body raises."""
        try:
            with open(self.temporary, "xb") as file:
                yield file
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the temporary file if it is there."""
        with contextlib.suppress(OSError):
            os.remove(self.temporary)


def replace_all(files: Sequence[Replacement]) -> None:
    """Move every temporary file to its place, or none: earlier ones are undone when one fails."""
    moved: list[tuple[Replacement, str | None]] = []
    try:
        for file in files:
            moved.append((file, _set_aside(file) if len(files) > 1 else None))
            os.replace(file.temporary, file.path)
    except BaseException:
        for file, backup in reversed(moved):
            _restore(file, backup)
        raise
    finally:
        for file in files:
            file.discard()
    for _, backup in moved:
        if backup:
            os.remove(backup)


def _set_aside(file: Replacement) -> str | None:
    """Keep what is at the file's place under a second name."""
    backup = file.temporary + ".old"
    if not os.path.lexists(file.path):
        return None
    os.rename(file.path, backup)
    return backup


def _restore(file: Replacement, backup: str | None) -> None:
    if backup:
        os.replace(backup, file.path)
    elif not os.path.exists(file.temporary):
        # The move itself had succeeded and nothing was there before.
        with contextlib.suppress(FileNotFoundError):
            os.remove(file.path)
