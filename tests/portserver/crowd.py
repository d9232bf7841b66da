# Asks for ports as a test runner does: in REQUESTS short-lived processes, one after the other, each for itself. A port
# that two of them have at once is noticed by its file in FOLDER.

import os
import sys

import portpicker

address = os.environ["PORTSERVER_ADDRESS"]
folder, requests = sys.argv[1], int(sys.argv[2])


def ask():
    port = portpicker.get_port_from_port_server(address)
    assert port, "no answer"
    mark = os.path.join(folder, str(port))
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    assert portpicker.is_port_free(port), f"{port} is not free"
    os.unlink(mark)


for _ in range(requests):
    child = os.fork()
    if child == 0:
        ask()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
