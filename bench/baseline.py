"""Compares what a program counted with what it counted when the baseline was written.

    baseline.py compare BASELINE COUNTED   fails where an operation costs more than 5% more than it did
    baseline.py update BASELINE COUNTED        writes the baseline

COUNTED is what a benchmark's `--count --json` wrote. Where the kernel's release, the compiler and the driver are those of the baseline,
the library's figures are compared. Where one of them is another, the figures move by themselves; the library's divided by those of the
raw way beside it move much less, so these ratios are compared, and it is said. So are always those of a program
that says "by_ratio": its work comes when a camera has it, and how much of the kernel's falls to it differs from boot to boot (measured:
5%), alike for both ways. An operation that costs 5% less is told and is no failure.
"""

import json
import os
import sys

TOLERANCE = 0.05
UNITS = ("instructions", "system calls")
SAME = {"kernel": "the kernel", "compiler": "the compiler", "with": "the driver"}


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def figures(counted):
    """{"export: instructions": {"dmaflow": 4346.1, "raw": 4287.1}}: medians, the library's way and the one beside it."""
    found = {}
    for count in counted["counts"]:
        if count["unit"] in UNITS:
            found[f"{count['operation']}: {count['unit']}"] = {way["way"]: round(way["median"], 3) for way in count["ways"][:2]}
    return found


def ratio(ways):
    values = list(ways.values())
    return values[0] / values[1] if len(values) > 1 and values[1] else None


def renew(baseline):
    """"bench/baseline/fences-6.12.json" -> how to write it anew."""
    kernel = os.path.basename(baseline).removesuffix(".json").rpartition("-")[2]
    return f"Where this is meant to stay, renew the baseline and commit it: bench/gate --update-baseline {kernel}"


def shown(value):
    return f"{value:.4f}" if value < 10 else f"{value:.1f}"


def compare_one(name, old, new, by_ratio):
    """(whether it is too dear, what is to be said)."""
    before, after = (ratio(old), ratio(new)) if by_ratio else (next(iter(old.values())), next(iter(new.values())))
    if before is None or after is None:
        return False, f"{name}: not compared, for there is no raw code beside it and this is another kernel, compiler or driver"
    change = after / before - 1
    what = "the library's divided by raw code's" if by_ratio else "the library's"
    line = f"{name}: {what} {shown(before)} before, {shown(after)} now ({100 * change:+.1f}%)"
    if change > TOLERANCE:
        return True, f"DEARER  {line}"
    return False, f"NOTE    cheaper: {line}" if change < -TOLERANCE else ""


def compare(baseline, counted):
    """Says what changed; whether all is well."""
    then, now = load(baseline), load(counted)
    old, new = then["figures"], figures(now)
    differ = [f"{what} is {now.get(key) or 'none'}, not {then.get(key) or 'none'}" for key, what in SAME.items() if then.get(key) != now.get(key)]
    if differ:
        print(f"NOTE    {now['program']}: {'; '.join(differ)}: compared by the ratio of the library to raw code, not by the figures themselves.")
    by_ratio = bool(differ) or now.get("by_ratio", False)
    bad = cheaper = 0
    for name in old:
        if name not in new:
            print(f"GONE    {name}: it is in the baseline and was not counted")
            bad += 1
            continue
        is_dear, text = compare_one(name, old[name], new[name], by_ratio)
        bad += is_dear
        cheaper += text.startswith("NOTE")
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


def update(baseline, counted):
    now = load(counted)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(ways)}" for name, ways in figures(now).items())
    head = "".join(f" {json.dumps(key)}: {json.dumps(now[key])},\n" for key in ("program", *SAME))
    with open(baseline, "w", encoding="utf-8") as file:
        file.write("{\n" + head + ' "figures": {\n' + lines + "\n }\n}\n")


def main(arguments):
    if len(arguments) != 3 or arguments[0] not in ("compare", "update"):
        print(__doc__, file=sys.stderr)
        return 2
    command, baseline, counted = arguments
    try:
        if command == "update":
            update(baseline, counted)
            return 0
        return 0 if compare(baseline, counted) else 1
    except FileNotFoundError as error:
        missing = error.filename
        print(f"{missing} is not there: " + (renew(baseline) if missing == baseline else "the benchmark left no result"))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        print(f"{baseline} and {counted} cannot be compared: {error.__class__.__name__}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
