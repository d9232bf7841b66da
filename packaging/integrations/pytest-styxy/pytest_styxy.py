"""Ports for tests, leased from styxy: each is free and belongs to one test, whatever else runs on the machine."""

import json
import os
import socket
import subprocess
from contextlib import contextmanager

import pytest

__version__ = "2.0.0"

_start = {}


class StyxyError(Exception):
    """What kept styxy from leasing a port, in its own words."""


@pytest.fixture
def styxy_port(styxy_port_factory):
    """A port of this test's own, which is released when the test ends."""
    return styxy_port_factory()


@pytest.fixture
def styxy_port_factory():
    """A function that leases further ports for this test; its arguments are those of ``ports``."""
    with ports() as lease:
        yield lease


@contextmanager
def ports():
    """A function that leases ports until the block ends, for a fixture of any scope.

    ``lease(type="test", name=None, count=None, protocol=None, hold=None)`` returns a port or, with ``count``, a list of
    consecutive ones. The words are those of styxy-allocate(1).
    """
    lease_ids = []

    def lease(type="test", *, name=None, count=None, protocol=None, hold=None):
        __tracebackhide__ = True
        options = {"name": name, "count": count, "protocol": protocol, "hold": hold}
        given = [f"--{option}={value}" for option, value in options.items() if value is not None]
        while True:
            # Without --new, all tests that give the same name would share one lease.
            answer = _styxy("allocate", f"--owner=pid:{os.getpid()}", "--new", *given, "--", type)
            # Of a type that runs once, others may hold the lease, too.
            lease_ids.extend(answer.get("lease_ids") or [answer.get("holder_id") or answer["lease_id"]])
            granted = answer.get("ports") or [answer["port"]]
            is_for_any_server = answer["hold"] == "none" and answer["protocol"] != "udp" and not answer.get("existing")
            if not is_for_any_server or all(map(_is_clear, granted)):
                return answer["port"] if count is None else granted

    try:
        yield lease
    finally:
        if lease_ids:
            try:
                _styxy("release", "--yes", *lease_ids)
            except StyxyError:
                pass  # they end with this process


def pytest_configure(config):
    # Tests may change their folder and their environment.
    _start.update(cwd=str(config.rootpath), env=dict(os.environ))


def _is_clear(port):
    # A server that does not set SO_REUSEADDR is kept out by what an earlier one has left: connections in TIME_WAIT.
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _styxy(*arguments):
    __tracebackhide__ = True
    command = ["styxy", arguments[0], "--json", *arguments[1:]]
    pipe = subprocess.PIPE
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, encoding="utf-8", **_start)
    except OSError as error:
        advice = "install its package, or run `cargo install --locked --path .` in a checkout of styxy"
        raise StyxyError(f"styxy cannot be started ({error.strerror}): {advice}") from None
    if done.returncode:
        raise StyxyError(_words(done.stderr))
    return json.loads(done.stdout)


def _words(said):
    try:
        refusal = json.loads(said.splitlines()[-1])
        return "; ".join([refusal["error"], *refusal["suggestions"]])
    except (IndexError, KeyError, TypeError, ValueError):
        return said.strip()
