"""Tests of the client; run `python3 -m unittest` in the directory above. Those that need a daemon say which."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
