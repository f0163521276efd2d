"""`css demo`: the real daemon on a simulated region. Reaches no AWS account, whatever the environment holds.

The region is another process, so that the daemon's processor time and memory are its own. It ends with this one, also
after a SIGKILL: its standard input ends then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import cast

import structlog
import trio
from msgspec.structs import replace

from css.cli.settings import Setting
from css.config import Config
from css.server.listener import listen
from css.service import run
from css.simulator.settings import Simulation

_REGION = Simulation()
_log = structlog.get_logger()


def settings() -> list[Setting]:
    """What the demonstration chooses before its flags are heard."""
    chosen = {
        "source.queue": _REGION.queue,
        "aws.region": _REGION.region,
        "reconcile.interval": 30.0,
        "reconcile.rate": 0.0,
    }
    return [Setting(key, value, "css demo") for key, value in chosen.items()]


def isolate(environment: MutableMapping[str, str]) -> None:
    """Leave nothing in `environment` by which boto3 could find a real account, a proxy or a person's profile."""
    for name in [name for name in environment if name.startswith("AWS_") or name == "ECS_ENDPOINT"]:
        del environment[name]
    environment.update(
        {
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
    )


async def demo(config: Config, flags: Sequence[str], store: Path | None) -> None:
    """Run until a signal. `flags` choose the region's world; without `store` the state is forgotten at the end.

    Raises `ConfigError`, and `SystemExit` when the region ends by itself.
    """
    for listener in await listen(config.server.bind):  # an address in use is said before anything is started
        await listener.aclose()
    with tempfile.TemporaryDirectory(prefix="css-demo-") as directory:
        config = replace(config, store=replace(config.store, path=str(store or Path(directory, "css.db"))))
        if await _demo(config, flags):
            raise SystemExit(1)


async def _demo(config: Config, flags: Sequence[str]) -> bool:
    """Whether the region ended before the daemon did."""
    ended = False

    async def region(*, task_status: trio.TaskStatus[str]) -> None:
        nonlocal ended
        status = await _region(flags, task_status)
        _log.error("the simulated region ended", status=status)
        ended = True
        nursery.cancel_scope.cancel()

    async def daemon(endpoint: str, *, task_status: trio.TaskStatus[str]) -> None:
        await run(replace(config, aws=replace(config.aws, endpoint_url=endpoint)), task_status=task_status)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(region)
        if endpoint:
            url = await nursery.start(daemon, endpoint)
            print(_what_to_open(url, endpoint), flush=True)
    return ended


async def _region(flags: Sequence[str], task_status: trio.TaskStatus[str]) -> int:
    """Run `css simulate`; started with its URL. Returns its exit status, should it end."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "css", "simulate", "--bind=127.0.0.1:0", "--until-eof", *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for the daemon, which drains: the queue has to outlive it
    )
    stdout = cast(trio.abc.ReceiveStream, process.stdout)
    try:
        said = b""
        while not said.endswith(b"\n"):
            byte = await stdout.receive_some(1)
            if not byte:
                break
            said += byte
        task_status.started(said.decode().strip())
        async for _ in stdout:
            pass
        return await process.wait()
    finally:
        process.terminate()
        with trio.move_on_after(5, shield=True):  # no process of ours stays behind, and none holds up the end
            await process.wait()
        process.kill()


def _what_to_open(url: str, endpoint: str) -> str:
    return f"""
css demo: {url} serves a simulated region ({endpoint}); Ctrl-C ends both.

  open      {url}/
  tasks     curl '{url}/v1/tasks'
            curl '{url}/v2/tasks?status=RUNNING'
  watch     curl -N '{url}/v1/stream/tasks'
            {_this_program()} tui {url}
  health    curl '{url}/readyz'    curl '{url}/metrics'
"""


def _this_program() -> str:
    """How to call us again: the bare name where the shell would find it, else by its path."""
    path = Path(sys.argv[0])
    if shutil.which("css") or path.name != "css":
        return "css"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
