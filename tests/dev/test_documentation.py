"""Getting started as its reader does: the file, the command, the requests."""

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.blocks import block
from tests.docs.shell import bash
from tests.docs.test_examples import check, curl_home

from .terminal import ROOT, Terminal

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = "docs/getting-started.md"


async def test_getting_started(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block(PAGE, "class Counter(Entity)"))
    program, verb, *words = shlex.split(block(PAGE, "perdure dev shop"), comments=True)
    assert (program, verb) == ("perdure", "dev")
    paths = f"{tmp_path}:{ROOT / '.links'}:{ROOT}"
    with Terminal(*words, data_dir=data_dir, PYTHONPATH=paths) as terminal:
        address = str(terminal.until_ready().http.base_url).removeprefix("http://")
        environment = curl_home(tmp_path, p8000=address.rstrip("/"))
        said = await bash(block(PAGE, "curl -X POST"), folder=tmp_path, environment=environment)
        terminal.interrupt()
        assert terminal.ended() == 0, terminal.output
    check(said)
    assert [re.sub(r"\s+", " ", one.output) for one in said] == ["1 200", "1 200"]
