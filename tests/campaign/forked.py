"""Commands forked from a server that has imported the project: a start costs little, so that kills meet the work."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from ltx.cli.main import COMMANDS
from tests.support.processes import ROOT, environment

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    # Encodings of class names and of .npz files: another user cannot import them from a Python in somebody's home.
    [
        "encodings.utf_8_sig",
        "encodings.cp437",
        "tests.campaign.forked",
        *(c.function.partition(":")[0] for c in COMMANDS.values()),
    ]
)

PAUSE = 0.001
"""Seconds between two looks at a running command."""


def work(words: list[str], log: Path, variables: dict[str, str], prepare: Callable[[], None] | None) -> None:
    """Run `ltx WORDS` in a forked process, after `prepare`."""
    os.environ.update(environment(**variables))
    os.chdir(ROOT)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        with log.with_name(log.name + suffix).open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    importlib.import_module("torch").set_num_threads(1)
    main = importlib.import_module("ltx.cli.main").main
    if prepare is not None:
        prepare()
    main(words)


class Job:
    """A command in one process, or in several that know of each other as those of torchrun do.

    Args:
        words: the command line after `ltx`.
        log: files of this name with `.out` and `.err` appended collect what the command prints.
        ranks: number of processes.
        prepare: called in each process before the command.
    """

    def __init__(
        self, words: list[str], log: Path, ranks: int = 1, prepare: Callable[[], None] | None = None, **variables: str
    ) -> None:
        self.log = log
        self.processes: list[BaseProcess] = []
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "TORCHELASTIC_RUN_ID": "campaign"}
        place |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
        for rank in range(ranks):
            if ranks > 1:
                variables |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            self.processes.append(SERVER.Process(target=work, args=(words, log, variables, prepare)))
            self.processes[-1].start()

    def printed(self, suffix: str = ".err") -> str:
        file = self.log.with_name(self.log.name + suffix)
        return file.read_text() if file.exists() else ""

    def measure(self) -> int:
        """Wait for the end of the first process, and return its CPU time in nanoseconds."""
        total = 0
        while self.processes[0].is_alive():
            total = max(total, self._cpu_time())
            time.sleep(PAUSE)
        return total

    def kill_after(self, nanoseconds: float, signum: signal.Signals, ranks: list[int]) -> bool:
        """Send a signal to some of the processes once the first has used that much CPU time.

        Other than time, CPU time does not depend on the load of the machine.

        Returns:
            False if a process ended before.
        """
        while all(process.is_alive() for process in self.processes):
            if self._cpu_time() >= nanoseconds:
                for rank in ranks:
                    os.kill(self.processes[rank].pid or 0, signum)
                return True
            time.sleep(PAUSE)
        return False

    def end(self, seconds: float) -> tuple[int, str]:
        """Wait for the end, and return the exit status and standard error.

        When a process fails, the others are ended, as torchrun does.

        Raises:
            TimeoutError: a process was still running after these seconds; all are killed.
        """
        deadline = time.monotonic() + seconds
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes):
                self._end_the_others()
            if time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
                raise TimeoutError(f"still running after {seconds:.0f} s: {self.printed()[-1500:]}")
            time.sleep(PAUSE)
        return next((process.exitcode for process in self.processes if process.exitcode), 0), self.printed()

    def _cpu_time(self) -> int:
        try:
            return int(Path(f"/proc/{self.processes[0].pid}/schedstat").read_text().split()[0])
        except OSError:  # it has ended
            return 0

    def _end_the_others(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(5)
            process.kill()
            process.join()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
