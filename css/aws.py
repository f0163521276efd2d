"""boto3 clients as configured, and what their exceptions mean. Clients are made once, at start-up, in one thread."""

from __future__ import annotations

from typing import Any

import boto3
import botocore
import botocore.exceptions as failures
from botocore.config import Config as BotocoreConfig

from css import __version__
from css.config import Aws
from css.errors import ConfigError, Unavailable

_MISSING_REGION = "no AWS region: set aws.region, AWS_REGION or the profile's region"


def client(aws: Aws, service: str, *, pool: int, read_timeout: float, attempts: int = 2) -> Any:
    """A client of "sqs" or "ecs" with `pool` connections; `read_timeout` in seconds. Raises `ConfigError`.

    Clients are safe to use from many threads, sessions are not: call this at start-up only.
    """
    settings = BotocoreConfig(
        region_name=aws.region or None,
        connect_timeout=5,
        read_timeout=read_timeout,
        max_pool_connections=pool,
        # One quick second try for a reset connection; the waiting is ours (css/backoff.py), seen in status and metrics.
        retries={"mode": "standard", "total_max_attempts": attempts},
        parameter_validation=False,  # what we send is ours
        user_agent=f"css/{__version__} Botocore/{botocore.__version__}",  # its own is made anew for every call
    )
    try:
        session = boto3.Session(profile_name=aws.profile or None)
        return session.client(service, endpoint_url=aws.endpoint_url or None, config=settings)  # type: ignore[call-overload]
    except failures.NoRegionError as error:
        raise ConfigError(_MISSING_REGION) from error
    except (failures.ProfileNotFound, failures.PartialCredentialsError, ValueError) as error:
        raise ConfigError(f"aws: {error}") from error


# What the service calls an error -> what to do about it, for the text that people read.
_ADVICE = {
    "AccessDenied": "the credentials do not allow this",
    "AccessDeniedException": "the credentials do not allow this",
    "UnrecognizedClientException": "the credentials are not valid",
    "InvalidClientTokenId": "the credentials are not valid",
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "SignatureDoesNotMatch": "the credentials are wrong, or this machine's clock is",
    "QueueDoesNotExist": "there is no such queue in this account and region",
    "AWS.SimpleQueueService.NonExistentQueue": "there is no such queue in this account and region",
}
THROTTLED = frozenset(
    {"ThrottlingException", "Throttling", "RequestThrottled", "TooManyRequestsException", "RequestLimitExceeded"}
)

TRANSLATED = (failures.ClientError, failures.BotoCoreError)
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
    return Unavailable(peer, f"{error} ({advice})" if advice else str(error))


def is_passing(error: Exception) -> bool:
    """Whether the same call may well succeed in a moment: the service's own 5xx, timeouts, lost connections."""
    if isinstance(error, failures.ClientError):
        return bool(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500)
    return isinstance(error, failures.HTTPClientError)
