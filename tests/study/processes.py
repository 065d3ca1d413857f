"""The command line in processes of its own, as a user starts it: watched, killed, and looked for afterwards."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

MARK = "CLREG_COMMAND"
"""Environment variable by which the processes of a command are found, in whichever group they are."""

PATIENCE = 1800.0
"""Seconds after which something hangs."""


class Command:
    """``clreg-study`` with some arguments, in a process group of its own; as a context manager it is killed at the end.

    Args:
        largest_file: bytes that it can write into one file, as where a quota or a disk is used up; None for no limit.

    Attributes:
        began: when, as in ``time.time()``.
        process: the driver.
    """

    def __init__(self, *arguments: object, largest_file: int | None = None) -> None:
        self.began = time.time()
        self._mark = secrets.token_hex(8)
        # files, since a process that is left over would keep a pipe open
        self._folder = tempfile.TemporaryDirectory()
        self._output, self._messages = (Path(self._folder.name, name) for name in ("output", "messages"))

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in the background
            if largest_file is not None:
                import resource

                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        with self._output.open("wb") as output, self._messages.open("wb") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "study", *map(str, arguments)],
                env={**os.environ, MARK: self._mark},
                stdout=output,
                stderr=messages,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.send_to_all(signal.SIGKILL)
        self.process.wait()
        self._folder.cleanup()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def code(self, seconds: float = PATIENCE) -> int:
        """The exit code, when it has ended; TimeoutError if it does not."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        raise TimeoutError(f"the command has not ended within {seconds:g} s: {self.said}")

    def interrupt(self) -> None:
        """Ctrl-C, which a terminal sends to the whole group."""
        self.send_to_all(signal.SIGINT)

    def send_to_all(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes of the local pool."""
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if "--multiprocessing-fork" in _command_line(child)]
        return []

    def processes(self) -> list[psutil.Process]:
        """Every process of this command that has not ended, W&B's services among them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def said(self) -> str:
        """Its messages, in one line."""
        return " ".join(self._messages.read_text(encoding="utf-8", errors="replace").split())


def wait_until(condition: Callable[[], object], otherwise: str, seconds: float = PATIENCE, every: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(every)


def _command_line(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
