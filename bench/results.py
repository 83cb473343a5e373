"""Makes DIR/results.json from the files that the steps of bench/run left in DIR/steps.

    results.py DIR

Each step is a line of DIR/steps/steps.tsv: id, program, form, where, seconds, status, command. It left ID.json, whose format depends on
the form; ID.log, its output; ID.machine, where it ran. Results of the same program and form on different kernels are in one part.

A part is {"name", "question": [..], "title", "taken", "tables", "plots"} and may have "targets" and "summary". A program may
write parts itself (form "part"). For a step that failed, results.json has its error and whatever it wrote.
"""

import json
import os
import re
import statistics
import sys

QUESTIONS = {"fences": 5, "connector": 7, "gpu": 6, "loop": 1}
# The benchmarks of memory whose names begin so are about CPU access, all others about allocating and importing.
ACCESS = re.compile(r"(cpu|map|sync|read|write|access|kept|bandwidth)", re.I)
SUBJECTS = {1: "camera to display", 3: "allocation and import", 4: "CPU access", 5: "fences", 6: "the GPU stage", 7: "process events"}

COUNTED = (
    "Instructions of the {whose}, user and kernel together, in the lab under -icount, where the clock of CPU time counts them (the "
    "program checks that it does). Each way in batches, by turns, 41 times (camera to display: whole runs, by turns); the figure is the "
    "median for one operation, the spread is the distance between the quartiles."
)
TIMED = (
    "CPU time of the process by Google Benchmark, {repetitions} repetitions of each way, in random order within one run, in the lab. The "
    "figure is the median, the spread is the distance between the quartiles; ours/it is the library's median divided by the way's, in the "
    "plot with its range from quartile to quartile. Times are this machine's, and emulated: only the ratios say anything elsewhere."
)


# --- Results of the steps --------------------------------------------------------------------------------------------


class Step:
    def __init__(self, directory, line):
        self.id, self.program, self.form, self.where, self.seconds, self.status, self.command = line.rstrip("\n").split("\t")
        self.status = int(self.status)
        self.log = read(os.path.join(directory, self.id + ".log"))
        self.machine = read(os.path.join(directory, self.id + ".machine")).strip()
        self.data = None
        try:
            with open(os.path.join(directory, self.id + ".json"), encoding="utf-8") as file:
                self.data = json.load(file)
        except (OSError, ValueError):
            pass
        self.error = self.what_failed() if self.status or self.data is None else None

    def what_failed(self):
        """The failure as text. A program that left figures but returned status 1 found that they exceed its limit."""
        if self.form == "count" and self.status == 1 and self.data is not None:
            return "over its limit" + self.quoted(r"more than|ours/its")
        if self.status == 124:
            return "it took too long and was ended" + self.quoted(r"longer than")
        if not self.status:
            return "it left no result that can be read"
        return f"status {self.status}" + self.quoted(r"error|fail|not there|could not")

    def quoted(self, pattern):
        """The last lines of its output that match, or else its last lines."""
        lines = [" ".join(line.split()) for line in self.log.splitlines() if line.strip()]
        its = ([line for line in lines if re.search(pattern, line, re.I)] or lines)[-3:]
        return ": " + "; ".join(its) if its else ""

    def kernel(self):
        """The shortest unambiguous name: "6.12", "7.2", "host 6.18"."""
        release = re.match(r"\d+\.\d+", self.machine)
        name = release.group() if release else self.where
        return f"host {name}" if self.where == "host" else name

    def told(self):
        return {
            "id": self.id,
            "program": self.program,
            "form": self.form,
            "where": self.where,
            "kernel": self.machine,
            "command": self.command,
            "seconds": float(self.seconds),
            "status": self.status,
            "error": self.error,
        }


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def quartiles(values):
    ordered = sorted(values)
    count = len(ordered)
    return ordered[count // 4], statistics.median(ordered), ordered[count * 3 // 4]


def question_of(program, operation):
    if program == "memory":
        return 4 if ACCESS.match(operation) else 3
    return QUESTIONS.get(program, 1)


def by_question(program, operations):
    """The names of the operations, grouped by the question that they answer."""
    parted = {}
    for operation in operations:
        parted.setdefault(question_of(program, operation), []).append(operation)
    return sorted(parted.items())


# --- Ways side by side, one column group for each kernel --------------------------------------------------------------


class Ways:
    """figures[kernel][operation][way] = (first quartile, median, third quartile), the library's way first."""

    def __init__(self):
        self.figures = {}
        self.limits = {}

    def add(self, kernel, operation, way, figure):
        self.figures.setdefault(kernel, {}).setdefault(operation, {})[way] = figure

    def operations(self):
        return list(dict.fromkeys(name for kernel in self.figures.values() for name in kernel))

    def ways(self, operation):
        return list(dict.fromkeys(way for kernel in self.figures.values() for way in kernel.get(operation, {})))

    def table(self, title, gauge, unit, operations, scale=1.0):
        columns = ["operation", "way"]
        for kernel in self.figures:
            columns += [f"{kernel}: {unit}", "spread %", "ours/it"]
        rows = []
        for operation in operations:
            for index, way in enumerate(self.ways(operation)):
                row = [operation if index == 0 else "", way]
                for kernel in self.figures:
                    row += self.cells(kernel, operation, way, scale)
                rows.append(row)
        return {"title": title, "gauge": gauge, "columns": columns, "rows": rows, "notes": ""}

    def cells(self, kernel, operation, way, scale):
        ways = self.figures[kernel].get(operation, {})
        if way not in ways:
            return [None, None, None]
        first, median, third = ways[way]
        ratio = self.ratio(kernel, operation, way)
        return [median * scale, 100 * (third - first) / median if median else 0.0, ratio[1] if ratio else None]

    def ratio(self, kernel, operation, way=None):
        """The library's figure divided by the way's (by default raw's): low, median, high."""
        ways = self.figures[kernel].get(operation, {})
        names = list(ways)
        way = way or (names[1] if len(names) > 1 else None)
        if way is None or way == names[0] or not ways[way][0]:
            return None
        ours, its = ways[names[0]], ways[way]
        return ours[0] / its[2], ours[1] / its[1], ours[2] / its[0]

    def ratios(self, title, label, operations, with_spread):
        series = []
        for kernel in self.figures:
            points = []
            for operation in operations:
                ratio = self.ratio(kernel, operation)
                if ratio:
                    points.append([operation, ratio[1], ratio[0], ratio[2]] if with_spread else [operation, ratio[1]])
            series.append({"name": kernel, "points": points})
        limits = {self.limits.get(operation) for operation in operations} - {None}
        limit = limits.pop() if len(limits) == 1 else None
        return {"title": title, "x": "", "y": label, "log": "", "kind": "ratios", "limit": limit, "series": series}


# --- Instructions (--count --json) -----------------------------------------------------------------------------------


def count_parts(program, steps):
    units, whose, drivers = {}, "process", set()
    for step in steps:
        whose = "calling thread" if step.data["counted"] == "thread" else "process"
        drivers |= {step.data.get("with")} - {None, ""}
        for count in step.data["counts"]:
            ways = units.setdefault(count["unit"], Ways())
            for way in count["ways"]:
                ways.add(step.kernel(), count["operation"], way["way"], (way["first"], way["median"], way["third"]))
            if count["limit"]:
                ways.limits[count["operation"]] = count["limit"]
    taken = COUNTED.format(whose=whose)
    if drivers:
        taken += " The driver's own instructions are among them: " + ", ".join(sorted(drivers)) + "."
    if "CPU ns" in units:
        taken += " CPU ns: CPU time of the process on this machine, user and kernel; the same runs, nothing emulated."
    parts = []
    operations = list(dict.fromkeys(name for ways in units.values() for name in ways.operations()))
    for question, names in by_question(program, operations):
        part = {"name": f"{program}, instructions", "question": [question], "title": f"Instructions: {SUBJECTS[question]}",
                "taken": taken, "tables": [], "plots": [], "targets": []}
        # Counts first, because they are the headline.
        for unit, ways in sorted(units.items(), key=lambda pair: pair[0] == "instructions"):
            its = [name for name in names if name in ways.operations()]
            if its:
                add_counted(part, unit, ways, its)
        if program == "loop" and "system calls" in units:
            add_calls(part, units["system calls"])
        if part["tables"]:
            part["tables"][0]["notes"] = left_out(steps)
        parts.append(part)
    return parts


def add_counted(part, unit, ways, names):
    gauge = {"instructions": "instructions", "CPU ns": "time"}.get(unit, "counts")
    each = "frame" if part["question"] == [1] else "operation"
    part["tables"].append(ways.table(f"{unit[0].upper()}{unit[1:]} for each {each}", gauge, unit, names))
    if unit == "instructions":
        part["plots"].append(ways.ratios("Instructions, the library's divided by raw code's", "ours / raw (1 is raw code's own cost)",
                                         names, False))
    for operation in names:
        limit = ways.limits.get(operation)
        for kernel in ways.figures:
            ratio = ways.ratio(kernel, operation)
            if limit and ratio:
                part["targets"].append({"text": target_text(part, operation, unit), "kernel": kernel, "limit": limit,
                                        "value": ratio[1], "met": round(ratio[1], 4) <= limit})


def add_calls(part, ways):
    """The headline: system calls a frame, counted in runs in which no frame is lost because the processor is busy."""
    for kernel, operations in ways.figures.items():
        ours, its = (figure[1] for figure in list(next(iter(operations.values())).values())[:2])
        part["targets"].append({"text": "system calls a frame, one camera and one display", "kernel": kernel, "limit": 4.0, "value": ours,
                                "met": round(ours, 2) <= 4.0})
        part.setdefault("summary", f"{ours:.2f} system calls a frame, a loop by hand {its:.2f} ({kernel})")


def left_out(steps):
    """What the machine lacks according to the programs, each once."""
    said = [(step.kernel(), line.strip()) for step in steps for line in step.log.splitlines() if line.startswith("left out: ")]
    lines = {}
    for kernel, line in said:
        lines.setdefault(line.removeprefix("left out: "), []).append(kernel)
    return "Left out: " + "; ".join(f"{line} ({', '.join(dict.fromkeys(kernels))})" for line, kernels in lines.items()) + ". " if lines else ""


def target_text(part, operation, unit):
    subject = SUBJECTS[part["question"][0]]
    return f"{operation if operation == subject else f'{subject}: {operation}'}, {unit} against raw code's"


# --- Times (Google Benchmark) ----------------------------------------------------------------------------------------


MODIFIERS = re.compile(r"/(real_time|process_time|manual_time|(iterations|repeats|threads|min_time|min_warmup_time):[^/]*)(?=/|$)")
TO_MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
SIZE = re.compile(r"^(\d+(?:\.\d+)?) ?(B|KiB|MiB|GiB)$")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
FRAMES = {"1080p": 4 * 1920 * 1080, "4K": 4 * 3840 * 2160}  # with 32 bits a pixel


# The keys that Google Benchmark itself writes for each repetition; every other number is a counter of the program.
OWN = {"family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations", "real_time", "cpu_time",
       "bytes_per_second", "items_per_second"}


def timed(data):
    """For each operation and way: the times in microseconds, the megabytes a second, and the counters, of each repetition."""
    times, rates, counters, errors = {}, {}, {}, []
    # They ran in random order. Sorted by registration, so that the library's way comes first.
    for one in sorted(data["benchmarks"], key=lambda one: (one.get("family_index", 0), one.get("per_family_instance_index", 0))):
        name = MODIFIERS.sub("", one.get("run_name", one["name"]))
        if one.get("error_occurred"):
            errors.append(f"{name}: {one.get('error_message', 'failed')}")
        if one.get("run_type") == "aggregate" or one.get("error_occurred"):
            continue
        operation, _, way = name.rpartition("/")
        clock = "real_time" if "/real_time" in one["name"] or "/manual_time" in one["name"] else "cpu_time"
        times.setdefault((operation or name, way), []).append(one[clock] * TO_MICROSECONDS[one["time_unit"]])
        if one.get("bytes_per_second"):
            rates.setdefault((operation or name, way), []).append(one["bytes_per_second"] / 1e6)
        for key, value in one.items():
            if key not in OWN and isinstance(value, (int, float)) and not isinstance(value, bool):
                counters.setdefault(key, {}).setdefault((operation or name, way), []).append(value)
    return times, rates, counters, errors


def time_parts(program, steps):
    times, rates, counters, errors, repetitions = Ways(), Ways(), {}, [], 0
    for step in steps:
        found, bandwidths, counted, failed = timed(step.data)
        errors += [f"{step.kernel()}: {error}" for error in failed]
        groups = [(times, found), (rates, bandwidths)]
        groups += [(counters.setdefault(key, Ways()), figures) for key, figures in counted.items()]
        for ways, figures in groups:
            for (operation, way), values in figures.items():
                ways.add(step.kernel(), operation, way, quartiles(values))
                repetitions = max(repetitions, len(values))
    parts = []
    for question, names in by_question(program, times.operations()):
        subject = SUBJECTS[question]
        part = {"name": f"{program}, times", "question": [question], "title": f"Times: {subject}",
                "taken": TIMED.format(repetitions=repetitions), "plots": [],
                "tables": [times.table("Time for one operation", "time", "us", names)]}
        part["tables"][0]["notes"] = left_out(steps) + "; ".join(errors)
        part["summary"] = time_summary(subject, times, names)
        its = [name for name in names if name in rates.operations()]
        if its:
            part["tables"].append(rates.table("Bytes moved", "time", "MB/s", its))
            part["plots"] += rate_plots(rates, its)
        part["tables"] += counter_tables(counters, names)
        part["plots"] += size_plots(times, names)
        sized = {name for name in names if size_of(name)[1]}
        rest = [name for name in names if name not in sized] if part["plots"] else names
        if rest:
            part["plots"].append(times.ratios("Time, the library's divided by raw code's", "ours / raw", rest, True))
        parts.append(part)
    return parts


def counter_tables(counters, names):
    """Tables of the program's other counters: parts of the time (their names end in _us), and counts."""
    tables = []
    for title, gauge, keys in (
        ("System calls and allocations for one operation", "counts", [key for key in counters if not key.endswith("_us")]),
        ("Where the time goes", "time", [key for key in counters if key.endswith("_us")]),
    ):
        its = [name for name in names if any(name in counters[key].operations() for key in keys)]
        kernels = list(dict.fromkeys(kernel for key in keys for kernel in counters[key].figures))
        columns = [f"{kernel}: {key.removesuffix('_us').replace('_', ' ')}{' us' if key.endswith('_us') else ''}"
                   for kernel in kernels for key in keys]
        rows = []
        for name in its:
            ways = list(dict.fromkeys(way for key in keys for way in counters[key].ways(name)))
            for index, way in enumerate(ways):
                cells = [counters[key].figures.get(kernel, {}).get(name, {}).get(way) for kernel in kernels for key in keys]
                rows.append([name if index == 0 else "", way] + [cell and cell[1] for cell in cells])
        if rows:
            tables.append({"title": title, "gauge": gauge, "columns": ["operation", "way", *columns], "rows": rows, "notes": ""})
    return tables


def time_summary(subject, times, names):
    ratios = sorted(ratio[1] for kernel in times.figures for name in names for ratio in [times.ratio(kernel, name)] if ratio)
    if not ratios:
        return ""
    return f"{subject} {statistics.median(ratios):.3f} of raw code's ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def size_of(name):
    """"allocate/heap/1 MiB" -> ("allocate/heap", bytes)."""
    words, size = [], None
    for word in name.split("/"):
        match = SIZE.match(word)
        if match or word in FRAMES:
            size = FRAMES.get(word) or float(match.group(1)) * UNITS[match.group(2)]
        else:
            words.append(word)
    return "/".join(words), size


def size_plots(times, names):
    """For operations that were timed at several sizes: the library's time against size, on the first kernel. Operations with one part
    more in their names (steps of other operations) have a separate plot."""
    kernel = next(iter(times.figures))
    groups = {}
    for name in names:
        what, size = size_of(name)
        family, _, rest = what.partition("/")
        ways = times.figures[kernel].get(name)
        if size is not None and ways:
            first, median, third = next(iter(ways.values()))
            groups.setdefault((family, rest.count("/")), {}).setdefault(rest or family, []).append([size, median, first, third])
    plots = []
    for (family, depth), series in groups.items():
        if len(series) > 12:  # too many to distinguish as lines: the largest size, as bars
            largest = max(points[-1][0] for points in series.values())
            bars = [[name, *point[1:]] for name, points in series.items() for point in points if point[0] == largest]
            plots.append({"title": f"{family}: time at {largest / (1 << 20):.3g} MiB ({kernel})", "x": "", "y": "time (us)", "log": "y",
                          "kind": "bars", "series": [{"name": "", "points": bars}]})
        elif max(len(points) for points in series.values()) > 1:
            title = f"{family}{', its steps' if depth else ''}: time by size ({kernel})"
            plots.append({"title": title, "x": "size (bytes)", "y": "time (us)", "log": "xy", "kind": "lines",
                          "series": [{"name": name, "points": points} for name, points in series.items()]})
    return plots


def rate_plots(rates, names):
    kernel = next(iter(rates.figures))
    ways = list(dict.fromkeys(way for name in names for way in rates.ways(name)))
    found = rates.figures[kernel]
    series = [{"name": way, "points": [[name, found[name][way][1]] for name in names if way in found.get(name, {})]} for way in ways]
    return [{"title": f"Bytes moved ({kernel})", "x": "", "y": "MB/s", "log": "", "kind": "bars", "series": series}]


# --- Storms of process events ----------------------------------------------------------------------------------------


STORMS = (
    "Read while they happen, by a process of its own; all readers by turns in one run, {runs} runs, medians with the least and the most. "
    "System calls of the library are counted at its seam, of forkstat by strace in a run of its own. The lost are the kernel's count; "
    "that the library told as many is checked in every run. CPU time is the reader's, user and system: this machine's."
)


def storm_name(row):
    if "receive_buffer" not in row:
        return row["storm"]
    size = row["receive_buffer"]
    return f"{row['storm']}, {size >> 20} MiB" if size >= 1 << 20 else f"{row['storm']}, {size >> 10} KiB"


def storm_parts(_program, steps):
    part = {"name": "connector, storms", "question": [7], "title": "Storms of process events", "tables": [], "plots": []}
    part["taken"] = STORMS.format(runs=max(row["runs"] for step in steps for row in step.data if row["storm"] != "a deep queue"))
    for step in steps:
        deep = [row for row in step.data if row["storm"] == "a deep queue"]
        rest = [row for row in step.data if row["storm"] != "a deep queue"]
        part["tables"].append(deep_queue(step.kernel(), deep))
        part["tables"] += storm_tables(step.kernel(), rest)
        if deep:
            points = [[row["reader"], *spread(row["events_per_second"])] for row in deep]
            part["plots"].append({"title": f"A deep queue: events read in a second of CPU time ({step.kernel()})", "x": "",
                                  "y": "events/s", "log": "", "kind": "bars", "series": [{"name": "events/s", "points": points}]})
        part["plots"] += storm_plots(step.kernel(), rest)
    ours = [row for step in steps for row in step.data if row["reader"] == "dmaflow" and row["storm"] == "a deep queue"]
    if ours:
        part["summary"] = f"process events {ours[0]['events_per_second']['median']:,.0f}/s".replace(",", " ")
    return [part]


def spread(figure):
    return figure["median"], figure["least"], figure["most"]


def deep_queue(kernel, rows):
    base = next((row["events_per_second"]["median"] for row in rows if row["reader"] == "dmaflow"), None)
    table = {"title": f"A deep queue ({kernel})", "gauge": "time", "columns": ["reader", "events/s", "least", "most", "ours/it"],
             "rows": [], "notes": "4096 events wait, and are read to the last. Events for each second of CPU time."}
    for row in rows:
        median, least, most = spread(row["events_per_second"])
        ratio = base / median if base and median and row["reader"] != "dmaflow" else None
        table["rows"].append([row["reader"], median, least, most, ratio])
    return table


def storm_tables(kernel, rows):
    counts = {"title": f"Storms ({kernel}): seen, lost, system calls", "gauge": "counts",
              "columns": ["storm, receive buffer", "reader", "events", "seen", "lost", "system calls an event"], "rows": [],
              "notes": "Forkstat does not tell how many it lost."}
    times = {"title": f"Storms ({kernel}): CPU time and events a second", "gauge": "time",
             "columns": ["storm, receive buffer", "reader", "CPU us an event", "least", "most", "events/s"], "rows": [], "notes": ""}
    before = None
    for row in rows:
        name = storm_name(row)
        shown = "" if name == before else name
        before = name
        lost = None if row["reader"] == "forkstat" else row["lost"]["median"]
        counts["rows"].append([shown, row["reader"], row["events"], row["seen"]["median"], lost, row["system_calls_per_event"]["median"]])
        times["rows"].append([shown, row["reader"], *spread(row["cpu_us_per_event"]), row["events_per_second"]["median"]])
    return [counts, times]


def storm_plots(kernel, rows):
    readers = list(dict.fromkeys(row["reader"] for row in rows))
    by_reader = {reader: [row for row in rows if row["reader"] == reader] for reader in readers}
    return [
        {"title": f"{title} ({kernel})", "x": "", "y": label, "log": "y", "kind": "bars",
         "series": [{"name": reader, "points": [[storm_name(row), row[key]["median"]] for row in its]}
                    for reader, its in by_reader.items()]}
        for key, title, label in (("system_calls_per_event", "Storms: system calls for each event", "system calls an event"),)
    ]


# --- A camera program, measured from outside -------------------------------------------------------------------------


CAMERA = (
    "By examples/dmaflow-measure, from outside the program: system calls by the kernel's tracepoints from the first frame that was captured "
    "on, heap allocations by a preloaded malloc, mappings and descriptors from /proc, the flips as the kernel delivers them. Latency is "
    "from the camera's time stamp to the flip; it is this machine's, and emulated. All in real time: on a busy machine frames are lost, and "
    "more calls fall to each of those that are left."
)
COUNTS = (
    ("system calls a captured frame", "syscalls_per_frame"),
    ("heap allocations a frame", "heap_allocations_per_frame"),
    ("imports after the start", "imports_after_start"),
    ("mmaps after the start", "mmaps_after_start"),
    ("bytes copied in user space", "bytes_copied"),
    ("calls that move a frame's bytes (read, write, splice)", "frame_data_calls"),
    ("mappings of frames in the process", "frame_mappings"),
    ("descriptors open", "descriptors"),
    ("more of them after the start", "descriptors_after_start"),
    ("frames captured", "frames_captured"),
    ("frames presented", "frames_presented"),
    ("frames dropped", "frames_dropped"),
)
CAMERA_LIMITS = (
    ("system calls a captured frame, in real time", "syscalls_per_frame", 5.0),
    ("heap allocations a frame", "heap_allocations_per_frame", 0.0),
    ("imports after the start", "imports_after_start", 0.0),
    ("bytes copied in user space", "bytes_copied", 0.0),
    ("descriptors more after the start", "descriptors_after_start", 0.0),
)


def camera_parts(program, steps):
    by_gpu = program == "stages"
    part = {"name": program, "question": [6] if by_gpu else [1], "taken": CAMERA, "tables": [], "plots": [], "targets": [],
            "title": "Camera, GPU, display: each stage" if by_gpu else "Camera to display: counted from outside"}
    names = [f"{step.kernel()}, {driver(step.data.get('display'))}" for step in steps]
    rows = [[text] + [step.data.get(key) for step in steps] for text, key in COUNTS]
    part["tables"].append({"title": "Counts", "gauge": "counts", "columns": ["", *names], "rows": rows,
                           "notes": " ".join(f"{name}: {described(step.data)}." for name, step in zip(names, steps))})
    part["tables"].append(latency(names, steps))
    part["tables"].append(stages(names, steps))
    if by_gpu:
        part["tables"][0]["notes"] += " The software GPU allocates, maps and calls on its own account; this is the whole process."
        part["plots"].append(stage_plot(names, steps))
        return [part]
    for step in steps:
        for text, key, limit in CAMERA_LIMITS:
            value = step.data.get(key)
            if value is not None:
                part["targets"].append({"text": text, "kernel": step.kernel(), "limit": limit, "value": value, "met": round(value, 2) <= limit})
    part["tables"].append(calls(names, steps))
    part["plots"].append(call_plot(names, part["tables"][-1]["rows"]))
    data = steps[0].data
    part["summary"] = (f"in real time {number(data.get('syscalls_per_frame'))} a captured frame, "
                       f"{number(data.get('heap_allocations_per_frame'))} heap allocations, {number(data.get('bytes_copied'))} bytes copied "
                       f"({names[0]}, {data.get('width')}x{data.get('height')})")
    return [part]


def number(value):
    return "?" if value is None else f"{value:.3g}"


def driver(text):
    """"/dev/dri/card0 (virtio_gpu)" -> "virtio_gpu"."""
    match = re.search(r"\((.+)\)", text or "")
    return match.group(1) if match else text or "no display"


def described(data):
    return (f"{data.get('width')}x{data.get('height')} {data.get('format')} in {data.get('buffers')} buffers of the {data.get('allocator')}, "
            f"{number(data.get('fps'))} frames/s shown")


def latency(names, steps):
    rows = []
    for name, step in zip(names, steps):
        found = step.data.get("latency_ms") or {}
        rows.append([name, found.get("p50"), found.get("p99"), found.get("max")])
    return {"title": "From the camera's time stamp to the screen", "gauge": "time", "columns": ["", "p50 ms", "p99 ms", "most ms"],
            "rows": rows, "notes": ""}


def stages(names, steps):
    rows = [[name, stage["stage"], stage["what"], stage["p50"], stage["p99"]]
            for name, step in zip(names, steps) for stage in step.data.get("stages_ms") or []]
    return {"title": "Each stage's time", "gauge": "time", "columns": ["", "stage", "what", "p50 ms", "p99 ms"], "rows": rows, "notes": ""}


def stage_plot(names, steps):
    series = [{"name": name, "points": [[stage["stage"], stage["p50"]] for stage in step.data.get("stages_ms") or []]}
              for name, step in zip(names, steps)]
    return {"title": "Where a frame's time goes (p50)", "x": "", "y": "milliseconds", "log": "", "kind": "bars", "series": series}


def calls(names, steps):
    counted = [step.data.get("syscalls") or {"frames": 1, "by_name": {}} for step in steps]
    kinds = sorted({name for one in counted for name in one["by_name"]}, key=lambda name: -max(one["by_name"].get(name, 0) for one in counted))
    rows = [[name] + [one["by_name"].get(name, 0) / max(one["frames"], 1) for one in counted] for name in kinds]
    return {"title": "System calls, for each captured frame", "gauge": "counts", "columns": ["call", *names], "rows": rows, "notes": ""}


def call_plot(names, rows):
    shown = [row for row in rows if max(row[1:]) >= 0.005]
    series = [{"name": name, "points": [[row[0].removeprefix("ioctl "), row[index]] for row in shown]} for index, name in enumerate(names, 1)]
    return {"title": "System calls for each captured frame", "x": "", "y": "calls a frame", "log": "", "kind": "bars", "series": series}


# --- All of it -------------------------------------------------------------------------------------------------------


def own_parts(program, steps):
    """The parts that the program itself wrote, one or a list, marked with the kernel."""
    parts = []
    for step in steps:
        for part in step.data if isinstance(step.data, list) else [step.data]:
            part = {"name": program, "title": program, "question": [question_of(program, "")], **part, "kernel": step.kernel()}
            if len(steps) > 1:
                part["title"] += f" ({step.kernel()})"
            parts.append(part)
    return parts


FORMS = {"count": count_parts, "time": time_parts, "storms": storm_parts, "camera": camera_parts, "part": own_parts}


def parts_of(steps):
    """The parts of all results. If a result cannot be read, its step gets the error."""
    groups, parts = {}, []
    for step in steps:
        if step.data is not None:
            groups.setdefault((step.program, step.form), []).append(step)
    for (program, form), its in groups.items():
        try:
            parts += FORMS[form](program, its)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            for step in its:
                step.error = step.error or f"its result cannot be read: {error.__class__.__name__}: {error}"
    return parts


def main(directory):
    steps_at = os.path.join(directory, "steps")
    with open(os.path.join(steps_at, "steps.tsv"), encoding="utf-8") as file:
        steps = [Step(steps_at, line) for line in file]
    with open(os.path.join(steps_at, "run.json"), encoding="utf-8") as file:
        run = json.load(file)
    parts = parts_of(steps)
    run["kernels"] = {step.where: step.machine for step in steps if step.machine}
    whole = {**run, "steps": [step.told() for step in steps], "parts": parts}
    with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
        json.dump(whole, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
