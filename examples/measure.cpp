// dmaflow-measure: runs a camera program and measures it from outside.
//
//     dmaflow-measure --out stats.json [--allocations LIBRARY] [--screenshot COMMAND] -- PROGRAM ARGUMENT...
//
// The kernel counts system calls, imports and page flips (kernel_trace.hpp). A library loaded into the program counts
// allocations (count_allocations.cpp). Formats and devices are read from /proc and debugfs while the program runs. The
// latency follows from the kernel's events. The program itself reports only what cannot be measured from outside (which
// frames were shown, the plan). A figure that could not be measured is null, with the reason under "not_measured".
#include "kernel_trace.hpp"

#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Options {
  std::string out;
  std::string allocations;
  std::string screenshot;
  std::vector<std::string> command;
};

std::string read_text(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

json read_json(const fs::path& path) { return json::parse(read_text(path), nullptr, false); }

std::string first_line(const fs::path& path) {
  const std::string text = read_text(path);
  return text.substr(0, text.find('\n'));
}

/// What /proc and debugfs show of the program while its frames move.
struct Observed {
  std::set<int> frame_fds;   // descriptors of dma-bufs and of the camera
  std::size_t mappings = 0;  // the most mappings of frames ever seen
  int descriptors = 0;       // open at the last look
  int descriptors_at_first = 0;
  unsigned samples = 0;
  std::string camera;
  std::string display;
  std::string format;
  std::string modifier;
  int width = 0;
  int height = 0;
};

void observe_scanout(Observed& seen, const std::string& card) {
  const std::string state = read_text("/sys/kernel/debug/dri/" + card + "/state");
  // The format, modifier and size of the first plane that has a framebuffer.
  static const std::regex framebuffer(
      R"(fb=[1-9]\d*[\s\S]*?format=(\S+)[^\n]*\n\s*modifier=(0x[0-9a-f]+)\n\s*size=(\d+)x(\d+))");
  std::smatch match;
  if (!std::regex_search(state, match, framebuffer)) return;
  seen.format = match[1];
  const auto modifier = std::stoull(match[2], nullptr, 16);
  seen.modifier = modifier == 0 ? "LINEAR" : modifier == 0x00ffffffffffffffULL ? "INVALID" : std::string(match[2]);
  seen.width = std::stoi(match[3]);
  seen.height = std::stoi(match[4]);
}

void observe(Observed& seen, pid_t process) {
  const fs::path proc = "/proc/" + std::to_string(process);
  std::error_code error;
  seen.descriptors = 0;
  for (const auto& entry : fs::directory_iterator(proc / "fd", error)) {
    ++seen.descriptors;
    const std::string target = fs::read_symlink(entry.path(), error).string();
    const int fd = std::atoi(entry.path().filename().c_str());  // NOLINT(cert-err34-c): the kernel's own number
    if (target.starts_with("/dmabuf:")) seen.frame_fds.insert(fd);
    if (target.starts_with("/dev/video")) {
      seen.frame_fds.insert(fd);
      seen.camera = fmt::format("{} ({})", target, first_line("/sys/class/video4linux/" + target.substr(5) + "/name"));
    }
    if (target.starts_with("/dev/dri/card")) {
      const std::string card = target.substr(std::strlen("/dev/dri/"));
      // "virtio_gpu dev=0000:00:06.0 unique=..."
      const std::string name = read_text("/sys/kernel/debug/dri/" + card.substr(std::strlen("card")) + "/name");
      seen.display = name.empty() ? target : fmt::format("{} ({})", target, name.substr(0, name.find(' ')));
      observe_scanout(seen, card.substr(std::strlen("card")));
    }
  }
  if (seen.samples == 0) seen.descriptors_at_first = seen.descriptors;
  std::size_t mappings = 0;
  std::ifstream maps(proc / "maps");
  for (std::string line; std::getline(maps, line);) {
    for (const char* frames : {"/dmabuf", "/dev/video", "/dev/dri", "/memfd"})
      mappings += std::size_t{line.contains(frames)};
  }
  seen.mappings = std::max(seen.mappings, mappings);
  ++seen.samples;
}

/// The program under measurement: its process and its stdout.
struct Child {
  pid_t process = -1;
  int output = -1;
  int go = -1;  // a byte is written here when it may begin
};

Child start(const Options& options, const std::string& program_json, const std::string& allocations_json) {
  int output[2];
  int go[2];
  if (::pipe2(output, O_CLOEXEC) != 0 || ::pipe2(go, O_CLOEXEC) != 0) return {};
  std::vector<std::string> words = options.command;
  words.insert(words.end(), {"--json", program_json});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t process = ::fork();
  if (process == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::dup2(output[1], STDOUT_FILENO);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    char byte = 0;
    if (::read(go[0], &byte, 1) != 1) ::_exit(125);
    if (!options.allocations.empty()) {
      ::setenv("LD_PRELOAD", options.allocations.c_str(), 1);
      ::setenv("DMAFLOW_ALLOCATIONS", allocations_json.c_str(), 1);
    }
    ::execvp(arguments[0], arguments.data());
    std::fprintf(stderr, "error: %s: %s\n", arguments[0], std::strerror(errno));
    ::_exit(127);
  }
  ::close(output[1]);
  ::close(go[0]);
  return {.process = process, .output = output[0], .go = go[1]};
}

/// The results of one run.
struct Run {
  int status = 0;  // the program's exit status
  std::string said;
  Observed seen;
  std::optional<pid_t> screenshot;
};

void take_screenshot(Run& run, const std::string& command) {
  const std::string display = run.seen.display.substr(0, run.seen.display.find(' '));
  ::setenv("DMAFLOW_DISPLAY", display.c_str(), 1);
  const char* const arguments[] = {"sh", "-c", command.c_str(), nullptr};
  pid_t process = -1;
  if (::posix_spawnp(&process, "sh", nullptr, nullptr, const_cast<char* const*>(arguments), environ) == 0) {
    run.screenshot = process;
  }
}

/// Waits for the program to end, and observes it at intervals.
Run follow(const Options& options, const Child& child, measure::KernelTrace* trace, int signals) {
  using clock = std::chrono::steady_clock;
  constexpr auto step = std::chrono::milliseconds(250);
  // A second after the program began its buffers are allocated and frames move. The screenshot comes later, when the
  // picture is steady.
  constexpr auto first_look = std::chrono::milliseconds(1500);
  constexpr auto picture_at = std::chrono::milliseconds(2500);
  constexpr auto latest_picture_at = std::chrono::seconds(10);  // even if hardly a frame was shown
  constexpr std::size_t flips_before_picture = 3;
  Run run;
  const auto began = clock::now();
  std::optional<clock::time_point> streaming;
  auto next_look = clock::time_point::max();
  pollfd fds[] = {{child.output, POLLIN, 0}, {signals, POLLIN, 0}};
  while (true) {
    ::poll(fds, 2, static_cast<int>(step.count()));
    char text[4096];
    if ((fds[0].revents & (POLLIN | POLLHUP)) != 0) {
      const ssize_t size = ::read(child.output, text, sizeof text);
      if (size > 0) {
        run.said.append(text, static_cast<std::size_t>(size));
        std::fwrite(text, 1, static_cast<std::size_t>(size), stdout);
        std::fflush(stdout);
      } else {
        fds[0].fd = -1;
      }
    }
    signalfd_siginfo signal = {};
    if ((fds[1].revents & POLLIN) != 0 && ::read(signals, &signal, sizeof signal) == sizeof signal) {
      if (signal.ssi_signo != SIGCHLD) ::kill(child.process, SIGTERM);
    }
    int status = 0;
    if (::waitpid(child.process, &status, WNOHANG) == child.process) {
      run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      break;
    }
    const auto now = clock::now();
    if (trace != nullptr) trace->collect();
    const bool moves = trace != nullptr ? trace->counts().opened && !trace->counts().closed : now - began > first_look;
    if (!streaming && moves) {
      streaming = now;
      next_look = now + std::chrono::seconds(1);
    }
    if (moves && now >= next_look) {
      observe(run.seen, child.process);
      next_look = now + std::chrono::seconds(2);
    }
    const bool shows = trace == nullptr || trace->flips_so_far() >= flips_before_picture;
    if (streaming && moves && !run.screenshot && !options.screenshot.empty() && now - *streaming >= picture_at &&
        (shows || now - *streaming >= latest_picture_at)) {
      take_screenshot(run, options.screenshot);
    }
  }
  if (run.screenshot) ::waitpid(*run.screenshot, nullptr, 0);
  return run;
}

/// Collects the figures. A missing figure is null and has its reason.
class Report {
 public:
  template <typename T>
  void set(const char* key, T value) {
    data_[key] = std::move(value);
    missing_.erase(key);
  }
  void missing(const char* key, const std::string& why) {
    data_[key] = nullptr;
    missing_[key] = why;
  }
  [[nodiscard]] json at(const char* key) const { return data_.value(key, json()); }
  /// All figures, with the reasons for the missing ones.
  [[nodiscard]] json whole() const {
    json whole = data_;
    if (!missing_.empty()) whole["not_measured"] = missing_;
    return whole;
  }

 private:
  json data_ = json::object();
  std::map<std::string, std::string> missing_;
};

std::uint64_t sum_of(const std::map<std::string, std::uint64_t>& counts, std::initializer_list<const char*> names) {
  std::uint64_t sum = 0;
  for (const char* name : names) {
    const auto found = counts.find(name);
    if (found != counts.end()) sum += found->second;
  }
  return sum;
}

/// Percentiles of @p seconds by rank, and buckets of half a millisecond; both in milliseconds.
json distribution(std::vector<double> seconds) {
  std::ranges::sort(seconds);
  const auto rank = [&](double percent) {
    const auto at = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(seconds.size())));
    return seconds[std::clamp<std::size_t>(at, 1, seconds.size()) - 1] * 1e3;
  };
  std::map<long, std::uint64_t> counts;
  for (const double value : seconds) ++counts[std::lround(std::floor(value * 2e3))];
  json buckets = json::array();
  for (const auto& [half, count] : counts) {
    buckets.push_back(
        {{"from", static_cast<double>(half) / 2}, {"to", static_cast<double>(half + 1) / 2}, {"count", count}});
  }
  return {{"p50", rank(50)},
          {"p99", rank(99)},
          {"max", seconds.back() * 1e3},
          {"count", seconds.size()},
          {"buckets", buckets}};
}

/// How long frames spent in each device. The kernel traces the camera and the display; the program reports the GPU.
json stages_of(const measure::Counts& counts, const json& program) {
  json stages = json::array();
  const auto add = [&](const char* stage, const char* what, const json& times) {
    if (times.value("count", 0U) == 0) return;
    stages.push_back({{"stage", stage}, {"what", what}, {"p50", times["p50"]}, {"p99", times["p99"]}});
  };
  const auto traced = [](const std::vector<double>& seconds) {
    return seconds.empty() ? json::object() : distribution(seconds);
  };
  if (const json gpu = program.is_object() ? program.value("gpu", json()) : json(); gpu.is_object()) {
    add("camera", "from the time stamp to the GPU's submission", gpu.value("waited_ms", json::object()));
    add("GPU", "from the submission to the end of its work", gpu.value("turnaround_ms", json::object()));
  } else {
    add("camera", "from the time stamp to the commit", traced(counts.to_commit));
  }
  add("display", "from the commit to the flip", traced(counts.to_flip));
  return stages;
}

void report_calls(Report& report, const measure::Counts& counts, const Observed& seen, const std::string& why_not) {
  const bool whole = why_not.empty() && counts.frames > 0 && counts.lost == 0;
  if (!whole) {
    const std::string why = !why_not.empty()     ? why_not
                            : counts.frames == 0 ? "no frame was captured"
                                                 : "the kernel had no room for every event";
    for (const char* key : {"syscalls_per_frame", "imports_after_start", "mmaps_after_start", "frame_data_calls"}) {
      report.missing(key, why);
    }
    return;
  }
  const auto frames = static_cast<double>(counts.frames);
  report.set("frames_captured", counts.frames);
  report.set("syscalls_per_frame", static_cast<double>(counts.calls) / frames);
  report.set("syscalls", json{{"frames", counts.frames},
                              {"total", counts.calls},
                              {"by_name", counts.by_name},
                              {"before_start", counts.before}});
  report.set("imports_after_start",
             sum_of(counts.by_name,
                    {"ioctl DRM_IOCTL_PRIME_FD_TO_HANDLE", "ioctl DRM_IOCTL_PRIME_HANDLE_TO_FD",
                     "ioctl DRM_IOCTL_MODE_ADDFB", "ioctl DRM_IOCTL_MODE_ADDFB2", "ioctl DRM_IOCTL_MODE_CREATE_DUMB",
                     "ioctl DMA_HEAP_IOCTL_ALLOC", "ioctl UDMABUF_CREATE", "ioctl UDMABUF_CREATE_LIST",
                     "ioctl VIDIOC_EXPBUF", "ioctl VIDIOC_REQBUFS", "ioctl VIDIOC_CREATE_BUFS"}));
  report.set("mmaps_after_start", sum_of(counts.by_name, {"mmap"}));
  std::uint64_t data_calls = 0;
  for (const auto& [fd, calls] : counts.data_calls_by_fd) {
    if (seen.frame_fds.contains(static_cast<int>(fd))) data_calls += calls;
  }
  if (seen.samples > 0) {
    report.set("frame_data_calls", data_calls);
  } else {
    report.missing("frame_data_calls", "the program ended before it could be looked at");
  }
  // Flips in each whole second.
  std::vector<std::uint32_t> per_second;
  for (const double time : counts.flips) {
    const auto second = static_cast<std::size_t>(time);
    if (second >= per_second.size()) per_second.resize(second + 1);
    ++per_second[second];
  }
  // The GPU's output is not the frame that was dequeued last, so with a GPU the program's own latency is kept.
  const bool by_gpu = !report.at("gpu").is_null();
  if (!counts.latencies.empty() && !by_gpu) {
    report.set("latency_ms", distribution(counts.latencies));
    report.set("handover_to_flip_ms", distribution(counts.handovers));
  }
  if (!counts.flips.empty()) {
    report.set("flips", counts.flips.size());
    report.set("flips_per_second", per_second);
  }
}

void report_allocations(Report& report, const Options& options, const json& counted) {
  if (counted.is_object() && counted.value("streamed", false) && counted.value("frames", 0U) > 0) {
    report.set("heap_allocations_per_frame", counted["allocations"].get<double>() / counted["frames"].get<double>());
    report.set("heap_allocations", counted);
  } else {
    report.missing("heap_allocations_per_frame",
                   options.allocations.empty() ? "no counting library was given" : "the program left no count");
  }
}

void report_program(Report& report, const json& program) {
  const auto stream = program.is_object() ? program.value("streams", json::array()) : json::array();
  if (stream.empty() || stream[0].value("branches", json::array()).empty()) {
    for (const char* key :
         {"frames_captured", "frames_presented", "frames_dropped", "fps", "bytes_copied", "latency_ms"}) {
      report.missing(key, "the program left no statistics");
    }
    return;
  }
  const json& first = stream[0];
  const json& screen = first["branches"][0];
  const auto presented = screen.value("presented", std::uint64_t{0});
  const double elapsed = program.value("elapsed_s", 0.0);
  report.set("frames_captured", first.value("captured", std::uint64_t{0}));
  report.set("frames_presented", presented);
  // Frames that the viewer does not see: dropped by the branch, or lost by the camera for lack of a buffer or of time.
  report.set("frames_dropped", screen.value("dropped", std::uint64_t{0}) + first.value("lost", std::uint64_t{0}));
  if (elapsed > 0) {
    report.set("fps", static_cast<double>(presented) / elapsed);
  } else {
    report.missing("fps", "it ended at once");
  }
  report.set("bytes_copied", first.value("bytes_copied", std::uint64_t{0}));
  report.set("latency_ms", screen.value("latency_ms", json::object()));
  if (program.contains("gpu")) report.set("gpu", program["gpu"]);
  report.set("program", program);
}

void report_stream(Report& report, const Observed& seen, const std::string& said) {
  // "1280x720 XRGB8888 LINEAR 60.00/s in 7 buffers of display, no copy"
  static const std::regex plan(R"((\d+)x(\d+) (\S+) (\S+)[^\n]* in (\d+) buffers of ([^,\n]+))");
  json plans = json::array();
  for (std::sregex_iterator match(said.begin(), said.end(), plan), end; match != end; ++match) {
    plans.push_back({{"width", std::stoi((*match)[1])},
                     {"height", std::stoi((*match)[2])},
                     {"format", (*match)[3].str()},
                     {"modifier", (*match)[4].str()},
                     {"buffers", std::stoi((*match)[5])},
                     {"allocator", (*match)[6].str()}});
  }
  for (const char* key : {"allocator", "buffers", "format", "modifier", "width", "height"}) {
    if (plans.empty()) {
      report.missing(key, "the program printed no plan");
    } else {
      report.set(key, plans.front()[key]);
    }
  }
  if (plans.size() > 1) report.set("screen", plans.back());  // the output of a stage that converts the camera's frames
  // The framebuffer that the kernel reports on the screen.
  if (!seen.format.empty()) {
    report.set(
        "scanout",
        json{{"format", seen.format}, {"modifier", seen.modifier}, {"width", seen.width}, {"height", seen.height}});
  }
  report.set("plan", said);
  for (const auto& [key, value] : {std::pair{"camera", seen.camera}, {"display", seen.display}}) {
    if (value.empty()) {
      report.missing(key, "the program ended before it could be looked at");
    } else {
      report.set(key, value);
    }
  }
  if (seen.samples > 0) {
    report.set("frame_mappings", seen.mappings);
    report.set("descriptors", seen.descriptors);
  } else {
    for (const char* key : {"frame_mappings", "descriptors"}) {
      report.missing(key, "the program ended before it could be looked at");
    }
  }
  if (seen.samples > 1) {
    report.set("descriptors_after_start", seen.descriptors - seen.descriptors_at_first);
  } else {
    report.missing("descriptors_after_start", "the program ended before it could be looked at twice");
  }
}

std::string kernel() {
  utsname name = {};
  ::uname(&name);
  return fmt::format("{} {}", name.sysname, name.release);
}

int measure_it(const Options& options) {
  // Before any child is started: this process's signals are read from a descriptor, not handled.
  sigset_t wanted;
  ::sigemptyset(&wanted);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::sigaddset(&wanted, signal);
  ::sigprocmask(SIG_BLOCK, &wanted, nullptr);
  const int signals = ::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);

  const std::string program_json = options.out + ".program";
  const std::string allocations_json = options.out + ".allocations";
  std::string why_not;
  auto trace = measure::KernelTrace::create();
  if (!trace) why_not = trace.error();
  const Child child = start(options, program_json, allocations_json);
  if (child.process < 0) {
    fmt::print(stderr, "error: cannot start a process: {}\n", std::strerror(errno));
    return 1;
  }
  if (trace && !(*trace)->watch(child.process)) why_not = "the kernel refused to trace the program";
  [[maybe_unused]] const auto told = ::write(child.go, "", 1);
  const Run run = follow(options, child, trace ? trace->get() : nullptr, signals);

  Report report;
  report_program(report, read_json(program_json));
  const measure::Counts counts = trace ? (*trace)->finish() : measure::Counts{};
  report_calls(report, counts, run.seen, why_not);
  report.set("stages_ms", stages_of(counts, report.at("program")));
  report_allocations(report, options, read_json(allocations_json));
  report_stream(report, run.seen, run.said);
  report.set("kernel", kernel());
  report.set("exit_status", run.status);
  std::error_code ignored;
  fs::remove(program_json, ignored);
  fs::remove(allocations_json, ignored);
  std::ofstream out(options.out);
  out << report.whole().dump(2) << '\n';
  if (!out.flush()) {
    fmt::print(stderr, "error: cannot write {}\n", options.out);
    return 1;
  }
  return run.status;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Runs a camera program and measures it from outside. Ends with the program's exit status.");
  app.add_option("--out", options.out, "the figures, as JSON")->required();
  app.add_option("--allocations", options.allocations, "the library that counts allocations in the program");
  app.add_option("--screenshot", options.screenshot,
                 "a command to run once while frames move; $DMAFLOW_DISPLAY is the display's device");
  app.add_option("command", options.command, "the program and its arguments; it must take --json FILE")->required();
  app.positionals_at_end();
  CLI11_PARSE(app, argc, argv);
  return measure_it(options);
}
