"""`make faults`: the daemon is killed with SIGKILL at random moments while it drains shuffled and duplicated events.

Nothing may be lost: at the end the service must serve exactly the simulated world. The reconciler is off, so that the
events alone have to tell it; on both stores. The seed is printed and reproduces the moments (not the machine's timing).
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.rig import Daemon, get, region, wait_until
from tests.etcd_server import EtcdServer


def world(endpoint: str) -> dict[str, dict[str, Any]]:
    """The simulated region's truth: ARN -> object in event form, by kind."""
    truth: dict[str, dict[str, Any]] = get(f"{endpoint}/_simulator/truth")
    return truth


def differences(service: Daemon, truth: dict[str, dict[str, Any]]) -> list[str]:
    """What the service serves otherwise than the world says; removed objects of the world do not count."""
    found = []
    for kind in ("tasks", "instances"):
        served = {item["key"]["id"]: item["detail"] for item in get(f"{service.url}/v2/{kind}")["items"]}
        for arn, wanted in truth[kind].items():
            have = served.get(arn)
            if have is None:
                found.append(f"lost: {arn}")
            elif (have["version"], state(have)) != (wanted["version"], state(wanted)):
                found.append(f"differs: {arn} {have['version']} {state(have)}, not {wanted['version']} {state(wanted)}")
    return found


def state(detail: dict[str, Any]) -> str:
    return str(detail.get("lastStatus", detail.get("status")))


def drained(endpoint: str) -> bool:
    queue = get(f"{endpoint}/_simulator/truth?only=queue")["queue"]
    return bool(queue["visible"] == 0 and queue["in_flight"] == 0)


def trial(store: str, kills: int, events: int, seed: int) -> bool:
    rng = random.Random(seed)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(
            region(tasks=2000, clusters=5, rate=0, preload=events, seed=seed, duplicates=0.3, reorder=events)
        )
        config = directory / "css.toml"
        config.write_text("[reconcile]\nenabled = false\n[source]\nvisibility_timeout = 10\n")
        flags = [f"--config={config}", "--queue=event_stream"]
        if store == "etcd":
            etcd = stack.enter_context(EtcdServer(directory / "etcd"))
            flags.append(f"--etcd-endpoint={etcd.endpoint}")
        else:
            flags.append(f"--store={directory / 'css.db'}")
        service = Daemon(flags, endpoint)
        stack.callback(lambda: service.process and service.stop(signal.SIGKILL))
        ready = []
        for _ in range(kills):
            service.start()
            if rng.random() < 0.8:  # the others die while they start
                ready.append(service.wait_ready())
            time.sleep(rng.uniform(0.0, 0.6))
            service.stop(signal.SIGKILL)
        left = get(f"{endpoint}/_simulator/truth?only=queue")["queue"]
        service.start()
        ready.append(service.wait_ready())
        took = wait_until(lambda: drained(endpoint), 180, "the drain after the last kill")
        found = differences(service, world(endpoint))
        redelivered = get(f"{endpoint}/_simulator/truth?only=queue")["queue"]["redelivered"]
        print(
            json.dumps(
                {
                    "store": store,
                    "seed": seed,
                    "kills": kills,
                    "events": events,
                    "undelivered_after_last_kill": left["visible"] + left["in_flight"],
                    "redelivered": redelivered,
                    "seconds_to_ready_p50": round(statistics.median(ready), 2),
                    "seconds_to_ready_max": round(max(ready), 2),
                    "seconds_to_drain": round(took, 1),
                    "objects": {kind: len(world(endpoint)[kind]) for kind in ("tasks", "instances")},
                    "lost_or_different": len(found),
                }
            ),
            flush=True,
        )
        for line in found[:20]:
            print(line)
        return not found


def main() -> int:
    arguments = argparse.ArgumentParser(prog="benchmarks.kill", description=__doc__)
    arguments.add_argument("--kills", type=int, default=30)
    arguments.add_argument("--events", type=int, default=20_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--store", choices=["embedded", "etcd"], action="append")
    chosen = arguments.parse_args()
    stores = chosen.store or ["embedded", "etcd"]
    return 0 if all(trial(store, chosen.kills, chosen.events, chosen.seed) for store in stores) else 1


if __name__ == "__main__":
    sys.exit(main())
