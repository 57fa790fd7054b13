"""A hook of MkDocs: CHANGELOG.md, CONTRIBUTING.md and SECURITY.md as pages of the site.

GitHub looks for these files in the repository's root, and MkDocs reads docs/ only. Links from and
to them work in both places, because they are rewritten for the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Page of the site by file."""


def page(name: str) -> str:
    """The text of a file of the root as it reads in docs/."""
    text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
    return re.sub(r"\]\((\w+\.md)", lambda link: f"]({PAGES.get(link[1], link[1])}", text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages. MkDocs calls it by this name."""
    from mkdocs.structure.files import File  # missing where only the tests run

    for name, address in PAGES.items():
        files.append(File.generated(config, address, content=page(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links from docs/ to a file of the root to its page. MkDocs calls it by this name."""
    for name, address in PAGES.items():
        markdown = re.sub(rf"\]\(\.\./((?:\.\./)*){name}", rf"](\1{address}", markdown)
    return markdown
