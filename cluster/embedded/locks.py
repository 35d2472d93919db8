"""File locks that the kernel releases with the last process that holds them, however it dies."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from .errors import DataDirectoryUnusable


class FileLock:
    """An exclusive `flock`. Two objects exclude each other even within one process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def try_acquire(cls, path: Path) -> Self | None:
        """The lock on `path`, or None if somebody holds it.

        Raises DataDirectoryUnusable where the file system has no locks, OSError for other trouble with the file.
        """
        # Read-only, so that a file made by root serves everybody; never through a symbolic link, since we may be root
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise DataDirectoryUnusable(
                    f"The file system of {path.parent} has no file locks, without which two servers could run on one"
                    " database. Choose a directory on a local file system."
                ) from error
            raise
        return cls(descriptor)

    @property
    def descriptor(self) -> int:
        """To hand the lock on to a child process. Raises ValueError once it is released."""
        if self._descriptor is None:
            raise ValueError("the lock was released")
        return self._descriptor

    def release(self) -> None:
        """Release it for every process that inherited it. Doing so again has no effect."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Give up our own hold only: processes that inherited the lock keep it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: Path) -> bool:
    """Whether anybody holds the lock on `path` at this moment."""
    if not path.exists():
        return False
    lock = FileLock.try_acquire(path)
    if lock is None:
        return True
    lock.release()
    return False
