"""A small disk of our own, to be filled: an ext4 file system in a file, mounted through a loop device.

The mount is visible in a mount namespace of our own only (`isolated`), so the kernel takes it away with our last
process, however that ended.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ISOLATED = "CHAOS_ISOLATED"
_TOOLS = ("unshare", "mount", "umount", "mkfs.ext4", "losetup")
BALLAST = "ballast"
SLICE_BYTES = 4 * 1024 * 1024


def isolate() -> str:  # noqa: RET503 - the other end is another program
    """Go on in a mount namespace of our own; returns why that is not possible, or nothing."""
    if os.environ.get(_ISOLATED):
        return ""
    if os.geteuid() != 0:
        return "only root can mount"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"there is no {', '.join(missing)}"
    probe = subprocess.run(["unshare", "-m", "--propagation", "private", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        return f"no mount namespaces here: {probe.stderr.decode(errors='replace').strip()}"
    os.environ[_ISOLATED] = "1"
    sys.stdout.flush()
    os.execvp("unshare", ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "chaos", *sys.argv[1:]])


class SmallDisk:
    """Mounted at `path`; `close()` takes it away."""

    def __init__(self, directory: Path, *, megabytes: int) -> None:
        self.path = directory / "disk"
        self.path.mkdir()
        image = directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)  # sparse: takes only what is written
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(self.path)], check=True, capture_output=True)

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return shutil.disk_usage(self.path).free

    def fill(self) -> int:
        """Take all that is left; returns how many bytes are taken."""
        descriptor = os.open(self.path / BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
        taken = os.fstat(descriptor).st_size
        try:
            size = self.free_bytes
            while size >= 4096:
                try:
                    os.posix_fallocate(descriptor, taken, size)
                    taken += size
                    size = min(size, self.free_bytes)
                except OSError:
                    size //= 2
        finally:
            os.close(descriptor)
        return taken

    def free(self) -> None:
        """Give it back."""
        (self.path / BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it, also if somebody still has files open there."""
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


def mount_small_disk(directory: Path, *, megabytes: int) -> SmallDisk | str:
    """A small disk, or why there is none."""
    if not os.environ.get(_ISOLATED):
        return "no mount namespace of our own"
    try:
        return SmallDisk(directory, megabytes=megabytes)
    except (subprocess.CalledProcessError, OSError) as error:
        output = getattr(error, "stderr", b"") or b""
        return f"no loop mount here: {error} {output.decode(errors='replace').strip()}"
