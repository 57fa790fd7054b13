"""The systems to compare: how each is installed, started and queried."""

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
"""The release that is available here as a CPU build; an open range would install a CUDA build."""
SERVER = ("fastapi>=0.130,<1", "uvicorn[standard]>=0.40,<1")
NO_VIDEO = {"video": "does not support video"}


@dataclass(frozen=True)
class System:
    """A system. `command` may contain {python}, {bin}, {model} and {port}."""

    name: str
    pip: Sequence[Sequence[str]]
    """The arguments of each call of pip; a first word `uninstall` removes packages instead."""
    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Case -> why the system can't serve it."""
    about: str = ""
    source: Path | None = None
    """Code outside site-packages that counts as installed, too."""

    @property
    def home(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def argv(self, model: Path, port: int) -> list[str]:
        values = {"python": self.python, "bin": self.home / "bin", "model": model, "port": port}
        return [word.format(**values) for word in self.command]

    def environment(self) -> dict[str, str]:
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_PROXY": "*", **self.environ}
        # Otherwise every start would compile all packages again.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        return environ

    def prepare(self) -> None:
        """Create the environment, unless there is one with the same packages."""
        description = repr(self.pip)
        if any("." in words for words in self.pip):  # this project, whose requirements change
            description += (ROOT / "pyproject.toml").read_text("utf-8")
        digest = hashlib.sha256(description.encode()).hexdigest()
        stamp = self.home / "packages.sha256"
        if stamp.is_file() and stamp.read_text() == digest:
            return
        print(f"creating the environment of {self.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", self.home], check=True)
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        for words in self.pip:
            verb = [] if words[0] == "uninstall" else ["install", "--no-compile"]
            subprocess.run([*pip, *verb, *words], check=True, cwd=ROOT)
        stamp.write_text(digest)

    def installed_bytes(self) -> int:
        """The size of site-packages, without pip, setuptools and bytecode."""
        (packages,) = (self.home / "lib").glob("python3*/site-packages")
        excluded = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
        parts = [each for each in packages.iterdir() if not each.name.startswith(excluded)]
        return sum(map(folder_bytes, [*parts, self.source] if self.source else parts))

    def version(self, package: str) -> str | None:
        """The installed version of a package; None if it is not installed."""
        program = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run(
            [self.python, "-c", program], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None


def folder_bytes(path: Path) -> int:
    """The bytes of a file, or of all files of a folder except bytecode."""
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
        "EMBEDDING_MODEL_ALIASES": "it",  # the model name in all requests
    },
    about="this service",
    source=ROOT / "src" / "multimodal_embedding_serving",
)
INFINITY = System(
    "infinity",
    pip=[
        [TORCH],
        ["infinity-emb[server,torch,vision,einops]==0.0.78", TORCH],
        ["uninstall", "--yes", "torchvision"],  # its import fails with a CPU build of torch
        ["aiohttp"],
    ],
    command=[
        *("{bin}/infinity_emb", "v2", "--model-id", "{model}", "--port", "{port}"),
        *("--host", "127.0.0.1", "--url-prefix", "/v1", "--served-model-name", "it"),
        *("--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-compile"),
        "--no-model-warmup",  # it would only slow down the start; the loads warm up
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
