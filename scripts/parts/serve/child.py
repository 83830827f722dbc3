"""A child process of a stack, with its log."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, Self

from parts.serve.output import write_text
from parts.serve.processes import when_parent_dies

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent.parent
RUN_DIR: Final = REPOSITORY / ".run"
STOP_TIMEOUT_S: Final = 90.0
POLL_S: Final = 0.1

READY_LINE: Final = "serve: ready after"
STOPPED_LINE: Final = "serve: stopped"


class StackFailed(Exception):
    """The stack cannot be started, or a part of it has ended; the message says why."""


class Process:
    """A child process with its log; leaving the context ends it cleanly.

    Attributes:
        log: path of its log file.
        said_ready: set when a supervisor has printed its ready line; a gateway has a probe instead.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environ: Mapping[str, str],
        at_once: threading.Event | None = None,
        *,
        is_one_of_several: bool = False,
    ) -> None:
        """Prepares a child; entering the context starts it.

        Args:
            name: in messages, and of the log file.
            command: what to run.
            environ: its variables.
            at_once: once it is set, the child is killed without waiting for a clean end.
            is_one_of_several: whether its lines on the terminal begin with its name.
        """
        self.name = name
        self._prefix = f"{name}: " if is_one_of_several else ""
        self._command = command
        self._environ = environ
        self._at_once = at_once or threading.Event()
        self.log = RUN_DIR / f"{name}.log"
        self.said_ready = threading.Event()

    def __enter__(self) -> Self:
        self._asked_to_end = False
        self._child = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops its children cleanly
            preexec_fn=when_parent_dies(signal.SIGTERM),  # noqa: PLW1509  # one system call, looked up before the fork
        )
        assert self._child.stdout is not None
        self._pump = threading.Thread(target=self._pump_log, args=(self._child.stdout,), daemon=True)
        self._pump.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.ask_to_end()
        give_up_at = time.monotonic() + STOP_TIMEOUT_S
        while not self.has_ended and time.monotonic() < give_up_at and not self._at_once.is_set():
            time.sleep(POLL_S)
        self._child.kill()  # a killed supervisor's guard ends its children
        self._child.wait()
        self._pump.join(1.0)

    def ask_to_end(self) -> None:
        """Asks once for a clean end; a supervisor that is asked twice does not wait for running requests."""
        if not self._asked_to_end:
            self._asked_to_end = True
            self._child.terminate()

    def restart(self) -> None:
        """Ends the child cleanly, and starts it again."""
        self.__exit__()
        self.said_ready.clear()
        self.__enter__()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether the child has ended."""
        return self._child.poll() is not None

    def check(self) -> None:
        """Raises StackFailed if the child has ended."""
        if (status := self._child.poll()) is not None:
            self._pump.join(1.0)
            raise StackFailed(f"{self.name} ended with status {status}; its log is {self.log.relative_to(REPOSITORY)}")

    def _pump_log(self, stream: IO[bytes]) -> None:
        """Copies all lines to the log, and the supervisor's lines about failures to the terminal, too.

        It keeps reading when the disk is full, because a child whose output is not read would block.
        """
        relevant = False
        with stream, self._open_log() as log:
            for raw in stream:
                with contextlib.suppress(OSError):
                    log.write(raw)
                line = raw.decode(errors="replace")
                relevant = line.startswith("serve: ") or (relevant and line.startswith("  "))
                if line.startswith(READY_LINE):
                    self.said_ready.set()
                elif relevant and not line.startswith(STOPPED_LINE):
                    write_text(sys.stderr, f"{self._prefix}{line}")

    def _open_log(self) -> IO[bytes]:
        """Opens the log without a buffer, so that bytes that cannot be written are not retried."""
        try:
            return self.log.open("wb", buffering=0)
        except OSError:
            return Path(os.devnull).open("wb", buffering=0)
