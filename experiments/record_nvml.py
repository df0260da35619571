"""Record the sensors of an NVIDIA board at 200 Hz, idle, under load and idle again, for tests without a board.

    python experiments/record_nvml.py [SECONDS [FILE]]

Writes experiments/measurements/nvml_<board>.jsonl unless told otherwise. `tests/fake_nvml.py` replays such a file.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from ecc.profiler.clock import HostClock
from ecc.profiler.meters.board import Board
from ecc.profiler.meters.load import keep_busy
from ecc.profiler.meters.recording import record_trace

DEVICE = "cuda"
MEASUREMENTS = Path(__file__).resolve().parent / "measurements"


def main(seconds: float, path: Path | None) -> None:
    board = Board.of(DEVICE)
    name = "-".join(str(board.facts().get("board", "board")).lower().split())
    file = path or MEASUREMENTS / f"nvml_{name}.jsonl"
    load = threading.Timer(seconds / 3, keep_busy(DEVICE), args=(seconds / 3,))
    load.start()
    lines = record_trace(DEVICE, seconds, file, board=board, clock=HostClock())
    load.join()
    print(f"{lines} lines in {file}")


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 30.0,
        Path(sys.argv[2]) if len(sys.argv) > 2 else None,
    )
