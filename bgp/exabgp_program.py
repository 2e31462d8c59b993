"""ExaBGP's command line, with two of its habits mended; run as `python -m bgp.exabgp_program server FILE`.

1. It asks DNS for its own full name at every start (to print it). Without an answer that takes five seconds; and in a
   cluster the answer comes from a pod, over the very routes that are being restarted.
2. Its listener accepts one connection on each of its sockets, then hands them on one by one, and stops at the first
   from a stranger (NOTIFICATION 6/3). What it had accepted on the other sockets stays where it is, and a socket with
   such a connection is not looked at again: no peer can dial in there any more, and a peer that insists on its own
   connection (RFC 4271 6.8: the higher router ID wins) refuses ours for ever. So a stranger at the wrong moment took
   a ToR's session down for good. Seen with ExaBGP 5.0.15; here the listener looks again while anything is left.

Called by: `bgp.exabgp_process` alone.
"""

from __future__ import annotations

import socket

from exabgp.application.main import main as exabgp  # type: ignore[import-untyped]
from exabgp.reactor.listener import Listener  # type: ignore[import-untyped]


def mend() -> None:
    """Apply both, in this process."""
    socket.getfqdn = lambda name="": name or socket.gethostname()
    accept = Listener.incoming

    def incoming(listener: Listener) -> bool:
        return bool(accept(listener) or listener._accepted)

    Listener.incoming = incoming


if __name__ == "__main__":
    mend()
    exabgp()
