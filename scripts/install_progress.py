"""Run `pip install` and show how far it is: a line for each large download, and the time it took.

    python -m scripts.install_progress --editable .

pip's own output is too long for a first minute, and its quiet mode says nothing for that minute.
If pip fails, all that it said is printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

PIP = (
    "-m",
    "pip",
    "--disable-pip-version-check",
    "install",
    "--no-compile",
    "--progress-bar",
    "off",
)
DOWNLOAD = re.compile(
    r"\s*(?:Downloading|Using cached) (\S+?)-\d\S*\.(?:whl|tar\.gz) \(([\d.]+) MB\)"
)
INSTALLING = re.compile(r"Installing collected packages: (.*)")


def progress(lines: Iterable[str]) -> Iterator[str]:
    """What to show of pip's lines."""
    for line in lines:
        if download := DOWNLOAD.match(line):
            yield f"  {download[1].rpartition('/')[2]}, {download[2]} MB"
        elif installing := INSTALLING.match(line):
            yield f"  unpacking {len(installing[1].split(','))} packages"


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    output: list[str] = []

    def read(process: subprocess.Popen[str]) -> Iterator[str]:
        for line in process.stdout or ():
            output.append(line)
            yield line

    with subprocess.Popen(
        [sys.executable, *PIP, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in progress(read(process)):
            print(line, flush=True)
    if process.returncode:
        print("".join(output), end="", file=sys.stderr)
    else:
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
