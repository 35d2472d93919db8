"""The wall clock of single hosts, moved at will: a small library that is loaded before libc (clock.c).

libfaketime moves the monotonic clock along, or breaks `sleep` when told not to; setting a machine's clock moves
CLOCK_REALTIME and nothing else, and that is what this does.
"""

import shutil
import struct
import subprocess
from pathlib import Path

_LIBRARY = "clock.so"
_CLOCKS = "clocks"


def build(directory: Path) -> str:
    """Compile the library; returns why that is not possible, or nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler"
    source, library = Path(__file__).with_name("clock.c"), directory / _LIBRARY
    made = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"],
        capture_output=True,
        check=False,
    )
    (directory / _CLOCKS).mkdir()
    return "" if made.returncode == 0 else f"clock.c does not compile: {made.stderr.decode(errors='replace')[:300]}"


def environment(directory: Path) -> dict[str, str]:
    """What a process needs for having its clock moved; nothing if that is not possible."""
    library = directory / _LIBRARY
    if not library.exists():
        return {}
    return {"LD_PRELOAD": str(library), "CHAOS_CLOCKS": str(directory / _CLOCKS)}


def step(directory: Path, pid: int, seconds: float) -> None:
    """That process's wall clock differs by so much from now on."""
    with (directory / _CLOCKS / str(pid)).open("r+b") as file:
        file.write(struct.pack("q", round(seconds * 1e9)))
