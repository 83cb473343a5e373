"""Makes one self-contained page from DIR/results.json, and a summary of five lines for a terminal.

    report.py DIR        writes DIR/report.html and prints the summary

It shows all parts (results.py says what a part is) and does not depend on the programs that made them. The page opens offline: the
plots are inside it. If gnuplot is missing or fails, the page says so in place of the plot.
"""

import html
import json
import os
import statistics
import sys

import plot

QUESTIONS = (
    "Camera to display: how does it compare with a loop by hand, with GStreamer, with a loop that copies?",
    "How does the cost grow, with the resolution, the cameras, the buffers in flight?",
    "What do allocation and import cost, and where does the time go?",
    "What does access by the CPU cost: mapping, synchronising, reading and writing?",
    "What do fences cost, beside raw system calls?",
    "Camera, GPU, display: what does each stage take, and what does ours cost beside a loop by hand?",
    "The Connector: how many events a second, at how many system calls, and how many are lost?",
)
GAUGES = {
    "counts": "System calls, heap allocations, imports, bytes copied, descriptors, for each frame. Counted by the kernel or at the "
              "library's seam: exact, and the same on every machine that loses no frame. The headline.",
    "instructions": "Instructions of the process, in user space and in the kernel together, counted in an emulated machine whose clock "
                    "counts them. Nearly without spread, so a difference of a percent is a difference. For the library against raw code, "
                    "and against its own past. They do not tell what entering the kernel or a cache miss costs.",
    "time": "Processor or wall-clock time. Only ratios within one interleaved run say anything, as medians with their spread. Absolute "
            "times are this machine's, and where it is emulated they are no machine's that anybody uses.",
}

LONG = 30  # a table with more rows is folded

STYLE = """
body { font: 15px/1.5 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif; color: #22272e; background: #f3f5f7; margin: 0 }
main { max-width: 960px; margin: 0 auto; padding: 0 20px 60px }
header { background: #1f3b45; color: #fff; padding: 28px 0 22px; margin-bottom: 22px }
header div { max-width: 960px; margin: 0 auto; padding: 0 20px }
h1 { font-size: 27px; margin: 0 0 4px; font-weight: 600 }
header p { margin: 0; color: #c4d3d8 }
h2 { font-size: 20px; margin: 0 0 6px; font-weight: 600 }
h3 { font-size: 16px; margin: 26px 0 4px; font-weight: 600; color: #1f3b45 }
h4 { font-size: 14px; margin: 18px 0 4px; font-weight: 600 }
section { background: #fff; border: 1px solid #dde2e7; border-radius: 6px; padding: 20px 24px 22px; margin: 0 0 20px }
.number { color: #2b7a78; font-weight: 700; margin-right: 8px }
table { border-collapse: collapse; width: 100%; font-size: 13px; margin: 4px 0 8px }
th { text-align: left; font-weight: 600; color: #57606a; border-bottom: 2px solid #dde2e7; padding: 4px 8px; vertical-align: bottom }
td { border-bottom: 1px solid #eceff2; padding: 4px 8px; vertical-align: top }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums }
td.n { white-space: nowrap }
tr.first td { border-top: 1px solid #cfd6dc }
.wide { overflow-x: auto }
.gauge { display: inline-block; font-size: 11px; font-weight: 600; letter-spacing: .04em; padding: 1px 7px; border-radius: 9px;
  margin-left: 8px; vertical-align: 1px; color: #fff; background: #6b7280 }
.counts { background: #2b7a78 } .instructions { background: #3d5a80 } .time { background: #b07a24 }
.note, .taken { color: #57606a; font-size: 13px; margin: 4px 0 8px }
.met { color: #1d7a46; font-weight: 600 } .missed { color: #b5301f; font-weight: 600 }
.banner { border-left: 5px solid #d08c2e; background: #fff7e8; padding: 10px 16px; margin: 0 0 20px; border-radius: 0 6px 6px 0 }
.failed { border-left-color: #b5301f; background: #fdeeec }
.banner ul { margin: 4px 0 0; padding-left: 20px }
code { font: 12px 'Liberation Mono', Menlo, Consolas, monospace; word-break: break-word }
.plot { margin: 12px 0 6px } .plot svg { display: block; width: 100%; height: auto }
nav a { color: #1f5f7a; text-decoration: none; display: block; padding: 1px 0 } nav a:hover { text-decoration: underline }
summary { cursor: pointer; color: #57606a; font-size: 13px }
@media print { body { background: #fff } section { border: none; padding: 8px 0 } }
"""


def escaped(text):
    return html.escape(str(text), quote=True)


# --- Figures ---------------------------------------------------------------------------------------------------------


def grouped(value):
    return f"{value:,.0f}".replace(",", "\u202f")


def figure(value, column=""):
    """A value as rounded text for a cell; the JSON has all digits."""
    if value is None:
        return "&ndash;"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return escaped(value)
    if "ours/it" in column or "ratio" in column:
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
    if "spread" in column:
        return f"{value:.2f}"
    if isinstance(value, int) or value == int(value) or abs(value) >= 1000:
        return grouped(value)
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def table(one):
    columns = [str(column) for column in one.get("columns", [])]
    rows = one.get("rows", [])
    numeric = [any(is_number(row[index]) for row in rows if index < len(row)) for index in range(len(columns))]
    kinds = [" class=n" if is_n else "" for is_n in numeric]
    gauge = one.get("gauge", "")
    badge = f"<span class='gauge {escaped(gauge)}'>{escaped(gauge)}</span>" if gauge else ""
    page = f"<h4>{escaped(one.get('title', ''))}{badge}</h4>"
    is_long = len(rows) > LONG
    page += f"<details><summary>{len(rows)} rows</summary>" if is_long else ""
    page += "<div class=wide><table><tr>"
    page += "".join(f"<th{kind}>{escaped(column)}</th>" for kind, column in zip(kinds, columns)) + "</tr>"
    for row in rows:
        # A row with a name in its first cell begins a group.
        page += "<tr class=first>" if row and row[0] != "" else "<tr>"
        page += "".join(f"<td{kind}>{figure(value, column)}</td>" for kind, column, value in zip(kinds, columns, row)) + "</tr>"
    return page + "</table></div>" + ("</details>" if is_long else "") + note(one.get("notes"))


def note(text):
    return f"<p class=note>{escaped(text)}</p>" if text else ""


class Plots:
    """Numbers the plots, because each needs unique identifiers in the page."""

    def __init__(self):
        self.count = 0

    def show(self, one):
        self.count += 1
        title = escaped(one.get("title", ""))
        try:
            svg = plot.draw(one)
        except (plot.PlotError, KeyError, TypeError, ValueError, IndexError) as error:
            return f"<p class=note>No plot &ldquo;{title}&rdquo;: {escaped(error)}</p>"
        return f"<div class=plot>{plot.in_page(svg, f'plot{self.count}', title)}</div>" if svg else ""


# --- The page --------------------------------------------------------------------------------------------------------


def head(results):
    library = results["library"]
    commit = library["commit"] + (" with changes" if library.get("changed") else "")
    quick = ", a quick run" if results["quick"] else ""
    return (f"<header><div><h1>dmaflow, measured</h1><p>{escaped(results['date'])}{quick} &middot; version {escaped(library['version'])}, "
            f"commit {escaped(commit)}</p></div></header>")


def banners(results):
    page = ""
    if results["quick"]:
        page += ("<div class=banner><b>A quick run.</b> Fewer repetitions, and by default one kernel: counts and instructions hold, "
                 "times are rough.</div>")
    failed = [step for step in results["steps"] if step["error"]]
    if failed:
        page += f"<div class='banner failed'><b>{len(failed)} of {len(results['steps'])} benchmarks failed or are not there.</b><ul>"
        for step in failed:
            page += f"<li><b>{escaped(step['id'])}</b>: {escaped(step['error'])}</li>"
        page += "</ul></div>"
    return page


def contents():
    links = "".join(f"<a href='#q{number}'><span class=number>{number}</span>{escaped(text)}</a>" for number, text in enumerate(QUESTIONS, 1))
    return f"<section><h2>Questions</h2><nav>{links}</nav></section>"


def gauges():
    rows = "".join(f"<tr><td><span class='gauge {name}' style='margin:0'>{name}</span></td><td>{escaped(text)}</td></tr>"
                   for name, text in GAUGES.items())
    return f"<section><h2>Three gauges</h2><table>{rows}</table></section>"


def all_targets(results):
    return [target for part in results["parts"] for target in part.get("targets") or []]


def targets(results):
    found = all_targets(results)
    if not found:
        return ""
    kernels = list(dict.fromkeys(target.get("kernel", "") for target in found))
    rows = {}
    for target in found:
        rows.setdefault((target["text"], target["limit"]), {})[target.get("kernel", "")] = target
    page = "<section><h2>Targets</h2><div class=wide><table><tr><th>what</th><th class=n>at most</th>"
    page += "".join(f"<th class=n>{escaped(kernel)}</th>" for kernel in kernels) + "</tr>"
    for (text, limit), by_kernel in rows.items():
        page += f"<tr><td>{escaped(text)}</td><td class=n>{figure(limit)}</td>"
        page += "".join(f"<td class=n>{target_cell(by_kernel.get(kernel))}</td>" for kernel in kernels) + "</tr>"
    return page + "</table></div></section>"


def target_cell(target):
    if target is None:
        return "&ndash;"
    value = f"{target['value']:.4f}" if 0 < abs(target["limit"]) < 2 else figure(target["value"])
    return f"{value} <span class={'met' if target['met'] else 'missed'}>{'met' if target['met'] else 'missed'}</span>"


def part_shown(part, plots, name):
    # The plots come first, the figures are below them.
    page = f"<h3 id={name}>{escaped(part.get('title', part['name']))}</h3>"
    page += "".join(plots.show(one) for one in part.get("plots") or [])
    page += "".join(table(one) for one in part.get("tables") or [])
    return page + (f"<p class=taken><b>How it was taken.</b> {escaped(part['taken'])}</p>" if part.get("taken") else "")


def questions_of(part):
    questions = part.get("question", [])
    return questions if isinstance(questions, list) else [questions]


def questions(results):
    page, plots = "", Plots()
    for number, text in enumerate(QUESTIONS, 1):
        page += f"<section id=q{number}><h2><span class=number>{number}</span>{escaped(text)}</h2>"
        its = [(index, part) for index, part in enumerate(results["parts"], 1) if number in questions_of(part)]
        for index, part in its:
            if questions_of(part)[0] == number:
                page += part_shown(part, plots, f"part{index}")
            else:
                page += f"<p>See <a href='#part{index}'>{escaped(part.get('title', part['name']))}</a>, above.</p>"
        page += "" if its else "<p class=note>Nothing that ran answers this.</p>"
        page += "</section>"
    return page


def machine(results):
    host, library = results["machine"], results["library"]
    rows = [
        ("processor", f"{host['cpu']}, {host['processors']} of them"),
        ("memory", f"{host['memory_mib']} MiB"),
        ("system", f"{host['system']}, {host['kernel']}; load {host['load_before']:.2f} before the run"),
        ("kernels", "; ".join(f"{where}: {kernel}" for where, kernel in results.get("kernels", {}).items()) or "none ran"),
        ("compiler", f"{results['compiler']}; build type {results['build']}"),
        ("library", f"{library['version']}, commit {library['commit']}" + (", with changes that are not committed" if library.get("changed") else "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
        ("date", results["date"] + (" (quick)" if results["quick"] else "")),
    ]
    page = "<section><h2>The machine</h2><table>"
    page += "".join(f"<tr><td><b>{escaped(name)}</b></td><td>{escaped(text)}</td></tr>" for name, text in rows)
    page += "</table></section><section><h2>What ran</h2><div class=wide><table><tr><th>benchmark</th><th>where</th><th class=n>seconds</th><th>result</th></tr>"
    for step in results["steps"]:
        result = f"<span class=missed>{escaped(step['error'])}</span>" if step["error"] else "<span class=met>ok</span>"
        page += (f"<tr><td><b>{escaped(step['id'])}</b><br><code>{escaped(step['command'])}</code></td><td>{escaped(step['kernel'] or step['where'])}</td>"
                 f"<td class=n>{step['seconds']:.1f}</td><td>{result}</td></tr>")
    return page + "</table></div></section>"


def whole_page(results):
    body = banners(results) + contents() + gauges() + targets(results) + questions(results) + machine(results)
    return (f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>dmaflow, measured</title><style>{STYLE}</style></head>\n<body>{head(results)}<main>{body}</main></body></html>\n")


# --- The terminal ----------------------------------------------------------------------------------------------------


def instruction_line(results):
    """Summary over all operations and kernels: the library's instructions divided by those of the first raw way."""
    ratios = [(point[1], f"{point[0]}, {series['name']}")
              for part in results["parts"] for one in part.get("plots") or [] if one.get("kind") == "ratios" and "nstructions" in one["title"]
              for series in one["series"] for point in series["points"]]
    if not ratios:
        return "not measured"
    worst = max(ratios)
    return f"{statistics.median(value for value, _ in ratios):.3f} of raw code's, median of {len(ratios)}; most {worst[0]:.3f} ({worst[1]})"


def gauge_line(results, words):
    """The summaries of the parts whose first table has one of these gauges."""
    said = [part["summary"] for part in results["parts"]
            if part.get("summary") and part.get("tables") and part["tables"][0].get("gauge") in words]
    return "; ".join(said) or "not measured"


def target_line(results):
    found = all_targets(results)
    missed = list(dict.fromkeys(f"{target['text']} {figure(target['value'])}".replace("\u202f", " ") for target in found if not target["met"]))
    more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
    return f"{sum(target['met'] for target in found)} of {len(found)} met" + (f"; missed: {'; '.join(missed[:3])}{more}" if missed else "")


def summary(results, page):
    steps = results["steps"]
    failed = [step["id"] for step in steps if step["error"]]
    ran = f"{len(steps) - len(failed)} of {len(steps)} benchmarks well" + (f"; failed: {', '.join(failed)}" if failed else "")
    return "\n".join((
        f"counts        {gauge_line(results, ('counts',))}",
        f"instructions  {instruction_line(results)}",
        f"time          {gauge_line(results, ('time', 'instructions'))}",
        f"targets       {target_line(results)}",
        f"report        {page} ({'a quick run; ' if results['quick'] else ''}{ran})",
    ))


def main(directory):
    with open(os.path.join(directory, "results.json"), encoding="utf-8") as file:
        results = json.load(file)
    page = os.path.join(directory, "report.html")
    with open(page, "w", encoding="utf-8") as file:
        file.write(whole_page(results))
    print(summary(results, page))
    return 1 if any(step["error"] for step in results["steps"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
