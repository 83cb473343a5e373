// dmaflow-report: makes one self-contained page from the results of dmaflow-measure.
//
//     dmaflow-report DIR        reads DIR/stats.json and DIR/screenshot.png, writes DIR/report.html
//
// The page opens offline: the picture and the charts (drawn by gnuplot as SVG) are inside it.
#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](std::size_t at) { return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0U; };
    const unsigned group = byte(i) << 16U | byte(i + 1) << 8U | byte(i + 2);
    text += digits[group >> 18U];
    text += digits[group >> 12U & 63U];
    text += i + 1 < bytes.size() ? digits[group >> 6U & 63U] : '=';
    text += i + 2 < bytes.size() ? digits[group & 63U] : '=';
  }
  return text;
}

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

/// A figure as text, or a dash if it was not measured.
std::string figure(const json& value, int digits = 2) {
  if (value.is_number_integer() || value.is_number_unsigned()) return std::to_string(value.get<std::int64_t>());
  if (value.is_number()) return fmt::format("{:.{}f}", value.get<double>(), digits);
  if (value.is_string()) return escaped(value.get<std::string>());
  return "&ndash;";
}

const json& at(const json& data, const char* key) {
  static const json none;
  const auto found = data.find(key);
  return found == data.end() ? none : *found;
}

/// The SVG that gnuplot draws for @p commands, without the XML header; empty if there is no gnuplot.
std::string chart(const fs::path& dir, const std::string& name, const std::string& commands) {
  const fs::path script = dir / ("." + name + ".gnuplot");
  const fs::path picture = dir / ("." + name + ".svg");
  std::ofstream(script) << fmt::format(
      "set terminal svg size 760,260 dynamic font 'sans-serif,13' name '{}' background '#ffffff'\n"
      "set output '{}'\nset border 3 lc rgb '#777777'\nset tics nomirror textcolor rgb '#444444'\n"
      "set grid ytics lc rgb '#e4e7ec' lt 1\nset style fill solid 1 noborder\nset key off\n{}",
      name, picture.string(), commands);
  const int status = std::system(fmt::format("gnuplot '{}' >&2", script.string()).c_str());
  std::string svg = status == 0 ? read_file(picture) : "";
  std::error_code ignored;
  fs::remove(script, ignored);
  fs::remove(picture, ignored);
  const auto start = svg.find("<svg");
  return start == std::string::npos ? "<p class=note>gnuplot is not installed: no chart.</p>" : svg.substr(start);
}

std::string rate_chart(const fs::path& dir, const json& stats) {
  const bool by_kernel = !at(stats, "flips_per_second").is_null();
  const json per_second = by_kernel ? at(stats, "flips_per_second") : at(at(stats, "program"), "per_second");
  if (!per_second.is_array() || per_second.empty()) return "<p class=note>No frame was shown.</p>";
  std::string points;
  for (std::size_t i = 0; i < per_second.size(); ++i) points += fmt::format("{} {}\n", i, per_second[i].get<int>());
  std::string page =
      chart(dir, "rate",
            "$data << EOD\n" + points +
                "EOD\nset xlabel 'second'\nset ylabel 'frames shown'\nset yrange [0:*]\nset boxwidth 0.8\n"
                "set xrange [-0.6:" +
                fmt::format("{:.1f}", static_cast<double>(per_second.size()) - 0.4) +
                "]\nplot $data with boxes lc rgb '#2b7a78'\n");
  return page + fmt::format("<p class=note>{} The first and the last second are not whole ones.</p>",
                            by_kernel ? "Page flips, as the kernel delivered them." : "As the program counted them.");
}

std::string latency_chart(const fs::path& dir, const json& stats) {
  const json& latency = at(stats, "latency_ms");
  const json& buckets = at(latency, "buckets");
  if (!buckets.is_array() || buckets.empty()) return "<p class=note>No frame was shown.</p>";
  // The buckets get wider with the latency, the bars have equal width. The slowest one percent share one bar, so that
  // they do not squeeze the rest.
  const double end = std::max(latency.value("p99", 1.0) * 1.25, 1.0);
  constexpr std::size_t bars = 50;
  std::vector<double> counts(bars + 1);
  for (const json& bucket : buckets) {
    const double middle = (bucket.value("from", 0.0) + bucket.value("to", 0.0)) / 2;
    counts[std::min(bars, static_cast<std::size_t>(middle / end * bars))] += bucket.value("count", 0.0);
  }
  std::string points;
  for (std::size_t i = 0; i <= bars; ++i) {
    points += fmt::format("{} {}\n", (static_cast<double>(i) + 0.5) * end / bars, counts[i]);
  }
  return chart(
      dir, "latency",
      "$data << EOD\n" + points +
          fmt::format("EOD\nset xlabel 'milliseconds from capture to screen (last bar: all above)'\n"
                      "set ylabel 'frames'\nset yrange [0:*]\nset xrange [0:{0}]\nset boxwidth {1}\n"
                      "set arrow from {2}, graph 0 to {2}, graph 1 nohead lc rgb '#c0392b' dt 2\n"
                      "set label 'p50' at {2}, graph 0.95 offset 0.5 tc rgb '#c0392b'\n"
                      "set arrow from {3}, graph 0 to {3}, graph 1 nohead lc rgb '#c0392b' dt 2\n"
                      "set label 'p99' at {3}, graph 0.95 offset 0.5 tc rgb '#c0392b'\n"
                      "plot $data with boxes lc rgb '#3d5a80'\n",
                      end * (bars + 1) / bars, end / bars * 0.9, latency.value("p50", 0.0), latency.value("p99", 0.0)));
}

std::string call_table(const json& stats) {
  const json& calls = at(stats, "syscalls");
  if (calls.is_null()) return "";
  const double frames = calls.value("frames", 1.0);
  std::vector<std::pair<double, std::string>> rows;
  for (const auto& [name, count] : at(calls, "by_name").items()) rows.emplace_back(count.get<double>(), name);
  std::ranges::sort(rows, std::greater<>());
  std::string page = "<table><tr><th>call<th class=n>count<th class=n>per captured frame</tr>";
  for (const auto& [count, name] : rows) {
    page += fmt::format("<tr><td><code>{}</code><td class=n>{:.0f}<td class=n>{:.3f}</tr>", escaped(name), count,
                        count / frames);
  }
  return page + fmt::format("<tr class=sum><td>all<td class=n>{}<td class=n>{}</tr></table>",
                            figure(at(calls, "total")), figure(at(stats, "syscalls_per_frame"), 3));
}

/// One plan's text: the first line is the result, and each line after it is a candidate. The chosen one has a star.
std::string plan_table(const std::string& plan) {
  std::istringstream lines(plan);
  std::string line;
  std::getline(lines, line);
  std::string page = fmt::format("<p><b>{}</b></p><table class=plan>", escaped(line));
  std::string streams;  // refused before any memory was tried; folded, because there are many
  int stream_count = 0;
  while (std::getline(lines, line)) {
    const auto start = line.find_first_not_of(" *");
    if (start == std::string::npos) continue;
    const bool chosen = line.find('*') < start;
    const auto colon = line.find(": ", start);
    const std::string what = line.substr(start, colon == std::string::npos ? colon : colon - start);
    const std::string row =
        fmt::format("<tr class={}><td>{}<td>{}<td>{}</tr>", chosen ? "chosen" : "other", chosen ? "&#10003;" : "",
                    escaped(what), colon == std::string::npos ? "" : escaped(line.substr(colon + 2)));
    const bool tried = what.contains(" in memory of ");
    (tried ? page : streams) += row;
    stream_count += tried ? 0 : 1;
  }
  page += "</table>";
  if (stream_count == 0) return page;
  return page + fmt::format(
                    "<details><summary>{} formats of the camera that the display does not show</summary>"
                    "<table class=plan>{}</table></details>",
                    stream_count, streams);
}

/// The plans of all links, the camera's first. Each begins with a line that is not indented.
std::string plan_tables(const std::string& plans) {
  std::string page;
  std::string one;
  std::istringstream lines(plans);
  for (std::string line; std::getline(lines, line);) {
    const bool begins = !line.empty() && line.front() != ' ';
    if (begins && !one.empty()) page += plan_table(std::exchange(one, {}));
    one += line + '\n';
  }
  return page + plan_table(one);
}

/// The median of each stage as a bar, and the figures below.
std::string stage_table(const json& stats) {
  const json& stages = at(stats, "stages_ms");
  if (!stages.is_array() || stages.empty()) return "";
  double sum = 0;
  for (const json& stage : stages) sum += std::max(stage.value("p50", 0.0), 0.0);
  std::string bar;
  std::string rows;
  int color = 0;
  for (const json& stage : stages) {
    const std::string name = figure(at(stage, "stage"));
    const double share = sum > 0 ? 100 * std::max(stage.value("p50", 0.0), 0.0) / sum : 0;
    bar += fmt::format("<div class=s{} style='flex-grow:{:.2f}' title='{}'></div>", color, share, name);
    rows += fmt::format("<tr><td><i class=s{}></i>{}<td>{}<td class=n>{}<td class=n>{}</tr>", color, name,
                        figure(at(stage, "what")), figure(at(stage, "p50")), figure(at(stage, "p99")));
    color = (color + 1) % 3;
  }
  const json& by_its_clock = at(at(at(stats, "gpu"), "gpu_time_ms"), "p50");
  std::string note = "The bar shows the medians.";
  if (!by_its_clock.is_null()) {
    note += fmt::format(" By the GPU's own clock, its shader took {} ms (p50).", figure(by_its_clock));
  }
  return fmt::format(
      "<section><h2>Time in each stage</h2><div class=bar>{}</div><table><tr><th>stage<th>time<th class=n>p50 "
      "ms<th class=n>p99 ms</tr>{}</table><p class=note>{}</p></section>",
      bar, rows, note);
}

/// Copies that drivers make by themselves, which no program can avoid.
std::string driver_copies(const json& stats) {
  const auto text = [&](const char* key) { return at(stats, key).is_string() ? stats[key].get<std::string>() : ""; };
  std::string page;
  const auto has = [](const std::string& name, std::string_view driver) { return name.contains(driver); };
  if (has(text("camera"), "vivid")) {
    page +=
        "<li><b>vivid</b> (camera): there is no sensor, so the CPU draws each frame into the buffer. A real camera "
        "writes by DMA.";
  }
  if (has(text("display"), "virtio")) {
    page +=
        "<li><b>virtio-gpu</b> (display): for each flip the driver has the host copy the frame into its own memory "
        "(<code>VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D</code>).";
  }
  if (has(text("display"), "bochs")) {
    page +=
        "<li><b>bochs</b> (display): for each flip the driver's shadow plane is copied into the card's video memory by "
        "the CPU.";
  }
  if (has(text("display"), "vkms") || has(text("display"), "faux")) {
    page += "<li><b>vkms</b> (display): there is no screen; the driver composes planes in software.";
  }
  if (at(at(stats, "gpu"), "is_software") == true) {
    page += "<li><b>" + figure(at(stats["gpu"], "name")) +
            "</b> (GPU): runs on the CPU, which reads the camera's memory and writes the display's. The driver maps "
            "both, allocates, and makes system calls of its own, which the figures above contain.";
  }
  return page.empty() ? "<p>None known: these are not virtual devices.</p>" : "<ul>" + page + "</ul>";
}

std::string tile(const std::string& value, std::string_view unit, std::string_view what) {
  return fmt::format("<div class=tile><div class=value>{}<small>{}</small></div><div class=what>{}</div></div>", value,
                     unit, what);
}

std::string missing_list(const json& stats) {
  const json& missing = at(stats, "not_measured");
  if (!missing.is_object() || missing.empty()) return "";
  std::string page = "<h2>Not measured in this run</h2><ul>";
  for (const auto& [key, why] : missing.items())
    page += fmt::format("<li><code>{}</code>: {}", escaped(key), figure(why));
  return page + "</ul>";
}

constexpr std::string_view style = R"(
:root{--ink:#1d2733;--soft:#5b6775;--line:#e4e7ec;--paper:#fff;--back:#f4f6f8;--good:#2b7a78}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:820px;margin:0 auto;padding:32px 20px 60px}
h1{font-size:28px;margin:0 0 4px}h2{font-size:19px;margin:0 0 12px}
.sub{color:var(--soft);margin:0 0 24px}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:20px 24px;margin:18px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px;margin:0 0 18px}
.tile{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.value{font-size:26px;font-weight:650;color:var(--good)}.value small{font-size:14px;font-weight:400;color:var(--soft);margin-left:4px}
.what{color:var(--soft);font-size:13.5px}
img,svg{max-width:100%;height:auto;display:block;border-radius:6px}
table{border-collapse:collapse;width:100%;font-size:14.5px}
th{text-align:left;color:var(--soft);font-weight:500}td,th{border-bottom:1px solid var(--line);padding:6px 10px 6px 0;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums}.sum td{font-weight:650}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;margin:0 0 12px}.bar div{min-width:2px}
i[class]{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:8px}
.s0{background:#3d5a80}.s1{background:#e09f3e}.s2{background:#2b7a78}
.plan .chosen td{color:var(--good);font-weight:600}.plan td:first-child{width:1.2em}
details{margin-top:12px}summary{cursor:pointer;color:var(--soft)}
code{font-size:.93em}.note{color:var(--soft);font-size:13.5px;margin:8px 0 0}
)";

std::string page_of(const fs::path& dir, const json& stats, const std::string& picture_by) {
  const std::string picture = read_file(dir / "screenshot.png");
  const json& latency = at(stats, "latency_ms");
  std::string page =
      "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
      "<title>dmaflow: camera to display</title><style>";
  page += style;
  const bool by_gpu = !at(stats, "gpu").is_null();
  page += fmt::format("</style><main><h1>Camera to {}display without a copy</h1>", by_gpu ? "GPU to " : "");
  const auto stream = [](const json& of) {
    return fmt::format("{}x{} {}, modifier {}, buffers of &ldquo;{}&rdquo;", figure(at(of, "width")),
                       figure(at(of, "height")), figure(at(of, "format")), figure(at(of, "modifier")),
                       figure(at(of, "allocator")));
  };
  page +=
      fmt::format("<p class=sub>{} &rarr; {}{}<br>{}{}, {}</p>", figure(at(stats, "camera")),
                  by_gpu ? figure(at(stats["gpu"], "name")) + " &rarr; " : "", figure(at(stats, "display")),
                  stream(stats), by_gpu ? " &rarr; " + stream(at(stats, "screen")) : "", figure(at(stats, "kernel")));
  page += "<div class=tiles>";
  page += tile(figure(at(stats, "fps"), 1), "fps", "shown on the screen");
  page += tile(figure(at(stats, "frames_presented")), fmt::format("of {}", figure(at(stats, "frames_captured"))),
               "captured frames presented");
  page += tile(figure(at(stats, "frames_dropped")), "", "frames dropped");
  page += tile(figure(at(stats, "bytes_copied")), "bytes", "copied in user space");
  const bool by_cpu = by_gpu && at(stats["gpu"], "is_software") == true;
  const std::string drivers = by_cpu ? ", the software GPU's own contained" : "";
  page += tile(figure(at(stats, "syscalls_per_frame")), "", "system calls per captured frame" + drivers);
  page += tile(figure(at(stats, "heap_allocations_per_frame"), 3), "", "heap allocations per frame" + drivers);
  page += tile(figure(at(stats, "imports_after_start")), "", "imports after the start");
  page += tile(
      figure(at(latency, "p50"), 1), "ms",
      fmt::format("latency p50 (p99 {} ms, max {} ms)", figure(at(latency, "p99"), 1), figure(at(latency, "max"), 1)));
  page += "</div>";
  if (!picture.empty()) {
    page += fmt::format(
        "<section><h2>The screen while frames moved</h2><img alt='the screen' src='data:image/png;base64,{}'>"
        "<p class=note>{}</p></section>",
        base64(picture), escaped(picture_by));
  }
  page += "<section><h2>Frames per second</h2>" + rate_chart(dir, stats) + "</section>";
  page += "<section><h2>Latency, capture to screen</h2>" + latency_chart(dir, stats) + "</section>";
  page += stage_table(stats);
  page += "<section><h2>System calls</h2>" + call_table(stats) +
          "<p class=note>Counted by the kernel (tracepoints raw_syscalls), all threads, from VIDIOC_STREAMON to "
          "VIDIOC_STREAMOFF.</p></section>";
  page += "<section><h2>The plan, and why not the others</h2>" +
          plan_tables(at(stats, "plan").is_string() ? stats["plan"].get<std::string>() : "") + "</section>";
  page +=
      "<section><h2>Copies that drivers make</h2>" + driver_copies(stats) +
      fmt::format(
          "<p class=note>In user space there was none: {} bytes copied by the library, {} mappings of frames in the "
          "process's memory, {} read, write or splice calls on descriptors of frames.</p></section>",
          figure(at(stats, "bytes_copied")), figure(at(stats, "frame_mappings")),
          figure(at(stats, "frame_data_calls")));
  const std::string missing = missing_list(stats);
  if (!missing.empty()) page += "<section>" + missing + "</section>";
  page +=
      "<section><h2>How it was measured</h2><ul>"
      "<li>System calls, imports and captured frames (successful <code>VIDIOC_DQBUF</code>): by the kernel's "
      "tracepoints."
      "<li>Heap allocations: by a library that takes the place of malloc and its relatives in the whole process."
      "<li>Mappings: from <code>/proc/PID/maps</code> while streaming. Devices: from <code>/proc/PID/fd</code>."
      "<li>Presented frames: from flip events, matched by the program to the frames they belong to."
      "<li>Latency: from the frame's time stamp to its flip, both as the kernel traced them "
      "(<code>vb2_buf_done</code>, "
      "<code>drm_vblank_event_delivered</code>); where it could not be traced, as the program saw it.</ul></section>";
  return page + "</main></html>\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::string dir;
  std::string picture_by;
  CLI::App app("Makes DIR/report.html of DIR/stats.json and DIR/screenshot.png.");
  app.add_option("DIR", dir, "where dmaflow-measure left its figures")->required();
  app.add_option("--picture-by", picture_by, "who took the picture, in words");
  CLI11_PARSE(app, argc, argv);
  const json stats = json::parse(read_file(fs::path(dir) / "stats.json"), nullptr, false);
  if (!stats.is_object()) {
    fmt::print(stderr, "error: {}/stats.json: not there, or not JSON\n", dir);
    return 1;
  }
  std::ofstream out(fs::path(dir) / "report.html");
  out << page_of(dir, stats, picture_by);
  if (!out.flush()) {
    fmt::print(stderr, "error: cannot write {}/report.html\n", dir);
    return 1;
  }
}
