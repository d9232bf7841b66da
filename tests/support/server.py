# A server on PORT that listens after DELAY seconds. It answers with MARK and its folder, or else with the ports that it
# knows. Asked for /end, it ends with the status that is its argument.
import http.server, os, socket, sys, time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(int(sys.argv[1]))
        mark = os.environ.get("MARK")
        names = sorted(name for name in os.environ if name.endswith(("PORT", "PORT_1", "URL")))
        ports = " ".join(f"{name}={os.environ[name]}" for name in names)
        body = (f"{mark} of {os.getcwd()}" if mark else ports).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.HTTPServer):
    allow_reuse_address = True
    address_family = socket.AF_INET6 if "ADDRESS" in os.environ else socket.AF_INET


time.sleep(float(os.environ.get("DELAY", 0)))
server = Server((os.environ.get("ADDRESS", "127.0.0.1"), int(os.environ["PORT"])), Handler)
print("ready", flush=True)
server.serve_forever()
