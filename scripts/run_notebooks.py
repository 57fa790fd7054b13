"""Run the notebooks of docs/ and write them with what they show.

`make notebooks` runs it, in the environment of the dependency group `notebook`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MAX_SECONDS = 300
"""For one cell."""


def main() -> None:
    import nbformat  # missing where only the tests run
    from nbclient import NotebookClient

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, help="folder to write to; default: in place")
    folder = parser.parse_args().to
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=MAX_SECONDS, record_timing=False).execute()
        nbformat.write(notebook, path if folder is None else folder / path.name)


if __name__ == "__main__":
    main()
