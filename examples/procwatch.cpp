// Shows what processes do, as the kernel reports it: forks, execs, exits and more, live, with the number of lost
// events.
//
//     procwatch                               everything
//     procwatch --events exec,exit            only these
//     procwatch --exit-nonzero                processes that failed, with their exit code or signal
//     procwatch --tree --pid 1234             one process and its descendants, indented by descent
//     procwatch --json --seconds 10           one object a line, the last one is the summary
//
// Ends after --seconds or --count events, or on Ctrl-C, with a summary on stderr. Status 0; 1 if it cannot listen.
#include <dmaflow/process_events.hpp>
#include <dmaflow/process_table.hpp>
#include <dmaflow/stop.hpp>

#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <poll.h>
#include <unistd.h>

namespace {

using namespace dmaflow::connector;
using Clock = dmaflow::Deadline::Clock;
using nlohmann::json;

struct Settings {
  std::vector<std::string> events;
  bool threads = false;
  bool exit_nonzero = false;
  bool is_json = false;
  bool tree = false;
  std::string color = "auto";
  pid_t pid = 0;
  std::string name;
  double seconds = 0;
  std::uint64_t count = 0;
  std::uint32_t buffer_kib = 8192;
};

const std::map<std::string, ProcessEventMask> masks{
    {"fork", ProcessEventMask::fork}, {"exec", ProcessEventMask::exec},      {"uid", ProcessEventMask::uid},
    {"gid", ProcessEventMask::gid},   {"sid", ProcessEventMask::session},    {"ptrace", ProcessEventMask::ptrace},
    {"comm", ProcessEventMask::name}, {"core", ProcessEventMask::core_dump}, {"exit", ProcessEventMask::exit}};

/// The data kept for a process, from its fork or from the first scan until its exit.
struct Known {
  std::string name;
  pid_t parent = 0;
  std::chrono::nanoseconds began{};
};

std::string read_name(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/cmdline", pid), std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  while (!text.empty() && text.back() == '\0') text.pop_back();
  // A name may contain control characters, which a terminal would interpret.
  std::ranges::replace_if(text, [](unsigned char c) { return c < ' ' || c == 127; }, ' ');
  if (!text.empty()) return text.substr(0, 100);
  std::getline(std::ifstream(fmt::format("/proc/{}/comm", pid)), text);
  return text.empty() ? "" : fmt::format("[{}]", text);
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

/// One event, ready to be shown.
struct Line {
  const char* what = "";
  const char* color = "";
  Task task{};
  std::string detail;
  json fields;
};

class Watch {
 public:
  Watch(Settings settings, bool colors) : settings_(std::move(settings)), colors_(colors) {}

  void begin(const ProcessTable& table) {
    table.for_each(
        [&](const ProcessTable::Entry& entry) { known_[entry.id.pid] = {read_name(entry.id.pid), entry.parent, {}}; });
  }
  void take(const ProcessEvent& event);
  void print_summary(const ProcessEvents& events, double seconds) const;
  [[nodiscard]] std::uint64_t shown() const { return shown_; }
  [[nodiscard]] std::uint64_t seen() const { return seen_; }

 private:
  Line describe(const ProcessEvent& event);
  [[nodiscard]] bool is_wanted(const ProcessEvent& event, const Line& line) const;
  void print(const ProcessEvent& event, const Line& line);
  [[nodiscard]] std::string name_of(pid_t pid) const {
    const auto found = known_.find(pid);
    return found == known_.end() ? "" : found->second.name;
  }
  [[nodiscard]] int depth_of(pid_t pid) const {
    int depth = 0;
    for (auto at = known_.find(pid); at != known_.end() && depth < 64; at = known_.find(at->second.parent)) ++depth;
    return depth;
  }
  [[nodiscard]] bool descends(pid_t pid) const {
    int depth = 0;
    for (auto at = known_.find(pid); at != known_.end() && depth < 64; at = known_.find(at->second.parent), ++depth) {
      if (at->first == settings_.pid) return true;
    }
    return false;
  }

  Settings settings_;
  bool colors_;
  std::map<pid_t, Known> known_;
  std::map<std::string, std::uint64_t> totals_;
  std::uint64_t shown_ = 0;
  std::uint64_t seen_ = 0;
};

Line identity(const char* what, const char* kind, Task task, unsigned real, unsigned effective) {
  return {what,
          "\033[35m",
          task,
          fmt::format("{} {} effective {}", kind, real, effective),
          {{"real", real}, {"effective", effective}}};
}

Line describe_exit(const Exit& exit, const std::string& lived) {
  Line line{"exit", exit.status == 0 ? "\033[90m" : "\033[31m", exit.task, {}, {}};
  if (exit.signal() != 0) {
    line.detail = fmt::format("killed by {}{}", signal_name(exit.signal()), exit.dumped_core() ? ", core dumped" : "");
    line.fields = {{"signal", exit.signal()}, {"core_dumped", exit.dumped_core()}};
  } else {
    line.detail = fmt::format("code {}", *exit.code());
    line.fields = {{"code", *exit.code()}};
  }
  if (!lived.empty()) line.detail += fmt::format(" after {} s", lived);
  return line;
}

Line Watch::describe(const ProcessEvent& event) {
  if (const auto* fork = event.as<Fork>()) {
    if (fork->is_process()) known_[fork->child.pid] = {name_of(fork->parent.tgid), fork->parent.tgid, event.time};
    return {fork->is_process() ? "fork" : "thread",
            "\033[32m",
            fork->child,
            fork->is_process() ? fmt::format("of {}", fork->parent.tgid) : "",
            {{"parent_pid", fork->parent.pid}, {"parent_tgid", fork->parent.tgid}}};
  }
  if (const auto* exec = event.as<Exec>()) {
    // Read after the event: if the process has ended meanwhile, it keeps its old name.
    if (std::string name = read_name(exec->task.tgid); !name.empty()) known_[exec->task.tgid].name = std::move(name);
    return {"exec", "\033[36m", exec->task, "", {}};
  }
  if (const auto* uid = event.as<UidChange>()) return identity("uid", "uid", uid->task, uid->real, uid->effective);
  if (const auto* gid = event.as<GidChange>()) return identity("gid", "gid", gid->task, gid->real, gid->effective);
  if (const auto* session = event.as<SessionStart>()) return {"sid", "\033[34m", session->task, "new session", {}};
  if (const auto* ptrace = event.as<Ptrace>()) {
    return {"ptrace",
            "\033[33m",
            ptrace->task,
            ptrace->tracer.pid == 0 ? "let go"
                                    : fmt::format("traced by {} {}", ptrace->tracer.tgid, name_of(ptrace->tracer.tgid)),
            {{"tracer_pid", ptrace->tracer.pid}, {"tracer_tgid", ptrace->tracer.tgid}}};
  }
  if (const auto* name = event.as<NameChange>()) {
    return {"comm", "\033[34m", name->task, fmt::format("now called {}", name->name()), {{"comm", name->name()}}};
  }
  if (const auto* dump = event.as<CoreDump>()) return {"core", "\033[31m", dump->task, "dumps its core", {}};
  if (const auto* exit = event.as<Exit>()) {
    const auto found = known_.find(exit->task.tgid);
    std::string lived;
    if (exit->is_first_thread() && found != known_.end() && found->second.began.count() != 0) {
      lived = fmt::format("{:.3f}", std::chrono::duration<double>(event.time - found->second.began).count());
    }
    return describe_exit(*exit, lived);
  }
  if (const auto* lost = event.as<Lost>())
    return {"lost", "\033[1;31m", {}, fmt::format("{} events", lost->count), {{"count", lost->count}}};
  return {"unknown", "", {}, "", {}};
}

bool Watch::is_wanted(const ProcessEvent& event, const Line& line) const {
  if (event.as<Lost>() != nullptr) return true;
  if (line.task.pid != line.task.tgid && !settings_.threads) return false;
  const auto* exit = event.as<Exit>();
  if (settings_.exit_nonzero && (exit == nullptr || exit->status == 0)) return false;
  if (!settings_.events.empty()) {
    const std::string what = std::strcmp(line.what, "thread") == 0 ? "fork" : line.what;
    if (std::ranges::find(settings_.events, what) == settings_.events.end()) return false;
  }
  if (settings_.pid != 0 && !descends(line.task.tgid)) return false;
  return settings_.name.empty() || name_of(line.task.tgid).find(settings_.name) != std::string::npos;
}

void Watch::print(const ProcessEvent& event, const Line& line) {
  if (settings_.is_json) {
    json object = line.fields.is_null() ? json::object() : line.fields;
    object["event"] = line.what;
    if (event.as<Lost>() == nullptr) {
      object["time_ns"] = event.time.count();
      object["cpu"] = event.cpu;
      object["pid"] = line.task.pid;
      object["tgid"] = line.task.tgid;
      object["name"] = name_of(line.task.tgid);
    }
    fmt::print("{}\n", object.dump(-1, ' ', false, json::error_handler_t::replace));
    return;
  }
  const std::string indent(settings_.tree ? static_cast<std::size_t>(std::max(0, depth_of(line.task.tgid) - 1)) * 2 : 0,
                           ' ');
  const double seconds = std::chrono::duration<double>(event.time).count();
  const std::string when = event.as<Lost>() == nullptr ? fmt::format("{:12.6f}", seconds) : std::string(12, ' ');
  const std::string who = line.task.pid == 0                ? ""
                          : line.task.pid == line.task.tgid ? std::to_string(line.task.pid)
                                                            : fmt::format("{}/{}", line.task.tgid, line.task.pid);
  fmt::print("{}  {}{:7}{} {:>7}  {}{}{}{}\n", when, colors_ ? line.color : "", line.what, colors_ ? "\033[0m" : "",
             who, indent, name_of(line.task.tgid), line.detail.empty() ? "" : "  ", line.detail);
}

void Watch::take(const ProcessEvent& event) {
  const Line line = describe(event);
  ++totals_[line.what];
  ++seen_;
  if (is_wanted(event, line)) {
    print(event, line);
    ++shown_;
  }
  if (const auto* exit = event.as<Exit>(); exit != nullptr && exit->is_first_thread()) known_.erase(exit->task.tgid);
}

void Watch::print_summary(const ProcessEvents& events, double seconds) const {
  const auto counters = events.counters();
  if (settings_.is_json) {
    fmt::print("{}\n", json{{"summary",
                             {{"seconds", seconds},
                              {"events", counters.events},
                              {"shown", shown_},
                              {"lost", counters.lost},
                              {"rejected", counters.foreign},
                              {"system_calls", counters.receive_calls},
                              {"totals", totals_}}}}
                           .dump());
    return;
  }
  std::fflush(stdout);
  fmt::print(stderr, "\n{} events in {:.1f} s ({:.0f}/s), {} shown, {} lost, {} system calls to read them\n",
             counters.events, seconds, static_cast<double>(counters.events) / std::max(seconds, 0.001), shown_,
             counters.lost, counters.receive_calls);
  for (const auto& [what, count] : totals_)
    fmt::print(stderr, "  {:7} {:8}  {:.1f}/s\n", what, count, static_cast<double>(count) / std::max(seconds, 0.001));
  if (counters.foreign > 0) fmt::print(stderr, "  {} messages from other programs were rejected\n", counters.foreign);
}

/// A line on the terminal that is updated once a second.
class RateLine {
 public:
  explicit RateLine(bool is_on) : is_on_(is_on) {}
  void update(std::uint64_t events, std::uint64_t lost) {
    const auto now = Clock::now();
    if (!is_on_ || now - last_ < std::chrono::seconds(1)) return;
    const double span = std::chrono::duration<double>(now - last_).count();
    fmt::print(stderr, "\r\033[K{:.0f} events/s, {} lost\r", static_cast<double>(events - events_) / span, lost);
    last_ = now;
    events_ = events;
  }
  void clear() const {
    if (is_on_) fmt::print(stderr, "\r\033[K");
  }

 private:
  bool is_on_;
  Clock::time_point last_ = Clock::now();
  std::uint64_t events_ = 0;
};

int fail(const dmaflow::Error& error) {
  fmt::print(stderr, "error: {}\n", error.message());
  return 1;
}

int run(const Settings& settings) {
  const auto stop = dmaflow::stop_on_signals();
  if (!stop) return fail(stop.error());
  // Names and descent need forks, execs and exits, no matter which events are shown.
  ProcessEventMask mask = settings.events.empty() && !settings.exit_nonzero
                              ? ProcessEventMask::all
                              : ProcessEventMask::fork | ProcessEventMask::exec | ProcessEventMask::exit;
  for (const std::string& event : settings.events) mask = mask | masks.at(event);
  auto events = ProcessEvents::open({.events = mask, .receive_buffer = settings.buffer_kib * 1024});
  if (!events) return fail(events.error());
  if (!(*events)->receive_buffer().is_as_asked) {
    fmt::print(
        stderr,
        "warning: the receive buffer is {} KiB only (run as root, or raise net.core.rmem_max): more may be lost\n",
        (*events)->receive_buffer().bytes / 1024);
  }
  const bool colors = settings.color == "always" ||
                      (settings.color == "auto" && ::isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr);
  Watch watch(settings, colors && !settings.is_json);
  ProcessTable before;
  if (auto scanned = before.scan(); !scanned) return fail(scanned.error());
  watch.begin(before);

  const auto begun = Clock::now();
  const auto end =
      settings.seconds > 0
          ? begun + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(settings.seconds))
          : Clock::time_point::max();
  RateLine rate(::isatty(STDERR_FILENO) != 0 && !settings.is_json);
  bool is_over = false;
  while (!is_over) {
    while (!is_over) {
      const auto event = (*events)->take();
      if (!event) return fail(event.error());
      if (!*event) break;
      rate.clear();
      watch.take(**event);
      is_over = settings.count > 0 && watch.shown() >= settings.count;
    }
    std::fflush(stdout);
    rate.update((*events)->counters().events, (*events)->counters().lost);
    std::array<pollfd, 2> fds{pollfd{(*events)->poll_fd(), POLLIN, 0}, pollfd{stop->get(), POLLIN, 0}};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (!is_over) ::poll(fds.data(), fds.size(), static_cast<int>(std::clamp<long long>(left, 0, 1000)));
    is_over = is_over || fds[1].revents != 0 || Clock::now() >= end || std::ferror(stdout) != 0;
  }
  rate.clear();
  watch.print_summary(**events, std::chrono::duration<double>(Clock::now() - begun).count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::vector<std::string> names;
  for (const auto& [name, mask] : masks) names.push_back(name);
  CLI::App app("Shows what processes do, as the kernel tells it.");
  app.add_option("--events", settings.events, "only these: fork, exec, exit, uid, gid, sid, ptrace, comm, core")
      ->delimiter(',')
      ->check(CLI::IsMember(names));
  app.add_flag("--exit-nonzero", settings.exit_nonzero, "only exits with another code than 0, or by a signal");
  app.add_flag("--threads", settings.threads, "threads too, not only processes");
  app.add_flag("--tree", settings.tree, "indent by descent");
  app.add_flag("--json", settings.is_json, "one JSON object a line");
  app.add_option("--pid", settings.pid, "only this process and its descendants")->check(CLI::PositiveNumber);
  app.add_option("--name", settings.name, "only processes whose command line holds this text");
  app.add_option("--seconds", settings.seconds, "end after this time")->check(CLI::PositiveNumber);
  app.add_option("--count", settings.count, "end after this many lines")->check(CLI::PositiveNumber);
  app.add_option("--buffer", settings.buffer_kib, "receive buffer in KiB (default 8192)")
      ->check(CLI::Range(4, 1'048'576));
  app.add_option("--color", settings.color, "auto (default), always or never")
      ->check(CLI::IsMember(std::vector<std::string>{"auto", "always", "never"}));
  CLI11_PARSE(app, argc, argv);
  return run(settings);
}
