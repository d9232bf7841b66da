"""A check that only makes sense on dbus-broker, as a user whose session has it. Says what is wrong, and exits with 1.

    broker.py watchers | subscribers | descriptors | doctor | masked
"""

import json, os, signal, socket, struct, subprocess, sys, tempfile, time

NAME, PATH = "org.styxy.Styxy1", "/org/styxy/Styxy1"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
MATCH = f"type='signal',sender='{NAME}',path='{PATH}',interface='{NAME}'"

# Those that do not read.
CROWD = 50
# Grants, each with its release. All their signals are more than the bus keeps for a user.
GRANTS = 3000
# Seconds; more than anything here takes.
PATIENCE = 120


def pad(data, to):
    return data + b"\0" * (-len(data) % to)


def text(words):
    return struct.pack("<I", len(words)) + words.encode() + b"\0"


class Bus:
    """A connection to the session bus that has not negotiated descriptors."""

    def __init__(self):
        self.socket, self.serial = socket.socket(socket.AF_UNIX), 0
        self.socket.settimeout(PATIENCE)
        self.socket.connect(os.environ["XDG_RUNTIME_DIR"] + "/bus")
        self.socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert self.socket.recv(1000).startswith(b"OK")
        self.socket.sendall(b"BEGIN\r\n")
        self.call(BUS, BUS_PATH, BUS, "Hello")

    def call(self, destination, path, interface, member, signature="", body=b""):
        """The body of the reply."""
        self.serial += 1
        fields = b""
        for code, kind, value in [(1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", destination)]:
            fields = pad(fields, 8) + bytes([code, 1]) + kind.encode() + b"\0" + text(value)
        if signature:
            fields = pad(fields, 8) + bytes([8, 1]) + b"g\0" + bytes([len(signature)]) + signature.encode() + b"\0"
        head = struct.pack("<BBBBIII", ord("l"), 1, 0, 1, len(body), self.serial, len(fields))
        self.socket.sendall(pad(head + fields, 8) + body)
        while True:
            kind, fields, body = self.message()
            reply_serial = fields.find(b"\x05\x01u\0")
            if kind not in (2, 3) or reply_serial < 0:
                continue
            if struct.unpack_from("<I", fields, reply_serial + 4)[0] == self.serial:
                assert kind == 2, body
                return body

    def message(self):
        _, kind, _, _, length, _, fields = struct.unpack("<BBBBIII", self.take(16))
        return kind, self.take(fields + -fields % 8), self.take(length)

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                # As every client does; until then dbus-broker keeps its name.
                self.socket.close()
                raise ConnectionError("the bus has hung up")
            data += more
        return data

    def allocate(self, method="Allocate"):
        """A lease id."""
        # An empty a{sv}; its entries would begin at the next multiple of eight.
        body = pad(pad(text("dev"), 4) + struct.pack("<I", 0), 8)
        reply = self.call(NAME, PATH, NAME, method, "sa{sv}", body)
        length = struct.unpack_from("<I", reply, 4)[0]
        return reply[8:8 + length].decode()

    def release(self, lease_id):
        self.call(NAME, PATH, NAME, "Release", "s", text(lease_id))


def styxy(*arguments):
    done = subprocess.run(["styxy", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def systemctl(*arguments):
    done = subprocess.run(["systemctl", "--user", "--quiet", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def service():
    return systemctl("show", "--value", "--property=MainPID", "styxy.service")


def leases():
    return {lease["lease_id"] for lease in json.loads(styxy("list", "--json")[1])["leases"]}


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.1)


def release():
    """Releases what an earlier check has left."""
    styxy("release", "--type", "dev", "--yes")
    assert not leases()


def burst():
    """Grants and releases; nobody who takes part is thrown off the bus. Two leases stay."""
    client, before = Bus(), service()
    for number in range(GRANTS):
        try:
            client.release(client.allocate())
        except ConnectionError:
            sys.exit(f"the client was thrown off the bus by grant {number}")
    client.allocate(), client.allocate()
    assert service() == before, "the service was thrown off the bus"


class Watcher:
    def __init__(self, folder, number):
        with open(f"{folder}/{number}", "w") as output:
            self.process = subprocess.Popen(["styxy", "watch", "--json"], stdout=output, stderr=subprocess.STDOUT)
        self.output = open(output.name)
        self.leases, self.rest = set(), ""

    def see(self):
        """What it shows by now."""
        *lines, self.rest = (self.rest + self.output.read()).split("\n")
        for line in lines:
            assert line.startswith("{"), f"a watcher says: {line}"
            event = json.loads(line)
            if event["event"] == "granted":
                self.leases.add(event["lease_id"])
            elif event["event"] == "released":
                self.leases.discard(event["lease_id"])
        return self.leases


def watchers():
    """Watchers that are stopped, and go on."""
    client = Bus()
    with tempfile.TemporaryDirectory() as folder:
        crowd = [Watcher(folder, number) for number in range(CROWD)]
        seen = set()

        def all_watch():
            client.release(client.allocate())
            for watcher in crowd:
                watcher.see()
                if os.path.getsize(watcher.output.name):
                    seen.add(watcher)
            return len(seen) == CROWD

        try:
            until("they watch", all_watch)
            for watcher in crowd:
                watcher.process.send_signal(signal.SIGSTOP)
            burst()
            for watcher in crowd:
                watcher.process.send_signal(signal.SIGCONT)
            now = leases()
            assert len(now) == 2, now
            until("they have caught up", lambda: all([watcher.see() == now for watcher in crowd]))
            assert all(watcher.process.poll() is None for watcher in crowd), "a watcher has ended"
        finally:
            for watcher in crowd:
                watcher.process.kill()
                watcher.process.wait()


def subscribers():
    """Subscribers of any kind that do not read; those are told that they missed something."""
    crowd = [Bus() for _ in range(CROWD)]
    for one in crowd:
        one.call(BUS, BUS_PATH, BUS, "AddMatch", "s", text(MATCH))
    burst()
    for one in crowd:
        granted = 0
        while True:
            kind, fields, _ = one.message()
            granted += b"LeaseGranted\0" in fields
            if kind == 4 and b"ChangesMissed\0" in fields:
                break
        assert granted < GRANTS, granted


def descriptors():
    """A socket for a client that can be handed none: either it learns of its lease, or there is none."""
    try:
        Bus().allocate("AllocateSocket")
        sys.exit("it was handed a socket: this is no longer what it was")
    except ConnectionError:
        until("the lease is taken back", lambda: not leases())


def doctor():
    """Nothing is wrong here."""
    styxy("release", styxy("allocate", "dev")[1].strip())
    code, stdout, stderr = styxy("doctor", "--json")
    found = [one for one in json.loads(stdout)["findings"] if one["verdict"] in ("warning", "error")]
    assert (code, found, stderr) == (0, [], ""), (code, found, stderr)


def masked():
    """Units that are masked are named with the way out, by every verb."""
    units = ["styxy.service", "styxy.socket"]
    for names in [units[:1], units]:
        systemctl("mask", "--now", *names)
        try:
            code, stdout, _ = styxy("doctor", "--json")
            found = [one for one in json.loads(stdout)["findings"] if one["verdict"] == "error"]
            for name in names:
                ways = [one["remedy"] for one in found if one["message"] == f"{name} is masked"]
                assert len(ways) == 1 and f"systemctl --user unmask {name}" in ways[0], (name, found)
            assert code == 1, code
            for verb in ["allocate dev", "list", "status", "run dev -- true", "release 3000", "check 3000", "types"]:
                code, stdout, stderr = styxy(*verb.split())
                assert code == 3 and stdout == "", (verb, code, stdout)
                assert len(stderr.splitlines()) == 1, (verb, stderr)
                assert "styxy.service is masked: `systemctl --user unmask styxy.service`" in stderr, (verb, stderr)
        finally:
            systemctl("unmask", *names)
    assert styxy("doctor", "--fix")[0] == 0
    assert styxy("list")[0] == 0


if __name__ == "__main__":
    try:
        release()
        {"watchers": watchers, "subscribers": subscribers, "descriptors": descriptors, "doctor": doctor,
         "masked": masked}[sys.argv[1]]()
    except AssertionError as wrong:
        sys.exit(f"{wrong}")
