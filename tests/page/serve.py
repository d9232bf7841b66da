"""Starts a service with a socket for TCP, and again for each line that it reads: the socket stays, as systemd's does."""

import os
import socket
import subprocess
import sys

listener = socket.create_server(("127.0.0.1", 0), backlog=512)
os.dup2(listener.fileno(), 3)


def start():
    script = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=tcp exec "$0" daemon --log'
    service = subprocess.Popen(["sh", "-c", script, sys.argv[1]], pass_fds=[3], stdout=subprocess.PIPE)
    # It closes its standard output when it listens.
    service.stdout.read()
    print(listener.getsockname()[1], flush=True)
    return service


service = start()
for _ in sys.stdin:
    service.terminate()
    service.wait()
    service = start()
service.terminate()
service.wait()
