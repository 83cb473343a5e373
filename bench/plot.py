"""Draws plots with gnuplot, as SVG to embed in a page.

A plot is {"title", "x", "y": labels with units, "log": "x|y|xy|", "kind", "series": [{"name", "points"}]}. Kinds:
  lines   points [x, y], or [x, y, low, high] with the spread of y
  bars    points [category, y]: one horizontal bar for each, from 0
  ratios  points [category, y] or [category, y, low, high]: one horizontal bar for each, from 1; "limit" is drawn as a line
"""

import math
import re
import subprocess

COLOURS = ("#2b7a78", "#d08c2e", "#3d5a80", "#b5483a", "#7b5ea7", "#6b7280", "#4c9f70", "#a0527a")
WIDTH = 860
BAR_HEIGHT = 17
HEAD = """\
set terminal svg size {width},{height} dynamic noenhanced font 'sans-serif,13' background '#ffffff'
set border 3 lc rgb '#9aa3ad'
set tics nomirror textcolor rgb '#3f4752'
set style fill solid 1 noborder
set title {title} textcolor rgb '#22272e' offset 0,-0.3
"""


class PlotError(Exception):
    """gnuplot is missing or failed; the message says why."""


def text(words):
    """The words as a string for gnuplot."""
    return '"' + str(words).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def number(value):
    return f"{value:.10g}"


def short(value):
    """A figure as the label of a bar."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def draw(plot):
    """The SVG of one plot; empty if there is nothing to compare."""
    series = [one for one in plot.get("series", []) if one.get("points")]
    if sum(len(one["points"]) for one in series) < 2:
        return ""
    if plot.get("kind", "lines") != "lines":
        script = bars(plot, series)
    elif all(len(one["points"]) == 1 for one in series):
        script = bars(*as_bars(plot, series))
    else:
        script = lines(plot, series)
    try:
        done = subprocess.run(["gnuplot"], input=script.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    except OSError as error:
        raise PlotError(f"gnuplot: {error.strerror}") from error
    svg = done.stdout.decode(errors="replace")
    if done.returncode or "</svg>" not in svg:
        raise PlotError("gnuplot: " + " ".join(done.stderr.decode(errors="replace").split()))
    return svg[svg.index("<svg"):]


def as_bars(plot, series):
    """Turns lines that have only one point each into bars."""
    points = [[one["name"], *one["points"][0][1:]] for one in series]
    shown = {"title": plot.get("title", ""), "y": plot.get("y", ""), "kind": "bars", "log": plot.get("log", "")}
    return shown, [{"name": "", "points": points}]


def in_page(svg, name, title):
    """The SVG with identifiers that are unique in the page, and with a title that says what it shows."""
    svg = re.sub(r"\bid=(['\"])", rf"id=\1{name}-", svg)
    svg = re.sub(r"(href=['\"]|url\()#", rf"\1#{name}-", svg)
    svg = re.sub(r"<title>.*?</title>", "", svg, flags=re.S)
    return re.sub(r"<desc>.*?</desc>", f"<title>{title}</title>", svg, count=1, flags=re.S)


# --- Lines -----------------------------------------------------------------------------------------------------------


def lines(plot, series):
    log = plot.get("log", "")
    # The key is below the plot: beside it, long names would leave no room for the plot.
    columns = max(1, min(4, len(series), 100 // (8 + max(len(str(one["name"])) for one in series))))
    height = 370 + 20 * math.ceil(len(series) / columns)
    script = HEAD.format(width=WIDTH, height=height, title=text(plot.get("title", "")))
    script += "set grid lc rgb '#e4e7ec' lt 1\n"
    script += f"set key below center horizontal maxcols {columns} textcolor rgb '#3f4752'\n"
    script += f"set xlabel {text(plot.get('x', ''))} offset 0,0.4 textcolor rgb '#3f4752'\n"
    script += f"set ylabel {text(plot.get('y', ''))} textcolor rgb '#3f4752'\n"
    if log:
        script += f"set logscale {log}\n"
    if "y" not in log:
        script += "set yrange [0:*]\n"
    if "x" in log and "byte" in plot.get("x", ""):
        script += "set logscale x 2\n" + byte_tics(series)
    drawn = []
    for index, one in enumerate(series):
        points = sorted(point for point in one["points"] if usable(point, log))
        colour = COLOURS[index % len(COLOURS)]
        has_spread = any(len(point) > 3 for point in points)
        script += f"$d{index} << EOD\n"
        for point in points:
            low, high = point[2:4] if len(point) > 3 else (point[1], point[1])
            script += " ".join(number(value) for value in (point[0], point[1], low, high)) + "\n"
        script += "EOD\n"
        if has_spread:
            drawn.append(f"$d{index} using 1:2:3:4 with yerrorbars lc rgb '{colour}' pt 0 notitle")
        drawn.append(f"$d{index} using 1:2 with linespoints lc rgb '{colour}' lw 2 dt {1 + index // len(COLOURS)} pt 7 ps 0.5 title {text(one['name'])}")
    return script + "plot " + ", ".join(drawn) + "\n"


def usable(point, log):
    return point[1] is not None and ("x" not in log or point[0] > 0) and ("y" not in log or point[1] > 0)


def byte_tics(series):
    sizes = sorted({point[0] for one in series for point in one["points"]})
    if len(sizes) > 12:
        return ""
    return "set xtics (" + ", ".join(f"{text(bytes_text(size))} {number(size)}" for size in sizes) + ")\n"


def bytes_text(size):
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:g} B"


# --- Bars ------------------------------------------------------------------------------------------------------------


def bars(plot, series):
    """Horizontal bars, because the names of the categories are long."""
    categories = list(dict.fromkeys(point[0] for one in series for point in one["points"]))
    log = "x" if "y" in plot.get("log", "") else ""
    base, low, high = bounds(plot, series, log)
    height = 112 + (26 if len(series) > 1 else 0) + len(categories) * (BAR_HEIGHT * len(series) + 9)
    script = HEAD.format(width=WIDTH, height=height, title=text(plot.get("title", "")))
    script += "set grid xtics lc rgb '#e4e7ec' lt 1\n"
    script += f"set lmargin {min(46, 3 + max(len(str(category)) for category in categories))}\nset rmargin 9\n"
    script += f"set xlabel {text(plot.get('y', ''))} textcolor rgb '#3f4752'\n"
    script += f"set xrange [{number(low)}:{number(high)}]\nset yrange [{len(categories) - 0.45}:-0.55]\n"
    script += "set key " + ("outside top center horizontal textcolor rgb '#3f4752'\n" if len(series) > 1 else "off\n")
    if log:
        script += "set logscale x\n"
    names = ", ".join(f"{text(category)} {index}" for index, category in enumerate(categories))
    script += f"set ytics scale 0 ({names})\n"
    for at, dash in ((1, 1), (plot.get("limit"), 2)):
        if plot.get("kind") == "ratios" and at:
            colour = "#9aa3ad" if dash == 1 else "#b5483a"
            script += f"set arrow from {number(at)}, graph 0 to {number(at)}, graph 1 nohead back lc rgb '{colour}' dt {dash}\n"
    return script + bars_drawn(series, categories, base)


def bars_drawn(series, categories, base):
    script, drawn, thick = "", [], 0.78 / len(series)
    for index, one in enumerate(series):
        script += f"$d{index} << EOD\n"
        has_spread = False
        for category, value, *spread in one["points"]:
            if value is None:
                continue
            middle = categories.index(category) - 0.39 + thick * (index + 0.5)
            low, high = spread if len(spread) == 2 else (value, value)
            has_spread = has_spread or low < high
            row = (value, middle, min(base, value), max(base, value), middle - thick * 0.46, middle + thick * 0.46, low, high)
            script += " ".join(number(item) for item in row) + f" {text(short(value) if base != 1 else f'{value:.3f}')}\n"
        script += "EOD\n"
        colour = COLOURS[index % len(COLOURS)]
        drawn.append(f"$d{index} using 1:2:3:4:5:6 with boxxyerror lc rgb '{colour}' title {text(one['name'])}")
        if has_spread:
            drawn.append(f"$d{index} using 1:2:7:8 with xerrorbars lc rgb '#22272e' pt 0 lw 1 notitle")
        # Labels begin after the bar or its spread, whichever reaches further.
        drawn.append(f"$d{index} using ($4>$8?$4:$8):2:9 with labels left offset 0.6,0 font ',11' tc rgb '#3f4752' notitle")
    return script + "plot " + ", ".join(drawn) + "\n"


def bounds(plot, series, log):
    """Returns where bars begin, and the two ends of the axis."""
    values = [value for one in series for point in one["points"] for value in point[1:] if value is not None]
    top = max(values)
    if log:
        low = 10.0 ** math.floor(math.log10(min(value for value in values if value > 0)) - 0.2) if top > 0 else 0.1
        return low, low, max(top, low * 10) * 2
    if plot.get("kind") == "ratios":
        top = max(top, plot.get("limit") or 1, 1.01)
        low = min(min(values), 1)
        room = (top - low) * 0.08
        return 1, low - (room if low < 1 else room / 4), top + room
    return 0, min(0, min(values)), (top or 1) * 1.08
