"""Compares a program's counts with those in the baseline.

    baseline.py compare BASELINE COUNTED   fails if an operation costs more than 5% more than in the baseline
    baseline.py limits BASELINE COUNTED    fails if an operation exceeds its limit because of the library
    baseline.py update BASELINE COUNTED    writes the baseline

COUNTED is the file that a benchmark's `--count --json` wrote. If the kernel's release, the compiler and the driver are those of the
baseline, the library's figures are compared directly. If one of them differs, the figures change without a change of ours, and a note
says so. An operation then fails only if two measures agree that the library itself costs more: its figure divided by that of the raw way
next to it (constant if everything becomes slower by the same factor), and its figure minus that of the raw way (constant if only the
kernel changes, which both ways call). Code added to the library raises both by the same part of its figure. For a program with
"by_ratio" only the first measure counts: a camera decides when it has work, and the kernel's part differs from boot to boot (measured:
5%), equally for both ways. An operation that costs 5% less is reported, but is not a failure.

A limit applies to the library's figure divided by raw code's, so a kernel with cheaper calls can exceed it without a change of ours.
`limits` accepts that if the kernel, the compiler or the driver differs from the baseline's and the library's figure minus raw code's is
at most a tenth higher than in the baseline.
"""

import json
import os
import sys

TOLERANCE = 0.05
OWN_TOLERANCE = 0.1  # for the library's own part, if the compiler differs
UNITS = ("instructions", "system calls")
SAME = {"kernel": "the kernel", "compiler": "the compiler", "with": "the driver"}


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def figures(counted):
    """{"export: instructions": {"dmaflow": 4346.1, "raw": 4287.1}}: medians of the library's way and of the second one."""
    found = {}
    for count in counted["counts"]:
        if count["unit"] in UNITS:
            found[f"{count['operation']}: {count['unit']}"] = {way["way"]: round(way["median"], 3) for way in count["ways"][:2]}
    return found


def ratio(ways):
    values = list(ways.values())
    return values[0] / values[1] if len(values) > 1 and values[1] else None


def renew(baseline):
    """"bench/baseline/fences-6.12.json" -> how to renew it."""
    kernel = os.path.basename(baseline).removesuffix(".json").rpartition("-")[2]
    return f"Where this is meant to stay, renew the baseline and commit it: bench/gate --update-baseline {kernel}"


def shown(value):
    return f"{value:.4f}" if value < 10 else f"{value:.1f}"


def difference(ways):
    values = list(ways.values())
    return values[0] - values[1]


def compare_one(name, old, new, by_ratio, elsewhere):
    """Returns (whether it costs too much, the text to print)."""
    ours = next(iter(new.values()))
    before, after = (ratio(old), ratio(new)) if by_ratio or elsewhere else (next(iter(old.values())), ours)
    if before is None or after is None:
        return False, f"NOTE    {name}: not compared: there is no raw code beside it, and the kernel, the compiler or the driver is another"
    change = after / before - 1
    what = "the library's divided by raw code's" if by_ratio or elsewhere else "the library's"
    line = f"{name}: {what} {shown(before)} before, {shown(after)} now ({100 * change:+.1f}%)"
    if change > TOLERANCE:
        if elsewhere and difference(new) - difference(old) <= TOLERANCE * ours:
            return False, f"NOTE    {line}; the library's less raw code's {difference(old):.1f} before, {difference(new):.1f} now: the kernel's doing"
        return True, f"COSTLIER  {line}"
    return False, f"NOTE    cheaper: {line}" if change < -TOLERANCE else ""


def compare(baseline, counted):
    """Prints what changed. Returns whether nothing failed."""
    then, now = load(baseline), load(counted)
    old, new = then["figures"], figures(now)
    differ = differences(then, now)
    if differ:
        print(f"NOTE    {now['program']}: {'; '.join(differ)}: compared with raw code of the same run, not by the figures themselves.")
    bad = cheaper = 0
    for name in old:
        if name not in new:
            print(f"GONE    {name}: it is in the baseline and was not counted")
            bad += 1
            continue
        is_costlier, text = compare_one(name, old[name], new[name], now.get("by_ratio", False), bool(differ))
        bad += is_costlier
        cheaper += text.startswith("NOTE    cheaper")
        if text:
            print(text)
    for name in new.keys() - old.keys():
        print(f"NEW     {name}: it is not in the baseline")
        bad += 1
    print(f"{now['program']}: {len(old)} figures of the baseline, {bad} failed, {cheaper} cheaper by more than {100 * TOLERANCE:.0f}%")
    if bad:
        print(renew(baseline))
    elif cheaper:
        print(f"NOTE    that is good. {renew(baseline)}")
    return bad == 0


def differences(then, now):
    return [f"{what} is {now.get(key) or 'none'}, not {then.get(key) or 'none'}" for key, what in SAME.items() if then.get(key) != now.get(key)]


def limits(baseline, counted):
    """Prints which operations exceed their limits and why. Returns whether the library is the reason for none of them."""
    then, now = load(baseline), load(counted)
    differ, old, new = differences(then, now), then["figures"], figures(now)
    good = True
    for count in now["counts"]:
        name = f"{count['operation']}: {count['unit']}"
        if count["limit"] is None or ratio(new[name]) <= count["limit"]:
            continue
        own, before = difference(new[name]), difference(old[name]) if name in old else None
        excused = bool(differ) and before is not None and own <= before * (1 + OWN_TOLERANCE)
        good &= excused
        print(f"{'NOTE    ' if excused else 'OVER    '}{name}: {ratio(new[name]):.4f} of raw code, the limit is {count['limit']}; the library's less raw code's: "
              f"{own:.1f}, in the baseline {'none' if before is None else f'{before:.1f}'}" + (f" ({'; '.join(differ)})" if excused else ""))
    return good


def update(baseline, counted):
    now = load(counted)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(ways)}" for name, ways in figures(now).items())
    head = "".join(f" {json.dumps(key)}: {json.dumps(now[key])},\n" for key in ("program", *SAME))
    with open(baseline, "w", encoding="utf-8") as file:
        file.write("{\n" + head + ' "figures": {\n' + lines + "\n }\n}\n")


def main(arguments):
    if len(arguments) != 3 or arguments[0] not in ("compare", "limits", "update"):
        print(__doc__, file=sys.stderr)
        return 2
    command, baseline, counted = arguments
    try:
        if command == "update":
            update(baseline, counted)
            return 0
        return 0 if (compare if command == "compare" else limits)(baseline, counted) else 1
    except FileNotFoundError as error:
        missing = error.filename
        print(f"{missing} is not there: " + (renew(baseline) if missing == baseline else "the benchmark left no result"))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        print(f"{baseline} and {counted} cannot be compared: {error.__class__.__name__}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
