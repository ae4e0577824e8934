"""The largest resident set of this process since it was last reset; Linux only."""

import contextlib
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Forget the peak so far, where the system can (`clear_refs`, proc(5))."""
    with contextlib.suppress(OSError):  # the peak is then that of the whole run
        _CLEAR.write_text("5", encoding="ascii")


def peak_memory() -> int | None:
    """Bytes, mapped files included; None where the system does not say."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
