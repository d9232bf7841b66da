"""Twenty clients of two users, and what goes wrong meanwhile; runs as root in a machine, see `run` beside it.

    soak.py SECONDS            prints a table, and what is wrong
    soak.py client KIND NAME SECONDS

A client writes a line to its log before and after each change, with the machine's monotonic clock. At the end the logs are
held against each other, against the leases that are there, and against the journal.
"""

import collections, datetime, glob, http.client, json, os, pwd, re, signal, socket, subprocess, sys, threading, time

LOGS = "/var/tmp/soak"
USERS = ["dev", "eve"]
# Ten for each user: the command, also as cron starts it; `styxy run`; busctl; curl.
KINDS = ["command", "command", "command", "cron", "cron", "run", "run", "busctl", "busctl", "curl"]
# How many leases a client keeps.
KEEP = 8
# Seconds after which a call counts as hung; a command ends after 25.
HUNG = 60
OBJECT = ["org.styxy.Styxy1", "/org/styxy/Styxy1", "org.styxy.Styxy1"]
RANGE = [20000, 20399]


class Failed(Exception):
    pass


def call(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HUNG)
    except subprocess.TimeoutExpired:
        raise Failed(f"hung: {command[0]}")
    if done.returncode:
        raise Failed((done.stderr or done.stdout or f"{command[0]}: exit code {done.returncode}").strip())
    return done.stdout


# ---- a client ------------------------------------------------------------------------------------------------------


class Command:
    def grant(self, name):
        lease = json.loads(call("styxy", "allocate", "dev", "--name", name, "--json"))
        return lease["port"], lease["lease_id"]

    def release(self, lease_id):
        call("styxy", "release", lease_id)


class Busctl:
    def call(self, *arguments):
        return json.loads(call("busctl", "--user", "--json=short", "call", *OBJECT, *arguments))["data"]

    def grant(self, name):
        return self.call("Allocate", "sa{sv}", "dev", "1", "service_name", "s", name)[:2]

    def release(self, lease_id):
        self.call("Release", "s", lease_id)


class Curl:
    def call(self, path, *options):
        socket = f"{os.environ['XDG_RUNTIME_DIR']}/styxy/http.sock"
        return json.loads(call("curl", "-sS", "--fail-with-body", "--unix-socket", socket, f"http://localhost{path}", *options))

    def grant(self, name):
        lease = self.call("/allocate", "-d", json.dumps({"service_type": "dev", "service_name": name}))
        return lease["port"], lease["lease_id"]

    def release(self, lease_id):
        self.call(f"/allocate/{lease_id}", "-X", "DELETE")


class Run:
    """The lease is that of a command, and ends with it."""

    def __init__(self):
        self.running = {}

    def grant(self, name):
        command = ["styxy", "run", "dev", "--name", name, "--json", "--", "cat"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = child.stderr.readline()
        try:
            lease = json.loads(said)
            port, lease_id = lease["port"], lease["lease_id"]
        except (ValueError, KeyError):
            said += child.communicate()[1]
            raise Failed(said.strip())
        self.running[lease_id] = child
        return port, lease_id

    def release(self, lease_id):
        child = self.running.pop(lease_id)
        child.communicate()
        if child.returncode:
            raise Failed(f"run: exit code {child.returncode}")


def client(kind, name, seconds):
    ways = {"command": Command, "cron": Command, "run": Run, "busctl": Busctl, "curl": Curl}
    way, owned, number, until = ways[kind](), [], 0, time.monotonic() + seconds
    log = open(f"{LOGS}/{name}", "a", buffering=1)

    def note(what, **more):
        log.write(json.dumps({"what": what, "at": time.monotonic(), **more}) + "\n")

    def release():
        lease_id = owned.pop(0)
        note("releasing", id=lease_id)
        try:
            way.release(lease_id)
            note("released", id=lease_id)
        except Failed as error:
            note("unreleased", id=lease_id, error=str(error))
            time.sleep(0.5)

    while time.monotonic() < until:
        # Fill up, then release two of three: leases of all ages.
        if len(owned) >= KEEP or (owned and number % 3 == 2):
            release()
        number += 1
        asked = f"{name}.{number}"
        try:
            port, lease_id = way.grant(asked)
            note("granted", id=lease_id, port=port, name=asked, kind=kind)
            owned.append(lease_id)
        except Failed as error:
            note("refused", name=asked, error=str(error))
            time.sleep(0.5)
    if kind == "run":
        while owned:
            release()


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def quietly(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def as_user(user, *command, has_session=True):
    entry = pwd.getpwnam(user)
    runtime = f"/run/user/{entry.pw_uid}"
    variables = [f"HOME={entry.pw_dir}", f"USER={user}", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
    if has_session:
        variables += [f"XDG_RUNTIME_DIR={runtime}", f"DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus"]
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    return ["setpriv", *ids, "env", "-i", "-C", entry.pw_dir, *variables, *command]


def services(user):
    """The processes of that user's service, however it was started."""
    uid, found = pwd.getpwnam(user).pw_uid, []
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{folder}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if os.stat(folder).st_uid == uid and words[0].endswith(b"styxy") and words[1] == b"daemon":
                found.append(int(folder[6:]))
        except (OSError, IndexError):
            pass
    return found


class Trouble:
    """One kind of trouble, every so many seconds until the end."""

    def __init__(self, what, every, until, do):
        self.what, self.count = what, 0
        self.thread = threading.Thread(target=self.go_on, args=(every, until, do))
        self.thread.start()

    def go_on(self, every, until, do):
        while time.monotonic() + every < until:
            time.sleep(every)
            self.count += do(self.count) or 0


def kill(_):
    killed = 0
    for user in USERS:
        for pid in services(user):
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    return killed


def restart_buses(_):
    return sum(quietly(*as_user(user, "systemctl", "--user", "restart", "dbus.service")).returncode == 0 for user in USERS)


JOURNALD = ["systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"]


def stop_journald(_):
    quietly("systemctl", "stop", *JOURNALD)
    time.sleep(20)
    quietly("systemctl", "start", *JOURNALD)
    return 1


# When a user had no session: who, from when until when.
AWAY = []


def log_out_and_in(turn):
    user = USERS[turn % 2]
    manager = f"user@{pwd.getpwnam(user).pw_uid}.service"
    since = time.monotonic()
    quietly("loginctl", "disable-linger", user)
    quietly("systemctl", "stop", manager)
    time.sleep(10)
    quietly("loginctl", "enable-linger", user)
    quietly("systemctl", "start", manager)
    eventually(f"the service of {user} is back", lambda: status(user)["running"])
    # By then the manager has the guards.
    AWAY.append((user, since, time.monotonic() + 3))
    return 1


# ---- what is left --------------------------------------------------------------------------------------------------


def eventually(what, condition, limit=300):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            if condition():
                return True
        except Failed:
            pass
        time.sleep(0.2)
    print(f"not within {limit} s: {what}")
    return False


def asked(user, *arguments):
    return json.loads(call(*as_user(user, *arguments)))


def status(user):
    return asked(user, "styxy", "status", "--json")


def manager_of(user):
    return int(call("systemctl", "show", "--value", "-p", "MainPID", f"user@{pwd.getpwnam(user).pw_uid}.service"))


def kept_by_manager(user):
    """The descriptors of the user's manager, while the service does not run."""
    call(*as_user(user, "systemctl", "--user", "stop", "styxy.service"))
    return descriptors(manager_of(user))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid):
    """Anonymous memory in KiB."""
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"RssAnon:\s+(\d+)", file.read())[1])


def bound(port):
    """Whether somebody has that port."""
    with socket.socket(socket.AF_INET6) as mine:
        try:
            mine.bind(("::", port))
        except OSError:
            return True
    return False


def load(user, pairs):
    """Grants and releases on one connection, then waits until all of it is in the journal."""
    call(*as_user(user, sys.executable, __file__, "load", str(pairs)))
    eventually(f"the events of {user} are in the journal", lambda: status(user)["audit_pending"] == 0)


def pairs_of_calls(count):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{os.environ['XDG_RUNTIME_DIR']}/styxy/http.sock")

    def ask(method, path, body=None):
        connection.request(method, path, body)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status >= 300:
            sys.exit(str(answer))
        return answer

    for _ in range(count):
        ask("DELETE", "/allocate/" + ask("POST", "/allocate", '{"service_type": "dev"}')["lease_id"])


def notes():
    """What the clients wrote, by user."""
    found = {user: [] for user in USERS}
    for path in glob.glob(f"{LOGS}/*-*"):
        with open(path) as file:
            found[os.path.basename(path).split("-")[0]] += [json.loads(line) for line in file]
    return found


class Account:
    """What was acknowledged to the clients of a user."""

    def __init__(self, lines):
        self.granted, self.releasing, self.released, self.unreleased = {}, {}, set(), set()
        self.unknown, self.errors = set(), collections.Counter()
        # By when another user had got the port while this one was logged out.
        self.taken = {}
        for line in sorted(lines, key=lambda line: line["at"]):
            what = line["what"]
            if what == "granted":
                self.granted[line["id"]] = line
            elif what == "releasing":
                self.releasing[line["id"]] = line["at"]
            elif what == "released":
                self.released.add(line["id"])
            elif what == "unreleased":
                self.unreleased.add(line["id"])
            else:
                self.unknown.add(line["name"])
            if "error" in line:
                self.errors[re.sub(r"[0-9a-f-]{36}|\d+", "N", line["error"].splitlines()[0])[:110]] += 1

    def kept(self):
        return {lease_id: line for lease_id, line in self.granted.items() if lease_id not in self.releasing}


def doubled(accounts):
    """Grants of a port that somebody held all the time from before the grant until after it; and those of them to
    somebody else while the holder was logged out, when nothing of a user is there to keep a port."""
    spans, found, excused = collections.defaultdict(list), [], []
    for user, account in accounts.items():
        for lease_id, line in account.granted.items():
            end = account.taken.get(lease_id, account.releasing.get(lease_id, float("inf")))
            spans[line["port"]].append((line["at"], end, user, lease_id))
    for port, of_port in spans.items():
        held = []
        for span in sorted(of_port):
            at, _, user, _ = span
            held = [other for other in held if other[1] > at]
            for other in held:
                is_away = any(who == other[2] != user and since < at < until for who, since, until in AWAY)
                (excused if is_away else found).append((port, other, span))
            held.append(span)
    return found, excused


def journal_of(user):
    """The events of a user, by state and number."""
    fields = "STYXY_SEQ,STYXY_STATE_ID,STYXY_ACTION,STYXY_LEASE_ID,STYXY_REASON,STYXY_TIME"
    uid = pwd.getpwnam(user).pw_uid
    out = call("journalctl", "-q", "-t", "styxy", f"_UID={uid}", "-o", "json", f"--output-fields={fields}")
    states = collections.defaultdict(dict)
    for event in map(json.loads, out.splitlines()):
        if "STYXY_SEQ" in event:
            states[event["STYXY_STATE_ID"]][int(event["STYXY_SEQ"])] = event
    return states


def taken_while_away(user, account):
    """The leases of which another user's service got the port while the holder was logged out, and since when that was. The
    holder's service tells of it when it is back."""
    shift, found = time.time() - time.monotonic(), {}
    for events in journal_of(user).values():
        for event in events.values():
            lease_id = event.get("STYXY_LEASE_ID")
            if event.get("STYXY_REASON") != "taken" or lease_id not in account.granted:
                continue
            told = datetime.datetime.fromisoformat(event["STYXY_TIME"].replace("Z", "+00:00")).timestamp() - shift
            for who, since, until in AWAY:
                if who == user and account.granted[lease_id]["at"] < until and since < told < until + 15:
                    found[lease_id] = since
    return found


def main(seconds):
    os.makedirs(LOGS, exist_ok=True)
    os.chmod(LOGS, 0o1777)
    os.makedirs("/etc/styxy", exist_ok=True)
    with open("/etc/styxy/config.json", "w") as file:
        json.dump({"service_types": {"dev": {"port_range": RANGE}}}, file)
    before = {}
    for user in USERS:
        load(user, 10)
        before[user] = kept_by_manager(user)

    started = time.monotonic()
    clients = []
    for user in USERS:
        for number, kind in enumerate(KINDS):
            command = [sys.executable, __file__, "client", kind, f"{user}-{number}", str(seconds)]
            clients.append(subprocess.Popen(as_user(user, *command, has_session=kind != "cron")))
    until = started + seconds
    troubles = [
        Trouble("kill -9 of a service", 3, until, kill),
        Trouble("restarts of a bus", min(60, seconds / 3), until, restart_buses),
        Trouble("journald away for 20 s", seconds / 3 - 20 if seconds > 120 else seconds / 2, until - 20, stop_journald),
        Trouble("a user logged out for 10 s", min(70, seconds / 4), until - 10, log_out_and_in),
    ]
    for trouble in troubles:
        trouble.thread.join()
    failed_clients = sum(client.wait() != 0 for client in clients)

    written = notes()
    accounts = {user: Account(lines) for user, lines in written.items()}
    rows = [(trouble.what, trouble.count) for trouble in troubles]
    rows.append(("acknowledged grants", sum(len(a.granted) for a in accounts.values())))
    for kind in dict.fromkeys(KINDS):
        of_kind = sum(line["kind"] == kind for a in accounts.values() for line in a.granted.values())
        rows.append((f"  by {kind}", of_kind))
    rows.append(("acknowledged releases", sum(len(a.released) for a in accounts.values())))
    rows.append(("calls that failed", sum(a.errors.total() for a in accounts.values())))
    wrong = collections.Counter()
    wrong["clients that broke off"] = failed_clients
    wrong["calls that hung"] = sum(n for a in accounts.values() for error, n in a.errors.items() if error.startswith("hung"))
    wrong["troubles that were not made"] = sum(trouble.count == 0 for trouble in troubles)
    for user, account in accounts.items():
        eventually(f"the events of {user} are in the journal", lambda: status(user)["audit_pending"] == 0)
        account.taken = taken_while_away(user, account)
    rows.append(("leases of a user who was logged out, taken by the other", sum(len(a.taken) for a in accounts.values())))
    double, excused = doubled(accounts)
    rows.append(("ports of a user who was logged out, granted to the other", len(excused)))
    wrong["grants doubled, over both users"] = len(double)
    details = [f"doubled: {one}" for one in double[:5]]

    for user, account in accounts.items():
        wrong["services that do not answer"] += not eventually(
            f"the events of {user} are in the journal", lambda: status(user)["audit_pending"] == 0)
        # The ends of commands that ended while the service was dead.
        ended = set(account.releasing)
        of_commands = {i for i, line in account.granted.items() if line["kind"] == "run"} & ended

        def live():
            return {lease["lease_id"]: lease for lease in asked(user, "styxy", "list", "--json")["leases"]}

        eventually(f"the leases of commands of {user} have ended", lambda: not of_commands & set(live()), 60)
        there, kept = live(), account.kept()
        lost = {lease_id for lease_id, line in kept.items() if there.get(lease_id, {}).get("port") != line["port"]}
        lost -= set(account.taken)
        undone = (account.released & set(there)) - of_commands
        unsure = account.unreleased - of_commands
        leaked = {lease_id for lease_id, lease in there.items()
                  if lease_id not in kept and lease_id not in unsure and lease_id not in undone
                  and lease.get("service_name") not in account.unknown}
        rows.append((f"leases of {user} at the end", len(there)))
        rows.append(("  that a failed call has left", len(set(there) - set(kept))))

        states, last = journal_of(user), status(user)["seq"]
        wrong["registries too many"] += len(states) - 1
        events = max(states.values(), key=len) if states else {}
        gaps = set(range(1, last + 1)) - set(events)
        actions = collections.defaultdict(set)
        for event in events.values():
            actions[event.get("STYXY_LEASE_ID")].add((event["STYXY_ACTION"], event.get("STYXY_REASON")))
        # It was gone before its client released it.
        gone = {i for i in unsure if i not in there and ("release", "released") not in actions[i]} - set(account.taken)
        untold = [i for i in account.granted if not any(a == "allocate" for a, _ in actions[i])]
        untold += [i for i in account.released if len(actions[i]) < 2]
        rows.append((f"events of {user} in the journal", len(events)))
        wrong["acknowledged grants lost"] += len(lost | gone)
        wrong["acknowledged releases undone"] += len(undone)
        wrong["leases leaked"] += len(leaked)
        wrong["gaps in the audit"] += len(gaps)
        wrong["acknowledged changes without an event"] += len(untold)
        for what, ids in [("lost", lost | gone), ("undone", undone), ("leaked", leaked), ("gap", gaps), ("no event", untold)]:
            details += [f"{user}: {what}: {i} {account.granted.get(i)} {sorted(map(str, actions.get(i, [])))}" for i in list(ids)[:3]]

    for user in USERS:
        call(*as_user(user, "busctl", "--user", "call", *OBJECT, "ReleaseMatching", "a{sv}", "1", "service_type", "s", "dev"))
    ports = range(RANGE[0], RANGE[1] + 1)
    eventually("every port is free", lambda: not any(map(bound, ports)), 60)
    wrong["ports left bound"] = sum(map(bound, ports))
    for user in USERS:
        used = []
        for _ in range(3):
            load(user, 4000)
            pids = services(user)
            used.append((descriptors(pids[0]), memory(pids[0])))
        first, second, third = used
        wrong["services too many"] += len(pids) - 1
        rows.append((f"memory of {user}'s service after 4, 8 and 12 thousand pairs, KiB", " ".join(str(kib) for _, kib in used)))
        wrong["descriptors leaked"] += max(0, third[0] - first[0])
        eventually("the manager has closed what it kept", lambda: kept_by_manager(user) <= before[user], 30)
        wrong["descriptors left with a manager"] += max(0, kept_by_manager(user) - before[user])
        # What is lost with each pair is lost both times; below this it is what an allocator keeps.
        growth = min(second[1] - first[1], third[1] - second[1])
        wrong["memory leaked, KiB"] += growth if growth > 250 else 0

    print(f"{seconds} s, {len(clients)} clients, systemd {call('systemctl', '--version').split()[1]}, Linux {os.uname().release}")
    for what, count in [*rows, *wrong.items()]:
        print(f"{what:<65} {count:>15}")
    errors = sum((account.errors for account in accounts.values()), collections.Counter())
    print("The calls that failed:")
    for error, count in errors.most_common(15):
        print(f"{count:>6} {error}")
    for line in details:
        print(line)
    failed = sum(count != 0 for count in wrong.values())
    print(f"test result: {'FAILED' if failed else 'ok'}. {len(wrong) - failed} passed; {failed} failed; 0 ignored; 0 measured")
    return failed > 0


if __name__ == "__main__":
    if sys.argv[1] == "client":
        os.makedirs(folder := sys.argv[3], exist_ok=True)
        os.chdir(folder)
        client(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    elif sys.argv[1] == "load":
        pairs_of_calls(int(sys.argv[2]))
    else:
        sys.exit(main(float(sys.argv[1])))
