"""The life of a task: the steps it passes through and what each changes. Statuses only go forward.

Pure: a step changes the detail it is given (API form) and nothing else; when steps happen is `tasks`' business.
"""

from __future__ import annotations

from random import Random

from css.simulator.catalogue import Cause, Launch, Workload
from css.simulator.inventory import Detail
from css.simulator.shapes import hexadecimal

STATUSES = (
    "PROVISIONING",
    "PENDING",
    "ACTIVATING",
    "RUNNING",
    "DEACTIVATING",
    "STOPPING",
    "DEPROVISIONING",
    "STOPPED",
)
"""In the order in which a task passes them; some are skipped."""

Step = tuple[str, float]
"""A name, and the seconds (at a pace of 1) until it happens. Names are statuses, or "pulling", "pulled"."""


def starting(launch: Launch, workload: Workload) -> list[Step]:
    """The steps from nothing to RUNNING."""
    balanced: list[Step] = [("ACTIVATING", 2.0)] if workload.port else []
    if launch == "EC2":
        return [("PENDING", 0.0), ("pulled", 4.0), *balanced, ("RUNNING", 2.0)]
    return [("PROVISIONING", 0.0), ("PENDING", 6.0), ("pulling", 3.0), ("pulled", 5.0), *balanced, ("RUNNING", 2.0)]


def stopping(detail: Detail, workload: Workload, cause: Cause) -> list[Step]:
    """The steps from where the task is to STOPPED."""
    steps: list[Step] = []
    if workload.port and detail["lastStatus"] == "RUNNING":
        steps.append(("DEACTIVATING", 0.0))
    steps.append(("STOPPING", 4.0 if steps else 0.0))
    if detail["launchType"] == "FARGATE":
        steps.append(("DEPROVISIONING", 5.0))
    steps.append(("STOPPED", 2.0 if cause.crashed else 6.0))
    return steps


def enter(detail: Detail, workload: Workload, step: str, now: float, rng: Random) -> None:
    """Take one step. The caller counts the version."""
    now = round(now, 3)
    if step in STATUSES:
        detail["lastStatus"] = step
    if step in ("PROVISIONING", "PENDING"):
        detail.setdefault("createdAt", now)
    if step == "PENDING" and detail["attachments"]:
        _attach(detail, now)
    elif step == "pulling":
        detail["pullStartedAt"] = now
    elif step == "pulled":
        _pulled(detail, now, rng)
    elif step == "RUNNING":
        _run(detail, workload.port, now, rng)
    elif step in ("DEPROVISIONING", "STOPPED"):
        _end(detail, now)
        if step == "STOPPED":
            detail["stoppedAt"] = now


def doom(detail: Detail, cause: Cause, now: float, words: dict[str, str]) -> None:
    """Decide that the task stops, and why; part of the first step of `stopping`."""
    detail |= {
        "desiredStatus": "STOPPED",
        "stopCode": cause.code,
        "stoppedReason": cause.reason.format_map(words),
        "stoppingAt": round(now, 3),
    }
    main = detail["containers"][0]
    if cause.container_reason:
        main["reason"] = cause.container_reason.format_map(words)
    if cause.exit_code is not None and "startedAt" in detail:
        main["exitCode"] = cause.exit_code
    if cause.crashed:
        main["lastStatus"] = "STOPPED"
        detail["executionStoppedAt"] = round(now, 3)


def _attach(detail: Detail, now: float) -> None:
    network = detail["attachments"][0]
    network["status"] = "ATTACHED"
    detail |= {"connectivity": "CONNECTED", "connectivityAt": now}
    interface = {"attachmentId": network["id"], "privateIpv4Address": network["details"][-1]["value"]}
    for container in detail["containers"]:
        container["networkInterfaces"] = [interface]


def _pulled(detail: Detail, now: float, rng: Random) -> None:
    # The agent of an instance reports both at once.
    detail.setdefault("pullStartedAt", round(max(detail["createdAt"], now - rng.uniform(0.5, 3.0)), 3))
    detail["pullStoppedAt"] = now
    detail.setdefault("connectivity", "CONNECTED")
    detail.setdefault("connectivityAt", now)
    for container in detail["containers"]:
        container["imageDigest"] = f"sha256:{hexadecimal(rng, 64)}"
        container["runtimeId"] = (
            hexadecimal(rng, 64)
            if detail["launchType"] == "EC2"
            else f"{detail['taskArn'].rpartition('/')[2]}-{rng.randrange(10**9, 10**10)}"
        )


def _run(detail: Detail, port: int, now: float, rng: Random) -> None:
    detail |= {"startedAt": now, "healthStatus": "HEALTHY"}
    for container in detail["containers"]:
        container |= {"lastStatus": "RUNNING", "healthStatus": "HEALTHY"}
    if port and detail["launchType"] == "EC2":
        binding = {"bindIP": "0.0.0.0", "containerPort": port, "hostPort": rng.randrange(32_768, 61_000)}  # noqa: S104 - what Docker reports
        detail["containers"][0]["networkBindings"] = [binding | {"protocol": "tcp"}]


def _end(detail: Detail, now: float) -> None:
    ran = "startedAt" in detail
    if ran:
        detail.setdefault("executionStoppedAt", now)
    for container in detail["containers"]:
        container["lastStatus"] = "STOPPED"
        if ran:
            container.setdefault("exitCode", 0)
    for attachment in detail["attachments"]:
        attachment["status"] = "DELETED"
