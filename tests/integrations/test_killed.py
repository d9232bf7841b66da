import json
import os
import signal
import subprocess
from pathlib import Path


def test_is_killed(styxy_port_factory):
    styxy_port_factory(count=5)
    listed = subprocess.run(["styxy", "list", "--json"], check=True, stdout=subprocess.PIPE)
    Path("leases").write_text(str(len(json.loads(listed.stdout)["leases"])))
    os.kill(os.getpid(), signal.SIGKILL)
