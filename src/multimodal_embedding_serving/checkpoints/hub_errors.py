"""What went wrong with the hub, in the words of this package: names the repository, no address."""

from __future__ import annotations

import errno

import httpx2
from huggingface_hub import errors as hub

from multimodal_embedding_serving.errors import CheckpointError, EmbeddingError, RemoteFailed

HUB_ERRORS = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
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
    match error:
        case hub.OfflineModeIsEnabled() | hub.LocalEntryNotFoundError():
            return RemoteFailed(f"{what}: not in the cache, and the hub's client is offline")
        case hub.HfHubHTTPError():
            return RemoteFailed(f"{what}: {_explain_status(error)}")
        case httpx2.TimeoutException():
            return RemoteFailed(f"{what}: the hub did not respond in time")
        case httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol():
            return RemoteFailed(f"{what}: the hub can't be reached")
        case httpx2.TransportError():
            return RemoteFailed(f"{what}: the connection to the hub was cut")
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


def _explain_status(error: hub.HfHubHTTPError) -> str:
    response = error.response
    answered = f"(the hub responded with {response.status_code})"
    match error:
        case hub.GatedRepoError():
            return f"accept its conditions on its page and set HF_TOKEN {answered}"
        case hub.RevisionNotFoundError():
            return f"it has no such revision {answered}"
        case hub.RemoteEntryNotFoundError():
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
