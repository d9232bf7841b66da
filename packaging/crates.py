"""The crates in the program, as cargo tells of them. For packaging/notices and packaging/sbom."""

import json
import re
import subprocess


def said(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def host():
    lines = said("rustc", "-vV").splitlines()
    return next(line.removeprefix("host: ") for line in lines if line.startswith("host: "))


def linked(target):
    """Of a build for TARGET: styxy, and what it depends on, but not what only its tests or its build need; each with the names
    and versions of its own dependencies."""
    metadata = json.loads(said("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    own = metadata["resolve"]["root"]
    seen, left = {}, [own]
    while left:
        node = left.pop()
        if node not in seen:
            deps = [dep["pkg"] for dep in nodes[node]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
            seen[node] = {**packages[node], "needs": sorted(name(packages[dep]) for dep in deps)}
            left += deps
    return seen.pop(own), sorted(seen.values(), key=name)


def licence(crate):
    """Before there were SPDX expressions, a slash was an OR."""
    return re.sub(" */ *", " OR ", crate["license"])


def name(crate):
    return f"{crate['name']} {crate['version']}"
