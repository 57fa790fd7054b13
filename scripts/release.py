"""Builds and checks a release of the last commit; `make release` runs it.

    python -m scripts.release [--tag]

1. Builds the wheel and the sdist from a clean copy of HEAD, twice; both wheels must be identical.
2. Installs requirements.lock, by its hashes, and the wheel into a fresh environment.
3. Smoke test: `mmes --version`, one embedded text, and a server that answers over HTTP.
4. Leaves both files and SHA256SUMS in dist/.
5. With --tag: tags HEAD. The tree must be clean, and CHANGELOG.md must have the version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
DIMENSION = 384
"""Of the vectors of Builtin/mini."""
START_SECONDS = 300


def run(*command: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] | None = None) -> str:
    environ = {**os.environ, **(environ or {})}
    environ.pop("PYTHONPATH", None)  # the installed package is to be tested, not the sources
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(target: Path) -> None:
    """Build wheel and sdist from a copy of HEAD, whose files have the time of the commit."""
    epoch = run("git", "log", "-1", "--format=%ct").strip()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "head.tar")
        source = Path(folder, "source")
        source.mkdir()
        run("git", "archive", "--output", archive, "HEAD")
        shutil.unpack_archive(archive, source, filter="data")
        command = (sys.executable, "-m", "hatchling", "build", "--directory", target)
        run(*command, cwd=source, environ={"SOURCE_DATE_EPOCH": epoch})


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".whl", ".gz")
    }


def build_twice() -> dict[str, str]:
    """Fill dist/; the files' digests."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        build(DIST)
        build(Path(folder))
        first, second = digests(DIST), digests(Path(folder))
    if first != second:
        raise SystemExit(f"two builds differ: {first} and {second}")
    lines = "".join(f"{digest}  {name}\n" for name, digest in first.items())
    (DIST / "SHA256SUMS").write_text(lines, encoding="ascii")
    return first


def smoke_test(wheel: Path, version: str) -> None:
    """Install the wheel beside the locked packages, and use it away from the repository."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run(sys.executable, "-m", "venv", home / "venv")
        python = home / "venv" / "bin" / "python"
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run(*pip, "--no-compile", "--require-hashes", "--requirement", ROOT / "requirements.lock")
        run(*pip, "--no-compile", "--no-deps", wheel)
        run(python, "-m", "pip", "check")
        mmes = home / "venv" / "bin" / "mmes"
        environ = {"XDG_CACHE_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1"}
        if version not in run(mmes, "--version", cwd=home, environ=environ):
            raise SystemExit("mmes --version states another version")
        line = run(mmes, "embed", "a cat", cwd=home, environ=environ)
        if len(json.loads(line)["vector"]) != DIMENSION:
            raise SystemExit("mmes embed returned no vector")
        serve(mmes, home, environ)


def serve(mmes: Path, home: Path, environ: Mapping[str, str]) -> None:
    """Start the server on a free port, request one vector, and stop it."""
    command = [str(mmes), "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=home, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            url = wait_for_url(server)
            wait_until_ready(url)
            body = json.dumps({"model": "Builtin/mini", "input": "a cat"}).encode()
            request = urllib.request.Request(  # noqa: S310  # loopback
                f"{url}/v1/embeddings", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310  # loopback
                vector = json.load(response)["data"][0]["embedding"]
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate()
    if len(vector) != DIMENSION or server.returncode:
        raise SystemExit(f"the server returned {len(vector)} numbers, status {server.returncode}")


def wait_for_url(server: subprocess.Popen[str]) -> str:
    """The address, from the log line that says that the model is served."""
    lines = []
    for line in server.stderr or ():
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise SystemExit(f"the server did not start:\n{''.join(lines)}")


def wait_until_ready(url: str) -> None:
    """The server listens while it loads the model."""
    for _ in range(START_SECONDS * 2):
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/ready", timeout=60).close()  # noqa: S310  # loopback
            return
        time.sleep(0.5)
    raise SystemExit(f"the server was not ready within {START_SECONDS} s")


def tag(version: str) -> None:
    if run("git", "status", "--porcelain").strip():
        raise SystemExit("not tagged: the working tree has uncommitted changes")
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        raise SystemExit(f"not tagged: CHANGELOG.md has no section [{version}]")
    run("git", "tag", "--annotate", f"v{version}", "--message", f"Version {version}")
    print(f"tagged v{version}; `git push origin v{version}` publishes the tag")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", action="store_true", help="tag HEAD when all is well")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    if run("git", "status", "--porcelain").strip():
        print("note: uncommitted changes are not in the release, which is built from HEAD")
    files = build_twice()
    (wheel,) = DIST.glob("*.whl")
    print(f"built twice, identical: {', '.join(files)}")
    smoke_test(wheel, project["version"])
    print("installed into a fresh environment, embedded a text, served a request")
    if arguments.tag:
        tag(project["version"])


if __name__ == "__main__":
    main()
