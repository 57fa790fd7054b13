"""A stand-in for the Hugging Face hub on loopback, for its unmodified client.

It speaks what the client (2.4) asks for: repository information by branch, tag or commit, tree
listings, HEAD and GET of files with ETag, commit and byte ranges, large files behind a redirect to
another host (`localhost`, where the API is `127.0.0.1`) as on the real hub's CDN. Faults are added
by path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Content = bytes | Path
LARGE = 1 << 10
"""Files of this size or more are stored as the hub stores weights: by SHA-256, on the CDN."""
BLOCK = 1 << 20


@dataclass(frozen=True)
class Answer:
    """A fault: this status instead of the file."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Cut:
    """A fault: the connection ends after so many bytes of the body; with a reset, or quietly."""

    after: int
    reset: bool = False


@dataclass(frozen=True)
class Damage:
    """A fault: the right number of bytes, one of them wrong."""


Fault = Answer | Cut | Damage


@dataclass(frozen=True)
class StoredFile:
    """One file of a repository."""

    content: Content

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            yield self.content[start:]
            return
        with self.content.open("rb") as file:
            file.seek(start)
            while block := file.read(BLOCK):
                yield block

    def digest(self) -> str:
        """SHA-256 of a large file, git's blob hash of a small one."""
        start = b"" if self.large else f"blob {self.size}\0".encode()
        digest = hashlib.new("sha256" if self.large else "sha1", start)
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    @property
    def large(self) -> bool:
        return self.size >= LARGE


@dataclass
class Repo:
    """A repository with one commit, which `main` and its tags name."""

    files: dict[str, StoredFile]
    token: str | None = None
    """Who may read it; None: everybody."""
    gated: bool = False
    tags: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes to announce instead of the true ones."""

    def __post_init__(self) -> None:
        self.digests = {name: file.digest() for name, file in self.files.items()}
        listing = json.dumps(self.digests, sort_keys=True)
        self.commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()

    def size(self, name: str) -> int:
        return self.sizes.get(name, self.files[name].size)

    def describe(self, name: str) -> dict[str, Any]:
        """A file's entry, by the names that both listings share."""
        entry: dict[str, Any] = {"size": self.size(name)}
        if self.files[name].large:
            digest = self.digests[name]
            entry["lfs"] = {"sha256": digest, "size": self.size(name), "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By names in lower case."""


class HubStandIn:
    """The hub: a context manager, at `url` while it is open."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self._faults: list[tuple[str, str, Fault, int | None]] = []
        self._lock = threading.Lock()
        hub = self

        class Talk(_Talk):
            standin = hub

        self._server = _Server(("127.0.0.1", 0), Talk)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering: the port is closed afterwards, and each connection."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server.hang_up()

    def add(self, name: str, files: Mapping[str, Content], **options: Any) -> Repo:
        """Publish a repository (in place of an earlier one); `options` are fields of Repo."""
        stored = {path: StoredFile(content) for path, content in files.items()}
        self.repos[name] = Repo(stored, **options)
        return self.repos[name]

    def fail(self, method: str, path: str, fault: Fault, *, times: int | None = None) -> None:
        """Answer requests of `method` whose path holds `path` with a fault, `times` times."""
        self._faults.append((method, path, fault, times))

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    def seen(self, method: str, path: str = "") -> list[Request]:
        """The requests so far of `method` whose path holds `path`."""
        return [each for each in self.requests if each.method == method and path in each.path]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for index, (wanted, part, fault, times) in enumerate(self._faults):
                if wanted == method and part in path:
                    if times is not None:
                        self._faults[index] = (wanted, part, fault, times - 1)
                        if times <= 1:
                            del self._faults[index]
                    return fault
        return None

    def find_blob(self, digest: str) -> StoredFile | None:
        for repo in self.repos.values():
            for name, held in repo.digests.items():
                if held == digest:
                    return repo.files[name]
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], talk: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, talk)
        self._connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def hang_up(self) -> None:
        """A client keeps its connections open, and a thread here waits on each."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Talk(BaseHTTPRequestHandler):
    """One connection."""

    standin: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.standin.requests.append(Request(self.command, self.path, headers))
        fault = self.standin.take_fault(self.command, path)
        if isinstance(fault, Answer):
            length = {"Content-Length": str(len(fault.body))}
            self._send(fault.status, length | dict(fault.headers))
            self.wfile.write(fault.body)
            return
        match path.strip("/").split("/"):
            case ["api", "models", owner, name, *rest]:
                self._describe(f"{owner}/{name}", rest, parse_qs(url.query))
            case [owner, name, "resolve", revision, *rest]:
                self._resolve(f"{owner}/{name}", revision, "/".join(rest), fault)
            case ["cdn", digest]:
                file = self.standin.find_blob(digest)
                if file is None:
                    self._send(404, {})
                else:
                    self._send_file(file, {"ETag": f'"{digest}"'}, fault)
            case _:
                self._send(404, {})

    def _admit(self, name: str, revision: str | None) -> Repo | None:
        """The repository, or the hub's refusal sent and None."""
        repo = self.standin.repos.get(name)
        asked = self.headers.get("authorization", "").removeprefix("Bearer ")
        if repo is None or (repo.token not in (None, asked) and not repo.gated):
            message = "Invalid credentials in Authorization header" if asked and repo else ""
            headers = {"X-Error-Message": message} if message else {"X-Error-Code": "RepoNotFound"}
            self._send(404 if asked and repo is None else 401, headers)
        elif repo.token not in (None, asked):
            self._send(403 if asked else 401, {"X-Error-Code": "GatedRepo"})
        elif revision not in (None, "main", repo.commit, *repo.tags):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def _describe(self, name: str, rest: list[str], query: dict[str, list[str]]) -> None:
        repo = self._admit(name, rest[1] if len(rest) > 1 else None)
        if repo is None:
            return
        if rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": path, "oid": repo.digests[path], **repo.describe(path)}
                for path in repo.files
            ]
            self._send_json(entries)
            return
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in repo.files]
        if "blobs" in query:
            for entry in siblings:
                path = entry["rfilename"]
                entry |= {"blobId": repo.digests[path][:40], **repo.describe(path)}
        information = {"_id": "0" * 24, "id": name, "modelId": name, "sha": repo.commit}
        self._send_json({**information, "private": repo.token is not None, "siblings": siblings})

    def _resolve(self, name: str, revision: str, path: str, fault: Fault | None) -> None:
        repo = self._admit(name, revision)
        if repo is None:
            return
        commit = {"X-Repo-Commit": repo.commit}
        file = repo.files.get(path)
        if file is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", **commit})
        elif file.large:
            headers = {
                "X-Linked-ETag": f'"{repo.digests[path]}"',
                "X-Linked-Size": str(repo.size(path)),
                "Location": f"http://localhost:{self.standin.port}/cdn/{repo.digests[path]}",
            }
            self._send(302, headers | commit)
        else:
            self._send_file(file, {"ETag": f'"{repo.digests[path]}"', **commit}, fault)

    def _send_file(self, file: StoredFile, headers: dict[str, str], fault: Fault | None) -> None:
        start, status = 0, HTTPStatus.OK
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-"):
            start = int(asked[6:-1])
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        headers |= {"Accept-Ranges": "bytes", "Content-Length": str(file.size - start)}
        self._start(status, headers)
        if self.command == "HEAD":
            return
        left = fault.after if isinstance(fault, Cut) else file.size
        for number, block in enumerate(file.blocks(start)):
            damaged = isinstance(fault, Damage) and number == 0
            sent = bytes([block[0] ^ 1]) + block[1:] if damaged else block
            self.wfile.write(sent[:left])
            left -= len(sent)
            if left <= 0 and isinstance(fault, Cut):
                self._hang_up(fault)
                return

    def _hang_up(self, cut: Cut) -> None:
        self.wfile.flush()
        self.close_connection = True
        if cut.reset:
            # A close that lingers for 0 s is a reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self._start(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self._start(status, {"Content-Length": "0", **headers})

    def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
