"""How a world begins: clusters, their instances and services, everything steady, some tasks recently stopped.

Pure; runs once, before the first event.
"""

from __future__ import annotations

import math

from css.simulator import catalogue
from css.simulator import service as services
from css.simulator.catalogue import CLUSTERS, INSTANCE_TYPES, SERVICES, Cause, Launch
from css.simulator.engine import Engine
from css.simulator.fleet import Fleet
from css.simulator.incidents import Incidents
from css.simulator.inventory import Shelf
from css.simulator.scheduler import Scheduler
from css.simulator.service import SimService
from css.simulator.tasks import Order, SimTask

_ROOM = 0.7
"""The share of a fleet's CPU that its founding tasks take."""
_LAUNCHES: tuple[Launch, ...] = ("EC2", "FARGATE", "EC2", "FARGATE", "EC2", "FARGATE_SPOT")
_ENDED: tuple[Cause, ...] = (catalogue.CRASHED, catalogue.OUT_OF_MEMORY, catalogue.SCALED, catalogue.UNHEALTHY_TARGET)
_WEEK = 604_800.0
_HOUR = 3_600.0


def found(engine: Engine, fleet: Fleet, scheduler: Scheduler, incidents: Incidents) -> None:
    """Fill the engine's inventory as its settings say."""
    settings = engine.settings
    shelves = [_cluster(engine, number) for number in range(settings.clusters)]
    jobs = settings.tasks // 20
    each, more = divmod(settings.tasks - jobs, settings.clusters * settings.services)
    made: list[SimService] = []
    for shelf in shelves:
        for number in range(settings.services):
            made.append(_service(engine, shelf, number, each + (len(made) < more)))
            scheduler.services[f"{shelf.arn}service:{made[-1].id}"] = made[-1]
    for shelf in shelves:
        _instances(engine, fleet, shelf, [service for service in made if service.shelf is shelf])
    for service in made:
        _tasks(engine, fleet, scheduler, service)
    for number in range(jobs):
        shelf = shelves[number % len(shelves)]
        _task(engine, fleet, scheduler, shelf, incidents.job(shelf), age=engine.rng.uniform(60, _HOUR))
        if number % 3 == 0:
            job = incidents.job(shelf)
            _task(engine, fleet, scheduler, shelf, job, age=engine.rng.uniform(600, _HOUR), ended=catalogue.FINISHED)


def _cluster(engine: Engine, number: int) -> Shelf:
    turn, which = divmod(number, len(CLUSTERS))
    name = CLUSTERS[which] if turn == 0 else f"{CLUSTERS[which]}-{turn + 1}"
    return engine.inventory.open(engine.place.arn("cluster", name), {"environment": CLUSTERS[which]})


def _service(engine: Engine, shelf: Shelf, number: int, desired: int) -> SimService:
    turn, which = divmod(number, len(SERVICES))
    workload = SERVICES[which]
    name = workload.name if turn == 0 else f"{workload.name}-{turn + 1}"
    launch = _LAUNCHES[number % len(_LAUNCHES)]
    service = services.create(engine, shelf, workload, launch, desired, name)
    engine.inventory.add(shelf.services, service)
    return service


def _instances(engine: Engine, fleet: Fleet, shelf: Shelf, its_services: list[SimService]) -> None:
    """Enough for the services that run on instances, by CPU and by memory; two at least where there are any."""
    on_ec2 = [service for service in its_services if service.launch == "EC2" and service.desired]
    cpu = sum(service.desired * service.workload.cpu for service in on_ec2)
    memory = sum(service.desired * service.workload.memory for service in on_ec2)
    mean_cpu = sum(kind.cpu for kind in INSTANCE_TYPES) / len(INSTANCE_TYPES)
    mean_memory = sum(kind.memory for kind in INSTANCE_TYPES) / len(INSTANCE_TYPES)
    for _ in range(max(2, math.ceil(max(cpu / mean_cpu, memory / mean_memory) / _ROOM)) if on_ec2 else 0):
        fleet.found(shelf)


def _tasks(engine: Engine, fleet: Fleet, scheduler: Scheduler, service: SimService) -> None:
    order = scheduler.order(service)
    for number in range(service.desired):
        task = _task(engine, fleet, scheduler, service.shelf, order, age=engine.rng.uniform(300, _WEEK))
        service.live[task.id] = task
        if number % 16 == 0:
            ended = engine.rng.choice(_ENDED)
            age = engine.rng.uniform(600, _HOUR)
            _task(engine, fleet, scheduler, service.shelf, order, age=age, ended=ended)
    service.count(engine.now)


def _task(
    engine: Engine,
    fleet: Fleet,
    scheduler: Scheduler,
    shelf: Shelf,
    order: Order,
    *,
    age: float,
    ended: Cause | None = None,
) -> SimTask:
    task = scheduler.tasks.found(shelf, order, age, ended)
    while task is None:  # no room: the estimate of the fleet was too small
        fleet.found(shelf)
        task = scheduler.tasks.found(shelf, order, age, ended)
    return task
