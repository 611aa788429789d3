"""The daemon that tests call: one that is there, or one of a test's own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import unittest
from pathlib import Path


def address() -> str:
    """That of the daemon under --dev that whoever runs the tests has started."""
    found = os.environ.get("INVOKED_ADDRESS")
    if not found:
        raise unittest.SkipTest("needs a daemon: start `invoked --dev`, set INVOKED_ADDRESS to its address")
    return found


class OwnDaemon:
    """A daemon that a test may kill."""

    def __init__(self) -> None:
        program = os.environ.get("INVOKED_PROGRAM")
        if not program:
            raise unittest.SkipTest("needs daemons of its own: set INVOKED_PROGRAM to the path of `invoked`")
        self.program = program
        self.directory = tempfile.TemporaryDirectory(prefix="invoked-")
        self.address = f"unix:{self.directory.name}/run/test.sock"
        self.start()

    def start(self) -> None:
        shared = Path(self.directory.name) / "shared"
        shared.mkdir(exist_ok=True)
        environment = os.environ | {"XDG_CONFIG_HOME": f"{self.directory.name}/config"}
        for name in ("INVOKED_CONFIG", "INVOKED_ADDRESS"):
            environment.pop(name, None)
        command = [self.program, "--user", "--dev", "--log", "off", "--address", self.address]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=shared, env=environment, stdout=pipe, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert b"listening on" in line, line

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def close(self) -> None:
        self.kill()
        self.directory.cleanup()
