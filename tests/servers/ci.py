"""Runs the commands of a CI's file: each step in an environment of its own, as the CI's runner does."""

import os
import pathlib
import subprocess
import sys

import yaml

KEPT = ["HOME", "PATH", *(name for name in os.environ if name.startswith(("XDG_", "ONCE")))]


def run(script, *options, **variables):
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    subprocess.run(["bash", *options, "-c", script], env=kept | variables, check=True)


def github(file):
    variables = {"GITHUB_ENV": os.path.abspath("github-env")}
    for step in file["jobs"]["test"]["steps"]:
        if "run" in step:
            pathlib.Path(variables["GITHUB_ENV"]).touch()
            run(step["run"], "-e", **variables)
            with open(variables["GITHUB_ENV"]) as lines:
                variables |= dict(line.rstrip("\n").split("=", 1) for line in lines)


def gitlab(file):
    run("\n".join(file["test"]["script"]), "-e", "-o", "pipefail")
    run("\n".join(file["test"]["after_script"]))


with open(sys.argv[2]) as opened:
    globals()[sys.argv[1]](yaml.safe_load(opened))
