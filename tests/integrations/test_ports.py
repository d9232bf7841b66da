import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_styxy


def listed():
    return subprocess.run(["styxy", "list"], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def test_several_ports_are_consecutive(styxy_port_factory):
    first, second, third = styxy_port_factory(count=3)
    assert [second, third] == [first + 1, first + 2]
    assert len(styxy_port_factory(count=1)) == 1


def test_both_protocols_have_one_number(styxy_port_factory):
    port = styxy_port_factory(protocol="both")
    with socket.create_server(("", port)), socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("", port))


def test_one_name_is_no_reason_for_one_port(styxy_port, styxy_port_factory):
    assert len({styxy_port, styxy_port_factory(name="web"), styxy_port_factory(name="web")}) == 3


def test_threads_have_ports_of_their_own(styxy_port_factory):
    with ThreadPoolExecutor(8) as threads:
        ports = list(threads.map(lambda _: styxy_port_factory(), range(40)))
    assert len(set(ports)) == 40


def test_the_folder_and_the_environment_are_of_no_account(styxy_port_factory, monkeypatch, tmp_path):
    project = os.getcwd()
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as inner:
        for variable in list(os.environ):
            inner.delenv(variable)
        styxy_port_factory(name="here")
    line = next(line for line in listed().splitlines() if "here" in line)
    assert os.path.basename(project) in line


def test_a_port_without_a_guard_is_for_any_server(styxy_port_factory):
    with pytest_styxy.ports() as lease:
        left = lease()
        with socket.create_server(("127.0.0.1", left)) as server:
            client = socket.create_connection(("127.0.0.1", left))
            server.accept()[0].close()
            assert client.recv(1) == b""
            client.close()
    with socket.socket() as plain:
        plain.bind(("", styxy_port_factory(hold="none")))


def test_what_runs_once_stays_with_its_other_holders():
    other = ["styxy", "allocate", "ai", f"--owner=pid:{os.getppid()}", "--quiet"]
    port = int(subprocess.run(other, check=True, stdout=subprocess.PIPE).stdout)
    with pytest_styxy.ports() as lease:
        assert lease("ai") == port
    assert f"{port}/tcp" in listed()
    subprocess.run(["styxy", "release", str(port)], check=True)


def test_a_fixture_of_the_session_keeps_its_port(api_port):
    assert f"{api_port}/tcp" in listed()


def test_a_refusal_is_in_the_words_of_styxy(styxy_port_factory):
    with pytest.raises(pytest_styxy.StyxyError, match='did you mean "test"'):
        styxy_port_factory("tset")
    with pytest.raises(pytest_styxy.StyxyError, match="--count"):
        styxy_port_factory(count=0)
    with pytest.raises(pytest_styxy.StyxyError, match="of the 100 ports of test"):
        styxy_port_factory(count=101)
