import socket
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(1000))
def test_nobody_else_has_this_port(number, styxy_port):
    mine = Path(f"port-{styxy_port}")
    mine.touch(exist_ok=False)
    with socket.create_server(("", styxy_port)):
        mine.unlink()
