"""Prints as JSON what bench/run used: the machine, the compiler, the library's commit, the versions of packages, the date.

    machine.py BUILD [--quick]
"""

import datetime
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGES = ("qemu-system-x86", "libdrm-dev", "libvulkan-dev", "libbenchmark-dev", "gnuplot-nox")


def said(*command):
    """The first line that a command prints; empty if it fails or does not exist."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return ""
    lines = done.stdout.decode(errors="replace").splitlines()
    return lines[0].strip() if lines and done.returncode == 0 else ""


def field(path, pattern):
    """The first group of the first match in a file; empty if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            match = re.search(pattern, file.read(), re.M)
    except OSError:
        return ""
    return match.group(1).strip().strip('"') if match else ""


def machine():
    memory = field("/proc/meminfo", r"^MemTotal:\s+(\d+) kB")
    return {
        "cpu": field("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or os.uname().machine,
        "processors": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory) // 1024 if memory else None,
        "system": field("/etc/os-release", r"^PRETTY_NAME=(.+)$"),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "load_before": os.getloadavg()[0],
    }


def library():
    commit = said("git", "rev-parse", "--short=12", "HEAD")
    return {
        "version": field(os.path.join(ROOT, "CMakeLists.txt"), r"^project\(dmaflow VERSION (\S+)"),
        "commit": commit or "unknown",
        "changed": bool(commit and said("git", "status", "--porcelain", "--untracked-files=no")),
    }


def versions():
    found = {}
    for package in PACKAGES:
        version = said("dpkg-query", "-W", "-f=${Version}", package)
        if version:
            found[package] = version
    return found


def main(build, *options):
    compiler = field(os.path.join(build, "CMakeCache.txt"), r"^CMAKE_CXX_COMPILER:\w+=(.+)$") or "c++"
    json.dump(
        {
            "what": "dmaflow's benchmarks",
            "quick": "--quick" in options,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "library": library(),
            "machine": machine(),
            "compiler": said(compiler, "--version"),
            "build": field(os.path.join(build, "CMakeCache.txt"), r"^CMAKE_BUILD_TYPE:\w+=(.+)$"),
            "versions": versions(),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
