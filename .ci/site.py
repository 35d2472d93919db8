"""Brings what lies outside of docs/ into the site, so that a link means the same here and on the repository's pages.

README.md becomes the first page. Any other file of the repository that a page links to (the changelog, an example's
README, its code) is put below `repository/`, and the link is turned there; a folder stands for its README.md. Pages
that no menu names are listed at its end: decisions by their number, then the examples.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
HOME = "README.md"
_LINK = re.compile(r"(\]\()([^)#\s]+)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the menu from the folders."""
    nav: list[Any] = list(config.nav or [])
    decisions = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    nav.append({"Decisions": [f"decisions/{name}" for name in decisions]})
    nav.append("repository/SECURITY.md")
    nav.append({"Examples": [place(path) for path in sorted(posix(p) for p in ROOT.glob("examples/*/README.md"))]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, and those that these link to."""
    waiting = [HOME, "CHANGELOG.md", *(posix(file) for file in ROOT.glob("examples/*/README.md"))]
    waiting += ["docs/" + file.src_uri for file in files.documentation_pages()]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        uri = place(path)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=(ROOT / path).read_bytes()))
        if path.endswith(".md"):
            waiting += [target for target in targets(path) if place(target) != target.removeprefix("docs/")]
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/, or point to a folder, to where the site has them."""
    here = page.file.src_uri
    path = origin(here)

    def turned(match: re.Match[str]) -> str:
        target = resolve(path, match[2])
        return match[0] if target is None else match[1] + posixpath.relpath(place(target), posixpath.dirname(here))

    return outside_code(markdown, turned)


def targets(path: str) -> list[str]:
    """The files of the repository that a page links to."""
    text = _CODE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    return [target for match in _LINK.finditer(text) if (target := resolve(path, match[2])) is not None]


def resolve(path: str, link: str) -> str | None:
    """The file of the repository that a link of `path` means; None if there is none, or it is on the web."""
    if ":" in link or link.startswith("/"):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if (ROOT / target).is_dir():
        index = posixpath.join(target, "README.md")
        target = index if (ROOT / index).is_file() else posixpath.join(target, sorted_first(target))
    return target if not target.startswith("..") and (ROOT / target).is_file() else None


def sorted_first(folder: str) -> str:
    """The file that stands for a folder without a README."""
    return min((file.name for file in (ROOT / folder).iterdir() if file.is_file()), default="")


def place(path: str) -> str:
    """Where the site has a file of the repository."""
    if path == HOME:
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def origin(uri: str) -> str:
    """The file of the repository behind a page of the site."""
    if uri == "index.md":
        return HOME
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def outside_code(markdown: str, turned: Any) -> str:
    """Replace links, except in code."""
    parts: list[str] = []
    end = 0
    for code in _CODE.finditer(markdown):
        # A link's text may hold code: cut only where the code does not stand inside of brackets.
        if markdown[code.end() : code.end() + 2] == "](":
            continue
        parts += [_LINK.sub(turned, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join(parts) + _LINK.sub(turned, markdown[end:])


def posix(path: Path) -> str:
    """Relative to the repository."""
    return path.relative_to(ROOT).as_posix()
