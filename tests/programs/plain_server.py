# python3 plain_server.py PORT
# socketserver.TCPServer as it is: allow_reuse_address is False, so the socket gets no SO_REUSEADDR.
import socketserver
import sys


class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nhello\n")


socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
