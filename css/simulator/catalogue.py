"""What a simulated region is made of: names, images, sizes and reasons as they occur in real accounts.

Only constants and the structs that hold them; nothing is computed and nothing is random here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Launch = Literal["EC2", "FARGATE", "FARGATE_SPOT"]

CLUSTERS = ("prod", "staging", "data-platform", "edge", "internal-tools", "batch", "dev", "ml-inference")
TEAMS = ("payments", "storefront", "search", "platform", "growth", "data")
ZONES = ("a", "b", "c")


class Workload(msgspec.Struct, frozen=True):
    """A kind of service. `cpu` in units and `memory` in MiB, of the whole task; `port` 0 where none is served."""

    name: str
    cpu: int
    memory: int
    port: int = 0
    sidecars: tuple[str, ...] = ()


SERVICES = (
    Workload("web-frontend", 512, 1024, 8080, ("envoy",)),
    Workload("api-billing", 512, 1024, 8443),
    Workload("worker-search", 1024, 2048),
    Workload("api-orders", 512, 1024, 8080),
    Workload("auth-gateway", 256, 512, 9000),
    Workload("worker-email", 256, 512),
    Workload("catalog-indexer", 1024, 4096),
    Workload("payments-ledger", 512, 2048, 8443, ("envoy",)),
    Workload("image-resizer", 1024, 2048, 8080),
    Workload("notifications", 256, 512, 8080),
    Workload("recommendations", 1024, 4096, 7070, ("datadog-agent",)),
    Workload("session-cache", 256, 1024, 6379),
)
JOBS = (
    Workload("report-nightly", 512, 1024),
    Workload("db-migrate", 256, 512),
    Workload("export-invoices", 512, 2048),
    Workload("reindex-catalog", 1024, 2048),
)
SIDECAR_IMAGES = {
    "envoy": "public.ecr.aws/appmesh/aws-appmesh-envoy:v1.29.6.1-prod",
    "datadog-agent": "public.ecr.aws/datadog/agent:7.57.2",
}


class InstanceType(msgspec.Struct, frozen=True):
    """An EC2 instance type with what its agent registers: CPU units and MiB of memory."""

    name: str
    cpu: int
    memory: int
    architecture: Literal["x86_64", "arm64"]


INSTANCE_TYPES = (
    InstanceType("m6i.2xlarge", 8192, 31_553, "x86_64"),
    InstanceType("c6i.2xlarge", 8192, 15_752, "x86_64"),
    InstanceType("m7g.2xlarge", 8192, 31_545, "arm64"),
    InstanceType("r6i.xlarge", 4096, 31_553, "x86_64"),
)
CAPABILITIES = (
    "com.amazonaws.ecs.capability.privileged-container",
    "com.amazonaws.ecs.capability.docker-remote-api.1.25",
    "com.amazonaws.ecs.capability.docker-remote-api.1.44",
    "com.amazonaws.ecs.capability.logging-driver.awslogs",
    "com.amazonaws.ecs.capability.task-iam-role",
    "com.amazonaws.ecs.capability.ecr-auth",
    "ecs.capability.execution-role-awslogs",
    "ecs.capability.container-health-check",
    "ecs.capability.task-eni",
    "ecs.capability.secrets.ssm.environment-variables",
)


class Cause(msgspec.Struct, frozen=True):
    """Why a task stops. `exit_code` None: the container never ran. `crashed`: it ended first, by itself.

    `{...}` in the texts is filled in: service, deployment, target_group, image, instance, task.
    """

    code: str
    reason: str
    exit_code: int | None = 0
    container_reason: str = ""
    crashed: bool = False


EXITED = "Essential container in task exited"
OUT_OF_MEMORY = Cause(
    "EssentialContainerExited", EXITED, 137, "OutOfMemoryError: Container killed due to memory usage", True
)
CRASHED = Cause("EssentialContainerExited", EXITED, 1, "", True)
SEGFAULT = Cause("EssentialContainerExited", EXITED, 139, "", True)
FINISHED = Cause("EssentialContainerExited", EXITED, 0, "", True)
JOB_FAILED = Cause("EssentialContainerExited", EXITED, 2, "", True)
UNHEALTHY_TARGET = Cause(
    "ServiceSchedulerInitiated", "Task failed ELB health checks in (target-group {target_group})", 143
)
UNHEALTHY_CONTAINER = Cause("ServiceSchedulerInitiated", "Task failed container health checks", 137)
SCALED = Cause("ServiceSchedulerInitiated", "Scaling activity initiated by (deployment {deployment})", 0)
DRAINED = Cause("ServiceSchedulerInitiated", "Service scheduler: container instance {instance} is draining", 143)
BY_USER = Cause("UserInitiated", "Task stopped by user", 143)
SPOT = Cause("SpotInterruption", "Your Spot Task was interrupted.", 143)
HOST_GONE = Cause("TerminationNotice", "Host EC2 (instance {instance}) terminated.", 137)
_NO_IMAGE = (
    "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
    "failed to resolve ref {image}: {image}: not found"
)
NO_IMAGE = Cause("TaskFailedToStart", _NO_IMAGE, None, _NO_IMAGE)
