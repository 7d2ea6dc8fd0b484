"""One run child as a process: spawn, talk, watch, kill. Nothing here knows of jobs in a database.

The child leads its own session, so its whole process group dies with it. Its stdin stays open for as long as we live:
end of file there is how it learns that we are gone, even by SIGKILL (PR_SET_PDEATHSIG would not do: that signal follows
the *thread* that spawned the child, and ours end). The end of the child is noticed without reaping it, the group is
killed, and only then is the pid given back, so a signal never reaches a stranger.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from worker.run import protocol

MAX_LINE = 2**20
LOG_BYTES = 64 * 2**10


class Child:
    def __init__(self, command: list[str], request: protocol.RunRequest, env: dict[str, str], log: Path) -> None:
        # A full queue makes the child wait: what it says is never lost, and memory stays flat while the database is away.
        self.events: queue.Queue[protocol.Event | bytes] = queue.Queue(maxsize=5000)
        self.abandoned = threading.Event()
        self._log = _Tail(log)
        self._commands: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._returncode: int | None = None
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                start_new_session=True,
                cwd=request.workdir,
                env={**env, protocol.EVENT_FD_VARIABLE: str(write_end)},
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        self._commands.put(request.spoken())
        self._threads = [
            threading.Thread(target=target, args=args, name=f"{target.__name__.strip('_')}-{self.pid}", daemon=True)
            for target, args in ((self._read_events, (read_end,)), (self._read_log, ()), (self._write, ()))
        ]
        for thread in self._threads:
            thread.start()

    def command(self, name: str) -> None:
        self._commands.put(json.dumps({"command": name}))

    def poll(self) -> int | None:
        """Exit code (negative: signal) once it has ended, its group killed and itself reaped."""
        if self._returncode is None:
            try:
                ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                ended = None
            if ended is None:
                return None
            self.signal(signal.SIGKILL)
            self._returncode = self._process.wait()
        return self._returncode

    def signal(self, number: int) -> None:
        """To the whole process group; a stopped group is woken to receive it."""
        if self._returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
                os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    @property
    def log_tail(self) -> str:
        return self._log.text()

    @property
    def finished_reading(self) -> bool:
        """Whether the event pipe is at its end: `events` will not grow any more."""
        return not self._threads[0].is_alive()

    def close(self) -> None:
        """After the end: stop the threads. Pipes that a runaway grandchild still holds are left to it."""
        self.abandoned.set()
        self._commands.put(None)
        for thread in self._threads:
            thread.join(2.0)
        self._log.close()

    # -- threads -----------------------------------------------------------------------------------------------------

    def _read_events(self, descriptor: int) -> None:
        with open(descriptor, "rb", buffering=2**16) as pipe:
            while line := pipe.readline(MAX_LINE):
                if not line.endswith(b"\n") and len(line) == MAX_LINE:
                    while rest := pipe.readline(MAX_LINE):
                        if rest.endswith(b"\n"):
                            break
                    self._put(line[:200])
                    continue
                try:
                    self._put(protocol.EVENT.validate_json(line))
                except (ValidationError, ValueError):
                    if line.strip():
                        self._put(line)

    def _put(self, item: protocol.Event | bytes) -> None:
        while not self.abandoned.is_set():
            try:
                return self.events.put(item, timeout=0.5)
            except queue.Full:
                continue

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 2**16):
                self._log.write(chunk)

    def _write(self) -> None:
        assert self._process.stdin is not None
        pipe = self._process.stdin
        while (line := self._commands.get()) is not None:
            try:
                pipe.write(line.encode() + b"\n")
                pipe.flush()
            except OSError:  # it died; its exit code says how
                break
        with contextlib.suppress(OSError):
            pipe.close()


class _Tail:
    """The last 64 KiB of what was written, always on disk, so that they outlive this process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._lock = threading.Lock()
        self._kept = b""

    def write(self, chunk: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # a full disk must not block the child
            self._kept = (self._kept + chunk)[-LOG_BYTES:]
            if self._file.tell() + len(chunk) > 2 * LOG_BYTES:
                self._file.seek(0)
                self._file.write(self._kept)
                self._file.truncate()
            else:
                self._file.write(chunk)

    def text(self) -> str:
        with self._lock:
            return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        with self._lock:
            self._file.close()


def oom_kills() -> int:
    """How often the kernel killed for want of memory, in our control group when it tells, else on this host."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
