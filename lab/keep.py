"""Keeps one command running: starts it again when it ends, until told to stop.

What for: what a Deployment does for the operator, which by design ends itself when it loses its Lease.

Invariants: standard library only; SIGTERM goes on to the command and then ends this too; a command that dies young is
started again after a growing pause of at most five seconds.

Called by: fabric, as `python -m lab.keep COMMAND...`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

LONGEST_PAUSE_S = 5.0
YOUNG_S = 5.0


def main() -> None:
    """Run the command of the arguments for ever."""
    pause_s = 0.2
    while True:
        began_s = time.monotonic()
        with subprocess.Popen(sys.argv[1:]) as child:

            def stop(number: int, _frame: object, *, running: subprocess.Popen[bytes] = child) -> None:
                running.send_signal(number)
                running.wait()
                sys.exit(0)

            signal.signal(signal.SIGTERM, stop)
            code = child.wait()
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if time.monotonic() - began_s < YOUNG_S else 0.2
        print(f"event=ended code={code} again_in_s={pause_s}", flush=True)
        time.sleep(pause_s)


if __name__ == "__main__":
    main()
