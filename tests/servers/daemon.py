"""A server that goes into the background, as old ones do: the command ends at once, and it listens on."""

import http.server
import os
import sys

server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler)
if os.fork():
    sys.exit(0)
os.setsid()
with open("pid", "w") as file:
    file.write(str(os.getpid()))
server.serve_forever()
