"""What went wrong with the hub, in the words of this package: names the repository, no address.

huggingface_hub is used in three major versions, each over another HTTP library: requests before
1.0, httpx in 1.x, httpx2 from 2.0 on. Programs pin the version (transformers 4.57 needs one before
1.0), so the errors of all three are classified here by what they mean.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from importlib import import_module

import huggingface_hub
from huggingface_hub import errors as hub

from multimodal_embedding_serving.errors import CheckpointError, EmbeddingError, RemoteFailed

Errors = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class TransportErrors:
    """The errors of the HTTP library under the hub's client, by their meaning."""

    timeout: Errors
    unreachable: Errors
    cut: Errors
    """The connection ended early. `timeout` and `unreachable` may be special cases of it."""
    reset: Errors
    """Of `cut`: while a body was being read, so that another attempt resumes there."""
    other: Errors


WAYS_OUT = (
    "set HTTPS_PROXY for a proxy or HF_ENDPOINT for a mirror, use a folder with the checkpoint, or "
    "import the model with `mmes bundle import`"
)


def find_transport_errors() -> TransportErrors:
    """The errors of the library that the installed version of huggingface_hub uses."""
    bases = hub.HfHubHTTPError.__mro__
    library = next(each.__module__ for each in bases if each.__name__ == "HTTPError")
    http = import_module(library.partition(".")[0])
    if http.__name__ == "requests":
        failed = http.exceptions
        return TransportErrors(
            timeout=(failed.Timeout,),
            unreachable=(
                failed.ProxyError,
                failed.ConnectionError,
                failed.InvalidSchema,
                failed.MissingSchema,
            ),
            cut=(failed.ChunkedEncodingError,),
            reset=(failed.ChunkedEncodingError, failed.ConnectionError),
            other=(failed.RequestException,),
        )
    return TransportErrors(
        timeout=(http.TimeoutException,),
        unreachable=(http.ConnectError, http.ProxyError, http.UnsupportedProtocol),
        cut=(http.TransportError,),
        reset=(http.ReadError,),
        other=(http.HTTPError, http.InvalidURL),
    )


TRANSPORT = find_transport_errors()

MAX_WAIT = 60.0
"""Seconds to wait for a hub that answers 429."""
CLIENT_WAITS = int(huggingface_hub.__version__.partition(".")[0]) >= 1

HUB_ERRORS: Errors = (
    *TRANSPORT.other,
    hub.EntryNotFoundError,
    OSError,  # the disk, the client's own offline mode and size checks
    ValueError,  # no JSON, no valid name
    TypeError,  # JSON of another shape
    LookupError,
    RuntimeError,  # a stream used up, and what the chunked transfer raises
)
"""What comes out of the client when the hub, the network or the disk does not play along."""


def explain(error: BaseException, what: str) -> EmbeddingError:
    """The error to raise instead; `what` (a repository, or a file of one) starts its message."""
    while isinstance(error, hub.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # "not cached, and could not be asked for": the reason is behind it
    if reason := _explain_transport(error):
        return RemoteFailed(f"{what}: {reason}")
    match error:
        case hub.OfflineModeIsEnabled() | hub.LocalEntryNotFoundError():
            return RemoteFailed(f"{what}: not in the cache, and the hub's client is offline")
        case hub.HfHubHTTPError():
            return RemoteFailed(f"{what}: {_explain_status(error)}")
        case hub.FileMetadataError():
            return RemoteFailed(
                f"{what}: the endpoint is not a hub, or a proxy alters its responses"
            )
        case hub.HFValidationError():
            return CheckpointError(f"{what}: not a valid repository or revision name")
        case OSError(errno=errno.ENOSPC):
            return CheckpointError(f"{what}: no space is left on the disk of the hub's cache")
        case OSError(strerror=str(reason)):
            return CheckpointError(f"{what}: the hub's cache can't be written ({reason})")
        case OSError():
            return RemoteFailed(f"{what}: its size is not what the hub announced")
        case _:
            return RemoteFailed(f"{what}: the hub sent an unexpected response")


def _explain_transport(error: BaseException) -> str | None:
    if isinstance(error, TRANSPORT.timeout):
        return "the hub did not respond in time"
    if isinstance(error, TRANSPORT.unreachable):
        return f"the hub can't be reached; {WAYS_OUT}"
    if isinstance(error, TRANSPORT.cut):
        return "the connection to the hub was cut"
    if isinstance(error, TRANSPORT.other) and not isinstance(error, hub.HfHubHTTPError):
        return "the hub sent an unexpected response"
    return None


def seconds_to_wait(error: BaseException) -> float | None:
    """How long to wait before a download is tried again; None: another attempt would not help.

    Clients from 1.0 on wait by themselves where the hub answers 429; older ones raise at once.
    """
    if isinstance(error, TRANSPORT.reset):
        return 0.0
    response = getattr(error, "response", None)
    if CLIENT_WAITS or response is None or response.status_code != 429:
        return None
    wait = response.headers.get("retry-after", "")
    return min(float(wait), MAX_WAIT) if wait.isdigit() else 1.0


def _explain_status(error: hub.HfHubHTTPError) -> str:
    response = error.response
    answered = f"(the hub responded with {response.status_code})"
    match error:
        case hub.GatedRepoError():
            return f"accept its conditions on its page and set HF_TOKEN {answered}"
        case hub.RevisionNotFoundError():
            return f"it has no such revision {answered}"
        case hub.EntryNotFoundError():
            return f"no such file {answered}"
    match response.status_code:
        case 401 | 404:
            return f"no such repository, or a private one that HF_TOKEN can't access {answered}"
        case 403:
            return f"HF_TOKEN can't access it {answered}"
        case 429:
            wait = response.headers.get("retry-after", "")
            after = f"in {wait} s" if wait.isdigit() else "later"
            return f"too many requests, try again {after} {answered}"
        case _:
            return f"the hub responded with {response.status_code}"
