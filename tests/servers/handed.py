"""Says what was handed to it, as sd_listen_fds(3) has it."""

import fcntl
import json
import os
import socket

fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
handed = socket.socket(fileno=3)
print(
    json.dumps(
        {
            "variables": {name: os.environ[name] for name in sorted(os.environ) if name in ("LISTEN_FDS", "LISTEN_FDNAMES")},
            "is_for_this_process": os.environ["LISTEN_PID"] == str(os.getpid()),
            "further_fds": [fd for fd in fds if fd > 3 and str(fd) not in os.environ.get("INHERITED", "").split()],
            "listens": handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
            "type": handed.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
            "reuses_address": handed.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
            "blocks": not fcntl.fcntl(3, fcntl.F_GETFL) & os.O_NONBLOCK,
            "ends_with_exec": bool(fcntl.fcntl(3, fcntl.F_GETFD) & fcntl.FD_CLOEXEC),
        }
    )
)
