"""The program of the README works as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

from .daemon import OwnDaemon

HERE = Path(__file__).resolve().parents[1]


class Readme(unittest.TestCase):
    def test_the_first_program_is_short_and_runs(self) -> None:
        program = (HERE / "README.md").read_text().split("```python\n")[1].split("```")[0]
        self.assertLessEqual(len(program.splitlines()), 15)
        daemon = OwnDaemon()
        self.addCleanup(daemon.close)
        path = Path(daemon.directory.name).resolve() / "shared" / "hello.txt"
        path.write_text("hello, world\n")
        done = self.run_program(program, daemon.address, str(path))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"hello, world\n", b""))
        done = self.run_program(program, daemon.address, "/etc/hostname")
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"not allowed: permission_denied", done.stderr)

    def run_program(self, program: str, address: str, argument: str) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | {"INVOKED_ADDRESS": address, "PYTHONPATH": str(HERE / "src")}
        command = [sys.executable, "-c", program, argument]
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
