"""BullMQ on Redis with its global concurrency and its limiter: its worker and client, in one program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = str(Path(__file__).parent / "bullmq" / "limited.js")
COMMAND = ["node", PROGRAM, "work"]

if __name__ == "__main__":
    subprocess.run(["node", PROGRAM, sys.argv[1]], check=True)
