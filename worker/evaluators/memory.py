"""Peak memory of one ONNX model, measured in a process of its own: this file, run as a script.

What counts is how far the resident set grows over the process with the runtime imported and nothing loaded, while
the session is made and one batch of 32 rows runs. In the run child itself the figure would drown in torch.
"""

import json
import subprocess
import sys
from pathlib import Path


def peak_memory(model: Path, rows: int = 32, tokens: int = 64, timeout: float = 120.0) -> int | None:
    """Bytes; None when it cannot be measured here (no /proc, no memory for it)."""
    command = [sys.executable, "-I", __file__, str(model), str(rows), str(tokens)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=True)
        return int(json.loads(done.stdout)["bytes"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def _resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes. (ru_maxrss would include the parent's, inherited through fork.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} here")


def _main(model: str, rows: int, tokens: int) -> None:
    import numpy as np
    import onnxruntime

    before = _resident("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    ids = np.full((rows, tokens), 5, dtype=np.int64)
    given = {i.name: np.ones_like(ids) if i.name == "attention_mask" else np.zeros_like(ids) for i in session.get_inputs()}
    session.run(None, {**given, "input_ids": ids})
    sys.stdout.write(json.dumps({"bytes": max(0, _resident("VmHWM") - before)}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
