"""Shows that every locked dependency has a wheel for other versions of Python.

    python -m scripts.check_wheels 3.12 3.13 3.14

Downloads the wheels of requirements.lock for each version, on this machine's platform, with `pip
download --only-binary :all:`; exits with 1 and pip's message if one has none. It says nothing of
whether the package works there: the tests run on the versions that pyproject.toml's classifiers
list.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

LOCK = Path(__file__).parent.parent / "requirements.lock"


def locked(text: str) -> Iterator[Requirement]:
    """The requirements of a lock, without their hashes."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line.partition(" --hash")[0])


def for_python(version: str, requirements: Iterator[Requirement]) -> list[str]:
    """Those that apply to a version of Python; pip reads markers for the one that it runs on."""
    asked = {"python_version": version, "python_full_version": f"{version}.0"}
    environment = {name: str(value) for name, value in default_environment().items()} | asked
    return [
        f"{each.name}{each.specifier}"
        for each in requirements
        if each.marker is None or each.marker.evaluate(environment)
    ]


def download(version: str) -> tuple[int, str]:
    """How many wheels there are, or 0 and pip's message."""
    requirements = for_python(version, locked(LOCK.read_text("utf-8")))
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        options = ["--only-binary", ":all:", "--no-deps", "--dest", folder]
        done = subprocess.run(
            [*pip, *options, "--python-version", version, *requirements],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = len(list(Path(folder).glob("*.whl")))
    complete = done.returncode == 0 and wheels == len(requirements)
    return (wheels, "") if complete else (0, done.stderr)


def main() -> None:
    for version in sys.argv[1:]:
        wheels, problem = download(version)
        if not wheels:
            raise SystemExit(f"Python {version}: {problem}")
        print(f"Python {version}: {wheels} wheels")


if __name__ == "__main__":
    main()
