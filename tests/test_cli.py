"""The command line as a user meets it: real processes, their output and their exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import structlog

from css import __version__
from css.cli import COMMANDS, loop, main
from css.cli.argv import Command, parse
from css.cli.flags import given
from css.cli.settings import settle
from css.config import Config
from css.errors import ConfigError

T = TypeVar("T")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CSS_", "ECS_"))}
DUMMY = {**CLEAN, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "NO_PROXY": "127.0.0.1"}


def css(*argv: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "css", *argv],
        env={**CLEAN, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


class Process:
    """A running command, its two outputs in files: a pipe that nobody reads would hold it up."""

    def __init__(self, directory: Path, argv: Sequence[str], environment: dict[str, str], stdin: int) -> None:
        self._out, self._err = directory / f"{argv[0]}.out", directory / f"{argv[0]}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            command = [sys.executable, "-m", "css", *argv]
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=stdin)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def find(self, pattern: str) -> str:
        """Wait until an output holds `pattern`; its first group."""

        def found() -> str | None:
            match = re.search(pattern, self.out + self.err)
            assert match or self.process.poll() is None, f"ended with {self.process.returncode}: {self.err}"
            return match[1] if match else None

        return eventually(found)

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=15)


def eventually(true: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        result = true()
        if result:
            return result
        time.sleep(0.02)
    raise TimeoutError


@contextmanager
def running(
    directory: Path, *argv: str, environment: dict[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> Iterator[Process]:
    process = Process(directory, argv, {**DUMMY, **(environment or {})}, stdin)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
        if process.process.stdin:
            process.process.stdin.close()


def get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of a process of ours
            return bytes(answer.read())
    except OSError:
        return None


def run_flags(*argv: str, environment: dict[str, str] | None = None) -> Config:
    args = parse("run", COMMANDS["run"], list(argv))
    return settle(args.config, environment or {}, given(args)).config


# --- help and versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str) -> None:
    """Help ends with a line that can be typed as it is, and that the command itself understands."""
    done = css(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    example = done.stdout.partition("example:\n  ")[2].strip()
    assert example.startswith(f"css {command} ")
    parse(command, COMMANDS[command], example.split()[2:])


def test_the_overview_names_every_command() -> None:
    """`css --help` is the way in; `css` alone shows it too, and has done nothing: status 2."""
    asked, bare = css("--help"), css()
    assert asked.stdout == bare.stdout
    assert (asked.returncode, bare.returncode) == (0, 2)
    for command in [*COMMANDS, "tui"]:
        assert re.search(rf"^  {command} +\w", asked.stdout, re.MULTILINE)


@pytest.mark.parametrize("argv", [["--version"], ["run", "--version"], ["--queue", "q", "--version"]])
def test_version(argv: list[str]) -> None:
    """The version alone, also where the Go service had its flag."""
    done = css(*argv)
    assert (done.returncode, done.stdout) == (0, f"css {__version__}\n")


@pytest.mark.parametrize(
    ("argv", "absent"),
    [
        ("['--help']", {"trio", "boto3", "structlog", "grpc", "textual", "css.service"}),
        ("['run', '--help']", {"trio", "boto3", "structlog", "grpc", "textual", "css.service"}),
        ("['check-config', 'config.example.toml']", {"boto3", "grpc", "textual", "css.service"}),
        ("['tui', '--help']", {"boto3", "botocore", "grpc", "css.service"}),
    ],
)
def test_commands_load_only_what_they_need(argv: str, absent: set[str]) -> None:
    """Help is quick, and the terminal UI does without the libraries of the daemon."""
    code = (
        "import json, sys\nfrom css.cli import main\n"
        f"try: status = main({argv})\nexcept SystemExit as ended: status = ended.code\n"
        "print(json.dumps([status, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=CLEAN)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status in (0, None)
    assert not absent & set(modules)


# --- the Go service's flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        "--queue sqs://events --bind localhost:3000 --etcd-endpoint localhost:2379 --etcd-endpoint 10.0.0.2:2379",
        "--queue=sqs://events --bind=localhost:3000 --etcd-endpoint=localhost:2379 --etcd-endpoint=10.0.0.2:2379",
        "--queue_name sqs://events --bind localhost:3000 --etcd-endpoint localhost:2379,10.0.0.2:2379",
        "--queue_name=sqs://events --bind=localhost:3000 --etcd-endpoint=localhost:2379,10.0.0.2:2379",
        "--queue earlier --queue sqs://events --bind localhost:3000 --etcd-endpoint localhost:2379,10.0.0.2:2379",
    ],
)
def test_the_go_services_flags_mean_what_they_did(argv: str) -> None:
    """With a space or an equals sign, the endpoint repeatable, the last of two queues taken."""
    config = run_flags(*argv.split())
    assert config.source.queue == "sqs://events"
    assert config.server.bind == "localhost:3000"
    assert config.store.etcd_endpoints == ("localhost:2379", "10.0.0.2:2379")


def test_our_flags_choose_their_settings(tmp_path: Path) -> None:
    """Each flag of `css run` changes its setting and no other."""
    flags = "--store a.db --reconcile-rate 0 --insecure --keep-environment --log-level WARN --log-file l"
    config = run_flags(*flags.split())
    assert config.store.path == "a.db"
    assert config.reconcile.rate == 0
    assert config.auth.insecure
    assert not config.redact_environment
    assert (config.log.level, config.log.file) == ("warning", "l")
    assert run_flags() == Config()


def test_a_store_file_on_the_command_line_beats_the_files_etcd(tmp_path: Path) -> None:
    """Flags beat the file, also where two settings choose between two things."""
    path = tmp_path / "css.toml"
    path.write_text('[store]\netcd_endpoints = ["localhost:2379"]')
    assert run_flags("--config", str(path)).store.etcd_endpoints == ("localhost:2379",)
    assert run_flags("--config", str(path), "--store", "a.db").store.etcd_endpoints == ()
    with pytest.raises(ConfigError, match="--store and --etcd-endpoint: expected one of them, found both"):
        run_flags("--store", "a.db", "--etcd-endpoint", "localhost:2379")


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["rnu"], 'unknown command "rnu"; did you mean run?'),
        (["run", "--quee", "x"], "css run: unknown argument --quee; did you mean --queue?"),
        (["--quee=x"], "css run: unknown argument --quee; did you mean --queue?"),
        (["run", "--que", "x"], "css run: unknown argument --que; did you mean --queue?"),
        (["run", "stray"], "css run: unknown argument stray; see css run --help"),
        (["run", "--queue"], "argument --queue/--queue_name: expected one argument; see css run --help"),
        (["run", "--bind", "3000"], '--bind: server.bind: expected HOST:PORT, [IPv6]:PORT or :PORT, found "3000"'),
        (["run", "--reconcile-rate", "fast"], "--reconcile-rate: reconcile.rate: expected a number from 0 to 10000"),
        (["run", "--etcd-endpoint", "x"], "--etcd-endpoint: store.etcd_endpoints[0]: expected HTTP(S)://HOST:PORT"),
        (["run", "--queue", "kinesis://s"], "--queue: source.queue: expected the name, sqs://NAME"),
        (["run", "--config", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
        (["run", "--bind", "0.0.0.0:0"], "server.bind: 0.0.0.0:0 can be reached from other machines"),
        (["run", "--log-file", "/missing/x"], "log.file: /missing/x cannot be opened: No such file or directory"),
        (["simulate", "--rate", "fast"], '--rate: rate: expected a number from 0 to 1000000, found "fast"'),
        (["simulate", "--loss", "2"], "--loss: faults.loss: expected a number from 0 to 1, found 2"),
        (["demo", "--tasks", "-1"], "--tasks: tasks: expected an integer from 0 to 200000, found -1"),
        (["demo", "--store", "pyproject.toml"], "--store: expected a new file"),
        (["record", "file"], "--queue: source.queue: expected the queue to record, found nothing"),
        (["record", "--queue", "q", "/missing/x"], "/missing/x: cannot be written: No such file or directory"),
        (["check-config", "pyproject.toml"], "pyproject.toml: build-system: unknown setting"),
        (["check-config"], "the following arguments are required: FILE; see css check-config --help"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv: list[str], said: str) -> None:
    """Nothing is started, nothing else is printed."""
    done = css(*argv, environment={"AWS_REGION": "us-east-1"})
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"css: {said}")
    assert done.stderr.count("\n") == 1


def test_a_wrong_variable_is_status_2() -> None:
    """The environment is as much a place of settings as the file."""
    done = css("run", environment={"CSS_LOG_LEVEL": "loud"})
    assert done.returncode == 2
    assert done.stderr.startswith("css: CSS_LOG_LEVEL: log.level: expected one of ")


@pytest.mark.parametrize("command", ["run", "demo", "simulate"])
def test_an_address_in_use_is_status_2_and_names_the_flag(tmp_path: Path, command: str) -> None:
    """Two services on one port: the second says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        store = [] if command == "simulate" else ["--store", str(tmp_path / "css.db")]
        done = css(command, "--bind", bind, *store, environment={**DUMMY, "AWS_REGION": "us-east-1"})
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"css: cannot listen on {bind}")
    assert "--bind" in last
    assert "Traceback" not in done.stderr


def test_a_defect_is_a_traceback_and_a_line_of_the_log() -> None:
    """What nobody foresaw is not dressed up; a supervisor sees status 1, the log the same traceback."""

    async def broken() -> None:
        raise LookupError("unforeseen")

    with structlog.testing.capture_logs() as logs, pytest.raises(LookupError, match="unforeseen"):
        loop(broken)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("ended by a defect", "critical")]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("", [KeyboardInterrupt(), KeyboardInterrupt()]), 130, ""),
        (ConfigError("a: b\nc"), 2, "css: a: b\\nc\n"),
        (ExceptionGroup("", [ConfigError("a"), ExceptionGroup("", [ConfigError("b")])]), 2, "css: a\ncss: b\n"),
        (SystemExit(1), 1, ""),
        (ExceptionGroup("", [ConfigError("a"), ValueError("b")]), None, ""),
    ],
)
def test_what_ends_a_command_becomes_its_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int | None,
    said: str,
) -> None:
    """Nurseries wrap what ends them: a wrong setting inside is still one line, a defect beside it still a defect."""

    def perform(args: object) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, "run", Command("", "css run", lambda parser: None, perform))
    if status is None:
        with pytest.raises(ExceptionGroup):
            main(["run"])
    else:
        assert main(["run"]) == status
    assert capsys.readouterr() == ("", said)


def test_a_file_that_is_right_is_explained(tmp_path: Path) -> None:
    """`check-config` shows what differs from the defaults, where it came from, and what is hardly meant."""
    path = tmp_path / "css.toml"
    path.write_text('[source]\nqueue = "q"\n[store]\npath = "css.db"\netcd_ca = "/missing"\n[log]\nlevel = "error"\n')
    done = css("check-config", str(path), environment={"CSS_LOG_LEVEL": "debug", "AWS_PROFILE": "p"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{path}: ok"
    assert '  source.queue = "q"' in lines
    assert '  log.level = "debug"  (CSS_LOG_LEVEL)' in lines
    assert "  aws.profile: what AWS_PROFILE says" in lines
    assert "warning: store.etcd_ca: /missing cannot be read by this user" in lines
    assert not any("store.path" in line for line in lines)


# --- the commands at work -------------------------------------------------------------------------------------------


def test_the_daemon_runs_as_the_go_service_was_called(tmp_path: Path) -> None:
    """No command, the old flags and variables; it becomes ready, and ends with status 0 at SIGTERM."""
    with running(tmp_path, "simulate", "--tasks=20", "--clusters=2", "--rate=50") as region:
        endpoint = region.find(r"^(http://\S+)\n")
        environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "CSS_LOG_FILE": str(tmp_path / "log")}
        argv = ["--queue_name=event_stream", "--bind", "127.0.0.1:0", "--store", str(tmp_path / "css.db")]
        with running(tmp_path, *argv, environment=environment) as daemon:
            log = tmp_path / "log"
            url = json.loads(eventually(lambda: first_line(log)))["url"]
            eventually(lambda: get(f"{url}/readyz"))
            assert len(json.loads(get(f"{url}/v1/tasks") or b"")["items"]) >= 20
            assert daemon.end(signal.SIGTERM) == 0
            assert daemon.out + daemon.err == ""
        assert region.end(signal.SIGTERM) == 0
    for entry in log.read_text().splitlines():
        assert json.loads(entry)["level"] == "info"


def test_a_region_ends_with_its_parent(tmp_path: Path) -> None:
    """`--until-eof`: the end of standard input is the end of the region, so a killed parent leaves none behind."""
    with running(tmp_path, "simulate", "--tasks=1", "--until-eof", stdin=subprocess.PIPE) as region:
        assert get(region.find(r"^(http://\S+)\n") + "/_simulator/faults")
        assert region.process.stdin
        region.process.stdin.close()
        assert region.process.wait(timeout=15) == 0


def test_a_queue_is_recorded_and_played_back(tmp_path: Path) -> None:
    """Every message once, without the values of environment overrides; Ctrl-C ends with status 0."""
    file = tmp_path / "events.jsonl"
    with running(tmp_path, "simulate", "--tasks=5", "--rate=0", "--preload=40") as region:
        environment = {"AWS_ENDPOINT_URL": region.find(r"^(http://\S+)\n"), "AWS_REGION": "us-east-1"}
        with running(
            tmp_path, "record", "--queue=event_stream", "--delete", str(file), environment=environment
        ) as recording:
            eventually(lambda: file.exists() and file.read_bytes().count(b"\n") >= 40)
            assert recording.end(signal.SIGINT) == 0
    bodies = [json.loads(json.loads(line)["body"]) for line in file.read_text().splitlines()]
    assert len({body["id"] for body in bodies}) == len(bodies) >= 40
    with running(
        tmp_path,
        *["run", f"--queue=replay://{file}?speed=0", "--bind=127.0.0.1:0", f"--store={tmp_path / 'css.db'}"],
        *[f"--config={no_reconcile(tmp_path)}"],
    ) as daemon:
        url = daemon.find(r'"url": "(\S+)"')
        eventually(lambda: json.loads(get(f"{url}/v1/tasks") or b"{}").get("items"))
        assert daemon.end(signal.SIGTERM) == 0


def first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0] if path.exists() else ""


def no_reconcile(tmp_path: Path) -> Path:
    path = tmp_path / "css.toml"
    path.write_text("[reconcile]\nenabled = false\n")
    return path


def endpoint_of(process: Process) -> str:
    return process.find(r"simulated region \((http://\S+)\)")


def test_the_demo_shows_a_living_cluster(tmp_path: Path) -> None:
    """It says what to open, what it names answers, and Ctrl-C ends it and its region."""
    with running(tmp_path, "demo", "--bind=127.0.0.1:0", "--tasks=20", "--clusters=2") as process:
        endpoint = endpoint_of(process)
        eventually(lambda: get(process.find(r"curl '(\S+/readyz)'")))
        for url in re.findall(r"curl '(\S+)'", process.out):
            assert get(url), url
        assert process.end(signal.SIGINT) == 0
        assert "Traceback" not in process.err
        assert get(f"{endpoint}/_simulator/faults") is None


def test_a_killed_demo_leaves_no_region_behind(tmp_path: Path) -> None:
    """SIGKILL lets nobody tidy up; the region ends by itself."""
    with running(tmp_path, "demo", "--bind=127.0.0.1:0", "--tasks=20") as process:
        endpoint = endpoint_of(process)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        eventually(lambda: get(f"{endpoint}/_simulator/faults") is None)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child in /proc")
def test_a_region_that_dies_ends_the_demo(tmp_path: Path) -> None:
    """A demonstration without its region shows nothing: it says so and ends with status 1."""
    with running(tmp_path, "demo", "--bind=127.0.0.1:0", "--tasks=20") as process:
        endpoint_of(process)
        threads = Path(f"/proc/{process.process.pid}/task").glob("*/children")
        [region] = [int(child) for thread in threads for child in thread.read_text().split()]
        os.kill(region, signal.SIGKILL)
        assert process.process.wait(timeout=15) == 1
        assert "the simulated region ended" in process.err
        assert "Traceback" not in process.err


def test_the_demo_reaches_no_account(tmp_path: Path) -> None:
    """Whatever the environment says of accounts, profiles, endpoints and proxies, the demonstration works without."""
    hostile = {
        "AWS_PROFILE": "missing",
        "AWS_ENDPOINT_URL": "http://192.0.2.1:1",
        "ECS_ENDPOINT": "http://192.0.2.1:1",
        "HTTP_PROXY": "http://192.0.2.1:1",
        "http_proxy": "http://192.0.2.1:1",
        "AWS_REGION": "eu-north-1",
    }
    with running(tmp_path, "demo", "--bind=127.0.0.1:0", "--tasks=20", environment=hostile) as process:
        url = process.find(r"curl '(\S+)/readyz'")
        eventually(lambda: get(f"{url}/readyz"))
        assert b'"arn:aws:ecs:us-east-1:' in (get(f"{url}/v1/tasks") or b"")
        assert process.end(signal.SIGTERM) == 0
