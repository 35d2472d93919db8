"""The documentation is a site whose links all lead somewhere, and its reference has every public name."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import perdure.api
import perdure.entities
import perdure.entities.testing

from .blocks import PAGES, ROOT

REFERENCE = ROOT / "docs" / "reference"
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert 'id="idempotency_mismatch"' in (tmp_path / "site" / "errors" / "index.html").read_text()
    reference = (tmp_path / "site" / "reference" / "entities" / "index.html").read_text()
    assert 'id="perdure.entities.Entity"' in reference
    assert 'href="guarantees/"' in (tmp_path / "site" / "index.html").read_text(), "the README's links are turned"


def test_the_reference_has_every_public_name_once() -> None:
    named = Counter(
        name for page in REFERENCE.glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    )
    modules = (perdure.entities, perdure.entities.testing, perdure.api)
    public = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    assert public - named.keys() == set(), "add them to a page of docs/reference"
    assert [name for name in named if name not in public and not name.startswith("perdure.cluster.")] == []
    assert [name for name, count in named.items() if count != 1] == []


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    """On the repository's own pages, too: there nothing is turned."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    local = [link for link in LINK.findall(text) if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (page.parent / link.partition("#")[0]).exists()] == []
