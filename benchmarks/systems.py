"""What is measured side by side: how each is installed, started and asked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.places import CACHE, ENVIRONMENTS, HERE, ROOT

TORCH = "torch==2.13.0"
"""The release that this tool chain has as a CPU build; an open range would take a CUDA build."""
SERVER = ("fastapi>=0.130,<1", "uvicorn[standard]>=0.40,<1")
NO_VIDEO = {"video": "does not support video"}


@dataclass(frozen=True)
class System:
    """`command` may hold {python}, {bin}, {model}, {port}; `pip` holds what pip installs."""

    name: str
    pip: Sequence[Sequence[str]]
    """One call of pip each; a first word `uninstall` takes packages away again."""
    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Cases that it can't serve, and why."""
    about: str = ""
    source: Path | None = None
    """Code that is served from outside site-packages, and counts as installed."""

    @property
    def home(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def argv(self, model: Path, port: int) -> list[str]:
        known = {"python": self.python, "bin": self.home / "bin", "model": model, "port": port}
        return [word.format(**known) for word in self.command]

    def environment(self) -> dict[str, str]:
        whole = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_PROXY": "*", **self.environ}
        # Where this is set, every start would compile all the packages anew.
        whole.pop("PYTHONDONTWRITEBYTECODE", None)
        return whole

    def prepare(self) -> None:
        """Make the environment, unless one with the same packages is there."""
        described = repr(self.pip)
        if any("." in words for words in self.pip):  # this project, whose needs change
            described += (ROOT / "pyproject.toml").read_text("utf-8")
        mark = hashlib.sha256(described.encode()).hexdigest()
        stamp = self.home / "packages.sha256"
        if stamp.is_file() and stamp.read_text() == mark:
            return
        print(f"making the environment of {self.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", self.home], check=True)
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        for words in self.pip:
            verb = [] if words[0] == "uninstall" else ["install", "--no-compile"]
            subprocess.run([*pip, *verb, *words], check=True, cwd=ROOT)
        stamp.write_text(mark)

    def installed_bytes(self) -> int:
        """site-packages without pip and setuptools, which serve nothing, and without bytecode."""
        (packages,) = (self.home / "lib").glob("python3*/site-packages")
        left_out = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
        parts = [each for each in packages.iterdir() if not each.name.startswith(left_out)]
        return sum(map(folder_bytes, [*parts, self.source] if self.source else parts))

    def version(self, package: str) -> str | None:
        """The installed version of a package; None where it isn't there."""
        program = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run(
            [self.python, "-c", program], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder but compiled bytecode."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(
        each.stat().st_size
        for each in files
        if "__pycache__" not in each.parts and each.is_file() and not each.is_symlink()
    )


OURS = System(
    "mmes",
    pip=[["--editable", "."]],
    command=["{bin}/mmes", "serve", "--model", "{model}", "--port", "{port}"],
    environ={
        "EMBEDDING_OV_MODELS_DIR": str(CACHE / "models"),
        "EMBEDDING_MEDIA_ROOTS": str(CACHE / "inputs"),
        "EMBEDDING_MODEL_ALIASES": "it",  # as all systems are asked for it
    },
    about="this service",
    source=ROOT / "src" / "multimodal_embedding_serving",
)
INFINITY = System(
    "infinity",
    pip=[
        [TORCH],
        ["infinity-emb[server,torch,vision,einops]==0.0.78", TORCH],
        ["uninstall", "--yes", "torchvision"],  # it does not import beside a CPU build of torch
        ["aiohttp"],
    ],
    command=[
        *("{bin}/infinity_emb", "v2", "--model-id", "{model}", "--port", "{port}"),
        *("--host", "127.0.0.1", "--url-prefix", "/v1", "--served-model-name", "it"),
        *("--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-compile"),
        "--no-model-warmup",  # it would only make the start longer; loads warm it up
    ],
    environ={"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"},
    lacks={**NO_VIDEO, "text, 512 tokens": "its transformers release does not support Qwen3"},
    about="infinity-emb, engine torch, float32",
)
SENTENCE_TRANSFORMERS = System(
    "sentence-transformers",
    pip=[[TORCH], ["sentence-transformers>=5,<6", "pillow>=12,<14", TORCH, *SERVER]],
    command=["{python}", str(HERE / "peers" / "sentences.py"), "{model}", "{port}"],
    lacks=NO_VIDEO,
    about="sentence-transformers behind a minimal FastAPI app",
)
TRANSFORMERS = System(
    "transformers",
    pip=[[TORCH], ["transformers>=5,<6", "pillow>=12,<14", TORCH, *SERVER]],
    command=["{python}", str(HERE / "peers" / "plain.py"), "{model}", "{port}"],
    lacks=NO_VIDEO,
    about="transformers behind plain FastAPI",
)
SYSTEMS = (OURS, INFINITY, SENTENCE_TRANSFORMERS, TRANSFORMERS)
