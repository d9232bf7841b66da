# python3 reuse_port_server.py PORT
# With SO_REUSEPORT and without SO_REUSEADDR: only sockets that have it, too, may share the port.
import http.server
import socket
import sys


class Server(http.server.HTTPServer):
    allow_reuse_address = False

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


Server(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
