"""What callgrind counted of bench/loop, for each frame, as a table and as a part of the report.

    callgrind.py PROFILE [FILE]        FILE: the part, as JSON

A profile's lines (https://valgrind.org/docs/manual/cl-format.html): fn= begins what was spent in a function, each line a place and its
cost; after calls= comes one line with what the called function cost, with all that it called. Names are given once, with a number.
"""

import json
import re
import sys

LIBRARY = "dmaflow::Pipeline::step("
BY_HAND = "raw::loop("
FRAME = "dmaflow::HoldSet::lend("  # once for each
MOST = 25  # functions shown one by one


def read(path):
    """Of each function: its own cost, what it called, and how often it was called."""
    names, own, called, calls = {}, {}, {}, {}
    function = target = None
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if match := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?$", line):
                kind, number, name = match.groups()
                name = names.setdefault(number, name)
                if kind == "fn":
                    function = name
                else:
                    target = name
            elif line.startswith("calls="):
                count = int(line[len("calls="):].split()[0])
                cost = int(next(file).split()[-1])
                calls[target] = calls.get(target, 0) + count
                if target != function:  # recursion: within it already
                    called.setdefault(function, {}).setdefault(target, 0)
                    called[function][target] += cost
            elif line.startswith(("jump=", "jcnd=")):
                next(file)  # from where, at no cost
            elif function and re.match(r"[+\-*\d]", line):
                own[function] = own.get(function, 0) + int(line.split()[-1])
    return own, called, calls


def whole(name, own, called):
    return own.get(name, 0) + sum(called.get(name, {}).values())


def short(name):
    """Without its parameters, and without what is between < and >."""
    name = re.sub(r"\(.*", "", name)
    while "<" in name:
        cut = re.sub(r"<[^<>]*>", "", name)
        if cut == name:
            break
        name = cut
    return name.removeprefix("dmaflow::")


def main(profile, result=None):
    own, called, calls = read(profile)
    names = set(own) | set(called)
    found = {begin: next((name for name in names if name.startswith(begin)), None) for begin in (LIBRARY, BY_HAND, FRAME)}
    for begin, name in found.items():
        if name is None:
            sys.exit(f"error: {profile} has no {begin}")
    step, loop = found[LIBRARY], found[BY_HAND]
    # As many for each, for the two run to the same frame.
    frames = calls[found[FRAME]]
    ours, its = whole(step, own, called) / frames, whole(loop, own, called) / frames
    # Only what the two do is counted, so of the library's functions all is the library's.
    where = sorted(((cost / frames, short(name)) for name, cost in own.items() if "dmaflow::" in name), reverse=True)
    where, others = where[:MOST], where[MOST:]
    where.append((sum(cost for cost, _ in others), f"{len(others)} others of the library"))
    where.append((ours - sum(cost for cost, _ in where), "libc, libstdc++"))
    print(f"instructions in user space, a frame: dmaflow {ours:.0f}, raw loop {its:.0f}\n")
    for cost, name in where:
        print(f"{cost:8.0f}  {name}")
    if result is None:
        return
    part = {
        "name": "loop, user space",
        "question": [1],
        "title": "Instructions in user space: camera to display",
        "taken": "By callgrind, in the lab under -icount: instructions of the process in user space only, libc's among them, from the first "
                 f"frame to the last, {frames} of each. What callgrind cannot see, the vDSO's, is not among them.",
        "tables": [
            {"title": "Instructions in user space for each frame", "gauge": "instructions", "columns": ["way", "instructions"],
             "rows": [["dmaflow", ours], ["raw loop", its]], "notes": ""},
            {"title": f"Where the library's are: the {MOST} dearest functions", "gauge": "instructions",
             "columns": ["function", "its own instructions a frame"], "rows": [[name, cost] for cost, name in where], "notes": ""},
        ],
        "plots": [],
    }
    with open(result, "w", encoding="utf-8") as file:
        json.dump(part, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
