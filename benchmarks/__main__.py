"""`make bench`: the table of docs/performance.md, measured now on this machine. `--quick` for a first look."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.rig import ENVIRONMENT, Daemon, ask, child, daemon, free_port, get, region, time_of, wait_until
from tests.etcd_server import EtcdServer

TASKS = 10_000
CLUSTERS = 20


def row(work: str, figure: str, yardstick: str = "", bar: str = "") -> None:
    print(f"| {work} | {figure} | {yardstick} | {bar} |", flush=True)


@contextmanager
def serving(body: bytes, how: str) -> Iterator[int]:
    """A yardstick's server in a process of its own; its port."""
    port = free_port()
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        with child(["-m", "benchmarks.yardsticks", "serve", file.name, how, str(port)]):
            wait_until(lambda: ask_once(port), 10, "the yardstick's start")
            yield port


def ask_once(port: int) -> bool:
    time_of(port, "/", 1)
    return True


def reads(service: Daemon, times: int) -> None:
    """Lists and filters against a bare socket that sends the same bytes."""
    cluster = json.loads(ask(service.port, "/v2/tasks"))["items"][0]["key"]["cluster"]
    family = few_hits(service)
    for name, path, bar in [
        ("list all (v1)", "/v1/tasks", "3x"),
        ("list all (v2)", "/v2/tasks", ""),
        ("filter status+cluster (v1)", f"/v1/tasks?status=running&cluster={cluster}", "3x"),
        ("filter status+cluster (v2)", f"/v2/tasks?status=running&cluster={cluster}", ""),
        ("selective filter", f"/v2/tasks?startedBy={family[0]}", "5 ms"),
    ]:
        body = ask(service.port, path)
        with serving(body, "bare") as port:
            ours, bare = [], []
            for _ in range(times):  # in turn: the machine's speed drifts
                ours += time_of(service.port, path, 1)
                bare += time_of(port, path, 1)
        mine, theirs = statistics.median(ours) * 1000, statistics.median(bare) * 1000
        hits = f", {family[1]} hits" if name == "selective filter" else ""
        figure = f"{mine:.2f} ms ({len(body) / 1e6:.2f} MB{hits})"
        row(name, figure, f"bare send {theirs:.2f} ms: {mine / theirs:.2f}x", bar)


def few_hits(service: Daemon) -> tuple[str, int]:
    """The `startedBy` whose number of tasks is nearest to 30."""
    counts: dict[str, int] = {}
    for item in json.loads(ask(service.port, "/v2/tasks"))["items"]:
        name = item["detail"].get("startedBy", "")
        counts[name] = counts.get(name, 0) + 1
    return min(counts.items(), key=lambda pair: abs(pair[1] - 30))


async def requests_per_second(port: int, path: str, connections: int, seconds: float) -> float:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    done = 0

    async def one() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b""
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            at = head.lower().index(b"content-length:") + 15
            await reader.readexactly(int(head[at : head.index(b"\r", at)]))
            done += 1
        writer.close()

    until = time.perf_counter() + seconds
    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return done / (time.perf_counter() - begun)


def get_one(service: Daemon, seconds: float) -> None:
    """One task on sixteen connections, against bare trio with httptools."""
    item = json.loads(ask(service.port, "/v2/tasks"))["items"][0]["key"]
    path = f"/v1/tasks/{item['cluster']}/{item['id']}"
    with serving(ask(service.port, path), "parsed") as port:
        ours, bare = [], []
        for _ in range(3):
            ours.append(asyncio.run(requests_per_second(service.port, path, 16, seconds)))
            bare.append(asyncio.run(requests_per_second(port, path, 16, seconds)))
    mine, theirs = statistics.median(ours), statistics.median(bare)
    row("get one, 16 connections", f"{mine:,.0f}/s", f"bare {theirs:,.0f}/s: {mine / theirs:.0%}", "40 %")


def bootstrap_and_reads(etcd: EtcdServer, quick: bool) -> None:
    with region(tasks=TASKS, clusters=CLUSTERS, rate=0) as endpoint:
        begun = time.perf_counter()
        flags = [f"--etcd-endpoint={etcd.endpoint}", "--queue=event_stream", "--reconcile-rate=0"]
        with daemon(flags, endpoint) as service:
            service.wait_ready()
            whole = time.perf_counter() - begun
            report = get(f"{service.url}/v2/drift")["reports"][0]
            row("bootstrap, start to ready", f"{whole:.2f} s (the pass: {report['duration']:.2f} s)", "", "3 s")
            row("resident memory, after bootstrap", f"{service.resident:.0f} MB", "", "200 MB")
            reads(service, 9 if quick else 25)
            get_one(service, 1 if quick else 3)
            row("resident memory, after the reads", f"{service.resident:.0f} MB", "", "200 MB")


def counter(service: Daemon, name: str) -> float:
    lines = ask(service.port, "/metrics").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def queue_to_store(etcd: EtcdServer, events: int, threads: int) -> None:
    settings = {"tasks": TASKS, "clusters": CLUSTERS, "rate": 0, "preload": events}
    with region(**settings) as endpoint:
        begin = subprocess.run(
            [sys.executable, "-m", "benchmarks.yardsticks", "drain", endpoint, "event_stream", str(threads)],
            env=ENVIRONMENT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        bare = float(begin.stdout)
    with region(**settings) as endpoint, tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "css.toml")
        config.write_text(f"[reconcile]\nenabled = false\n[source]\nreceivers = {threads}\n")
        flags = [f"--config={config}", "--queue=event_stream", f"--etcd-endpoint={etcd.endpoint}"]
        with daemon(flags, endpoint) as service:
            acknowledged = "css_messages_acknowledged_total{"
            # From the first tenth to the end: the start of the processes is not the pipeline's rate.
            wait_until(lambda: counter(service, acknowledged) >= events / 10, 120, "the first tenth")
            begun, first = time.perf_counter(), counter(service, acknowledged)
            wait_until(lambda: counter(service, acknowledged) >= events, 300, "the drain", every=0.2)
            rate = (events - first) / (time.perf_counter() - begun)
            resident = service.resident
    name = f"queue to store, {threads} receivers"
    row(name, f"{rate:,.0f} events/s", f"boto3 alone {bare:,.0f}/s: {rate / bare:.0%}", "40 %")
    row("resident memory, after the drain", f"{resident:.0f} MB", "", "200 MB")


def fan_out(etcd: EtcdServer, seconds: float) -> None:
    with region(tasks=TASKS, clusters=CLUSTERS, rate=200) as endpoint:
        flags = [f"--etcd-endpoint={etcd.endpoint}", "--queue=event_stream", "--reconcile-rate=0"]
        with daemon(flags, endpoint) as service:
            service.wait_ready()
            time.sleep(10)  # the simulated world takes so long to reach its rate
            for subscribers, bar in [(1, 150), (100, 500)]:
                ran = subprocess.run(
                    [sys.executable, "-m", "benchmarks.subscribers", str(service.port), str(subscribers), str(seconds)],
                    env=ENVIRONMENT, capture_output=True, text=True, check=True,
                )  # fmt: skip
                ages: dict[str, Any] = json.loads(ran.stdout)
                figure = (
                    f"p50 {ages['p50']:.0f} ms, p99 {ages['p99']:.0f} ms ({ages['changes'] / seconds:.0f} looked at/s)"
                )
                seen = f"each saw {ages['least']}-{ages['most']} changes in {seconds:.0f} s"
                row(f"change to {subscribers} subscriber(s), 200/s", figure, seen, f"p99 {bar} ms")
            row("resident memory, after the fan-out", f"{service.resident:.0f} MB", "", "200 MB")


def main() -> None:
    arguments = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments.add_argument("--only", choices=["reads", "queue", "fanout"], help="one part")
    chosen = arguments.parse_args()
    print("| work (10,000 tasks, etcd store) | measured | yardstick of the same run | bar |\n| --- | --- | --- | --- |")
    parts = {
        "reads": lambda etcd: bootstrap_and_reads(etcd, chosen.quick),
        "queue": lambda etcd: queue_to_store(etcd, 10_000 if chosen.quick else 20_000, 2),
        "fanout": lambda etcd: fan_out(etcd, 5 if chosen.quick else 15),
    }
    for name, part in parts.items():
        if chosen.only in (None, name):
            with tempfile.TemporaryDirectory() as directory, EtcdServer(Path(directory)) as etcd:
                part(etcd)


if __name__ == "__main__":
    main()
