"""One cell of the matrix, run as root where the desk is to be: makes a user who sits at that desk, and runs a verb as them.

    cell.py '{"number": 7, "bus": "wrong", "login": "session", "home": "odd", "runtime": "good", "verb": "run"}'

Prints what came of it as JSON: what was odd, the exit code, milliseconds, stdout, stderr.
"""

import collections, json, os, pwd, socket, subprocess, sys, time

# Seconds; more than any command may take.
PATIENCE = 60


def main():
    if sys.argv[1] == "inside":
        return inside(json.loads(sys.argv[2]))
    if sys.argv[1] == "dying-bus":
        return dying_bus(sys.argv[2])
    print(json.dumps(desk(json.loads(sys.argv[1]))))


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL, **options)


def user(name):
    """The user's passwd entry; a new user if need be."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        run("useradd", "--create-home", "--shell", "/bin/bash", name)
        return pwd.getpwnam(name)


def nobody(uid):
    """Somebody of whom passwd knows nothing, as in `docker run --user`."""
    return collections.namedtuple("Entry", "pw_name pw_uid pw_gid")(str(uid), uid, uid)


# As in a container: no manager, and a network of its own.
CONTAINER = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
             'ip link set lo up && mount -t tmpfs tmpfs /run && exec "$@"', "sh"]


def linger(entry):
    run("loginctl", "enable-linger", entry.pw_name)
    run("systemctl", "start", f"user@{entry.pw_uid}.service")


def own_folder(entry, path):
    os.makedirs(path, exist_ok=True)
    os.chown(path, entry.pw_uid, entry.pw_gid)
    os.chmod(path, 0o700)
    return path


def set_kernel(setting):
    # What an earlier cell has set must not count.
    allowed = ["user.max_user_namespaces=10000", "kernel.unprivileged_userns_clone=1"]
    run("sysctl", "--quiet", "--write", *allowed, setting)


def desk(cell):
    if cell.get("setting"):
        set_kernel(cell["setting"])
    number, login, odd = cell["number"], cell["login"], []
    # dbus-daemon starts for nobody else.
    is_known = login != "container" or cell["bus"] == "user"
    me = user(f"desk{number}") if is_known else nobody(60000 + number)
    own, runtime = f"/home/desk{number}", f"/run/user/{me.pw_uid}"
    own_folder(me, own)
    has_manager = login in ("session", "linger")
    if not has_manager:
        runtime = own_folder(me, f"{own}/runtime")
    elif login == "linger":
        linger(me)
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SHELL": "/bin/bash"}
    env |= {"USER": me.pw_name, "LOGNAME": me.pw_name}

    def some(name, values, turn):
        env[name] = values[turn % len(values)]
        odd.append(f"{name}={env[name]}".replace("long" * 40, "long..."))

    if cell["home"] == "good":
        env["HOME"] = own
    elif cell["home"] == "odd":
        some("HOME", ["/", "/nonexistent", "home", ""], number)
    if cell["runtime"] == "good":
        env["XDG_RUNTIME_DIR"] = runtime
    elif cell["runtime"] == "odd":
        long = own_folder(me, f"{own}/{'long' * 40}")
        some("XDG_RUNTIME_DIR", [f"{runtime}/snap.code", "/etc", "/etc/passwd", long, "run"], number // 2)

    bus, wrapper = cell["bus"], []
    if bus == "user" and not has_manager:
        wrapper = ["dbus-run-session", "--"]
    elif bus == "user":
        env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    elif bus == "wrong":
        other = user("other")
        linger(other)
        address = [f"/run/user/{other.pw_uid}/bus", "/run/user/4242/bus", "/etc/passwd"]
        some("DBUS_SESSION_BUS_ADDRESS", [f"unix:path={path}" for path in address] + ["nonsense"], number // 3)
    elif bus == "dying":
        path = f"{own}/dying-bus"
        env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={path}"
        start = ["setpriv", f"--reuid={me.pw_uid}", f"--regid={me.pw_gid}", "--clear-groups"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([*start, sys.executable, __file__, "dying-bus", path], start_new_session=True, **quiet)
        while not os.path.exists(path):
            time.sleep(0.02)

    task = {"own": own, "verb": cell["verb"], "result": f"{own}/result", "env": env, "mask": bus == "none",
            "manager": runtime if has_manager else None, "has_bus": bool(wrapper)}
    command = [*wrapper, sys.executable, __file__, "inside", json.dumps(task)]
    if login == "session":
        run("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--property=PAMName=login",
            f"--property=User={me.pw_name}", *command)
    else:
        run(*(CONTAINER if login == "container" else []), "setpriv", f"--reuid={me.pw_uid}", f"--regid={me.pw_gid}",
            "--clear-groups", "env", "-i", f"PATH={env['PATH']}", *command, cwd="/")
    with open(task["result"]) as result:
        return json.load(result) | {"odd": " ".join(odd)}


def inside(task):
    """The same, as the user, in the session if there is one."""
    project = f"{task['own']}/project"
    os.makedirs(project, exist_ok=True)
    os.chdir(project)
    manager, env = task["manager"], task["env"]
    if task["has_bus"]:
        env["DBUS_SESSION_BUS_ADDRESS"] = os.environ["DBUS_SESSION_BUS_ADDRESS"]
    if task["mask"] and manager:
        units = ["dbus.socket", "dbus.service", "dbus-broker.service"]
        mask = ["systemctl", "--user", "--runtime", "--now", "--quiet", "mask", *units]
        run(*mask, env=os.environ | {"XDG_RUNTIME_DIR": manager})

    def styxy(*arguments):
        started = time.monotonic()
        try:
            done = subprocess.run(["styxy", *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=PATIENCE)
            code, said = done.returncode, (done.stdout, done.stderr)
        except subprocess.TimeoutExpired as late:
            code, said = 124, [(words or b"").decode() for words in (late.stdout, late.stderr)]
        return {"code": code, "milliseconds": round((time.monotonic() - started) * 1000), "stdout": said[0],
                "stderr": said[1]}

    verb = task["verb"]
    if verb == "allocate":
        result = styxy("allocate", "dev")
    elif verb == "run":
        result = styxy("run", "dev", "--", "sh", "-c", "echo $PORT")
    elif verb == "release":
        # Two commands find one service.
        result = styxy("allocate", "dev")
        if result["code"] == 0:
            result = styxy("release", result["stdout"].strip())
    else:
        result = styxy(verb)
    with open(task["result"], "w") as file:
        json.dump(result, file)


def dying_bus(path):
    """Hangs up on whoever speaks to it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        peer, _ = listener.accept()
        peer.recv(1)
        peer.close()


main()
