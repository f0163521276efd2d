"""boto3 clients as configured, and what their exceptions mean. Used by `source/*` and `ecs` alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

import boto3
import botocore
import botocore.exceptions as failures
from botocore import xform_name
from botocore.config import Config as BotocoreConfig
from botocore.parsers import ResponseParserError

from css import __version__
from css.config import Aws
from css.errors import ConfigError, Unavailable

_MISSING_REGION = "no AWS region: set aws.region, AWS_REGION or the profile's region"

# Clients are safe to use from many threads; sessions, and making clients of them, are not (boto3#1592).
_making = Lock()


def client(aws: Aws, service: str, *, pool: int, read_timeout: float, attempts: int = 2) -> Any:
    """A client of "sqs" or "ecs" with `pool` connections; `read_timeout` in seconds. Raises `ConfigError`.

    `attempts` counts botocore's own: by default one quick second try for a reset connection. The waiting is ours
    (css/backoff.py), seen in status and metrics.
    """
    settings = BotocoreConfig(
        region_name=aws.region or None,
        connect_timeout=5,
        read_timeout=read_timeout,
        max_pool_connections=pool,
        retries={"mode": "standard", "total_max_attempts": attempts},
        parameter_validation=False,  # what we send is ours
        user_agent=f"css/{__version__} Botocore/{botocore.__version__}",  # its own is made anew for every call
    )
    try:
        with _making:
            session = boto3.Session(profile_name=aws.profile or None)
            return session.client(service, endpoint_url=aws.endpoint_url or None, config=settings)  # type: ignore[call-overload]
    except failures.NoRegionError as error:
        raise ConfigError(_MISSING_REGION) from error
    except (failures.BotoCoreError, ValueError) as error:  # a profile that is not there, a file that is broken
        raise ConfigError(f"aws: {error}") from error


class Connection:
    """Calls of one service from worker threads; its client is made anew when its credentials have failed.

    A client keeps the credentials it found when it was made, also when it found none. Those of a file or the
    environment may be mended while we run.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        """`make` makes the client (see `client`). Raises `ConfigError`."""
        self._make = make
        self._client = make()

    def call(self, operation: str, parameters: dict[str, Any]) -> Any:
        """Blocks; `operation` as AWS spells it. Raises one of `TRANSLATED`."""
        used = self._client
        try:
            return getattr(used, xform_name(operation))(**parameters)
        except TRANSLATED as error:
            if not _lacks_credentials(error):
                raise
            # While the profile cannot be read the old client says why it fails as well as a new one would.
            with suppress(ConfigError):
                self._client = self._make() if used is self._client else self._client
            if used is self._client:
                raise
        return getattr(self._client, xform_name(operation))(**parameters)


# What the service calls an error -> what to do about it, for the text that people read.
_ADVICE = {
    "AccessDenied": "the credentials do not allow this",
    "AccessDeniedException": "the credentials do not allow this",
    "UnrecognizedClientException": "the credentials are not valid",
    "InvalidClientTokenId": "the credentials are not valid",
    "InvalidAccessKeyId": "the credentials are not valid",
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "SignatureDoesNotMatch": "the credentials are wrong, or this machine's clock is",
    "RequestExpired": "this machine's clock is wrong",
    "QueueDoesNotExist": "there is no such queue in this account and region",
    "AWS.SimpleQueueService.NonExistentQueue": "there is no such queue in this account and region",
}
THROTTLED = frozenset(
    {"ThrottlingException", "Throttling", "RequestThrottled", "TooManyRequestsException", "RequestLimitExceeded"}
)
_BAD_CREDENTIALS = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "ExpiredToken",
        "ExpiredTokenException",
        "SignatureDoesNotMatch",
    }
)

TRANSLATED = (failures.ClientError, failures.BotoCoreError, ResponseParserError)
"""All that a call may raise for reasons outside of this process."""


def code_of(error: Exception) -> str:
    """The service's name of the error, "" when it did not get as far."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, failures.ClientError) else ""


def unavailable(peer: str, error: Exception) -> Unavailable:
    """What a foreign exception means: try again later. The text says what to mend, where something can be."""
    code = code_of(error)
    if isinstance(error, failures.NoCredentialsError):
        return Unavailable(peer, "no AWS credentials: set a profile, AWS_ACCESS_KEY_ID or an instance or task role")
    advice = _ADVICE.get(code.rpartition("#")[2])
    text = str(error).replace(" (reached max retries: 0)", "")  # botocore's, which made one attempt as it was told
    return Unavailable(peer, f"{text} ({advice})" if advice else text)


def is_passing(error: Exception) -> bool:
    """Whether the same call may well succeed in a moment: the service's own 5xx, timeouts, lost connections."""
    if isinstance(error, failures.ClientError):
        return bool(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500)
    return isinstance(error, failures.HTTPClientError)


def _lacks_credentials(error: Exception) -> bool:
    return code_of(error) in _BAD_CREDENTIALS or isinstance(
        error, failures.NoCredentialsError | failures.CredentialRetrievalError
    )
