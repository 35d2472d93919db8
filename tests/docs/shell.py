"""The bash blocks of the documentation, run by bash: what each command printed, and what the page says of it."""

import asyncio
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MARK = "\x1e"
"""Between what one command prints and what the next one does: no text holds it."""
_SHOWN = re.compile(r'("[^"]*"|\[.*\]|\{.*\}|\d+|null)(:|$)')


class Said(NamedTuple):
    """One command of a block."""

    command: str
    comment: str
    """What the page says beside it."""
    status: int
    output: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.output)

    def check(self) -> None:
        """It has worked; and where its comment begins with a value, it printed that, up to `…`."""
        assert self.status == 0, self
        if (shown := _SHOWN.match(self.comment)) is not None:
            pattern = re.escape(shown[1]).replace("…", ".*")
            printed = json.dumps(self.json, ensure_ascii=False)
            assert re.fullmatch(pattern, printed), f"{self.command}\nshown:   {shown[1]}\nprinted: {printed}"


def commands(text: str) -> Iterator[str]:
    """The commands of a block, each with its comment; a line that ends with a backslash goes on in the next."""
    for line in re.split(r"(?<!\\)\n", text):
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def comment_of(command: str) -> str:
    """What stands behind the first `#` that begins a word outside of quotes."""
    quote = ""
    for at, character in enumerate(command):
        if quote:
            quote = "" if character == quote and command[at - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and command[at - 1].isspace():
            return command[at + 1 :].strip()
    return ""


async def bash(
    text: str, *, folder: Path, environment: Mapping[str, str] | None = None, before: str = ""
) -> list[Said]:
    """Run the commands one after the other in one bash, in `folder`. `before`: functions that stand in for programs.

    The loop goes on meanwhile: it may be the server that the commands talk to.
    """
    lines = list(commands(text))
    script = "".join(f"{line}\nprintf '{MARK}%s{MARK}' $?\n" for line in lines)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"set -o pipefail\n{before}\n{script}"),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    parts = out.decode().split(MARK)
    assert len(parts) == 2 * len(lines) + 1, f"{out.decode()}\n{err.decode()}"
    said = [
        Said(line, comment_of(line), int(status), output)
        for line, output, status in zip(lines, parts[::2], parts[1::2], strict=False)
    ]
    failed = [one for one in said if one.status != 0]
    assert not failed, f"{failed}\n{err.decode()}"
    return said
