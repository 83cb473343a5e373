#include "outside_trace.hpp"

#include "../examples/trace_text.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include <drm.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace outside {
namespace {

namespace fs = std::filesystem;
const fs::path tracing = "/sys/kernel/tracing";
constexpr std::string_view enter = ": sys_enter: NR ";
constexpr std::string_view leave = ": sys_exit: NR ";

constexpr bool shows_a_frame(std::uint64_t request) {
  return request == DRM_IOCTL_MODE_ATOMIC || request == DRM_IOCTL_MODE_PAGE_FLIP || request == DRM_IOCTL_MODE_SETPLANE;
}

std::uint64_t number_after(const char* begin, const char* end, std::string_view key) {
  std::uint64_t number = 0;
  if (const char* at = measure::find(begin, end, key)) std::from_chars(at + key.size(), end, number);
  return number;
}

std::vector<pid_t> threads_of(pid_t process) {
  std::vector<pid_t> threads;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(process) + "/task", error)) {
    threads.push_back(static_cast<pid_t>(std::stol(entry.path().filename())));
  }
  return threads;
}

}  // namespace

std::expected<std::unique_ptr<Trace>, std::string> Trace::start(std::span<const pid_t> processes) {
  if (!fs::exists(tracing / "instances") && ::mount("tracefs", tracing.c_str(), "tracefs", 0, nullptr) != 0) {
    return std::unexpected("tracefs cannot be mounted: " + std::system_category().message(errno));
  }
  std::unique_ptr<Trace> my(new Trace);
  const std::string instance = tracing / "instances" / ("dmaflow-outside-" + std::to_string(::getpid()));
  std::error_code error;
  if (!fs::create_directory(instance, error)) return std::unexpected("tracefs has no instances: " + error.message());
  my->instance_ = instance;
  std::string filter;
  for (std::size_t i = 0; i < processes.size(); ++i) {
    for (const pid_t thread : threads_of(processes[i])) {
      my->threads_[thread] = i;
      filter += (filter.empty() ? "" : " || ") + ("common_pid == " + std::to_string(thread));
    }
  }
  my->given_.resize(processes.size());
  my->commits_.resize(processes.size());
  my->traced_.programs.resize(processes.size());
  bool done = measure::write_file(instance + "/trace_clock", "mono");
  measure::write_file(instance + "/buffer_size_kb", "4096");
  for (const char* event : {"sys_enter", "sys_exit"}) {
    const std::string directory = instance + "/events/raw_syscalls/" + event;
    done = done && measure::write_file(directory + "/filter", filter);
    done = done && measure::write_file(directory + "/enable", "1");
  }
  for (const char* event : {"vb2/vb2_dqbuf", "drm/drm_vblank_event_delivered"}) {
    done = done && measure::write_file(instance + "/events/" + event + "/enable", "1");
  }
  if (!done) return std::unexpected("the kernel refused to trace: " + std::system_category().message(errno));
  my->pipe_ = dmaflow::Fd::adopt(::open((instance + "/trace_pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!my->pipe_) return std::unexpected("trace_pipe cannot be opened");
  return my;
}

Trace::~Trace() {
  pipe_ = {};
  if (!instance_.empty()) ::rmdir(instance_.c_str());
}

void Trace::collect() {
  char buffer[1 << 16];
  for (ssize_t size = 0; (size = ::read(pipe_.get(), buffer, sizeof buffer)) > 0;) {
    rest_.append(buffer, static_cast<std::size_t>(size));
    std::size_t start = 0;
    for (std::size_t end = 0; (end = rest_.find('\n', start)) != std::string::npos; start = end + 1) {
      line(rest_.data() + start, rest_.data() + end);
    }
    rest_.erase(0, start);
  }
}

const Traced& Trace::finish() {
  measure::write_file(instance_ + "/tracing_on", "0");
  collect();
  pair();
  std::error_code error;
  for (const auto& cpu : fs::directory_iterator(instance_ + "/per_cpu", error)) {
    std::ifstream stats(cpu.path() / "stats");
    for (std::string text; std::getline(stats, text);) {
      traced_.lost += number_after(text.data(), text.data() + text.size(), "overrun: ");
    }
  }
  return traced_;
}

void Trace::line(const char* begin, const char* end) {
  if (const char* flip = measure::find(begin, end, ": drm_vblank_event_delivered:")) {
    traced_.flips.push_back(measure::time_of(begin, flip));
    return;
  }
  const std::int64_t thread = measure::thread_of(begin, end);
  const auto owner = threads_.find(thread);
  if (owner == threads_.end()) return;
  if (const char* given = measure::find(begin, end, ": vb2_dqbuf:")) {
    ++traced_.programs[owner->second].frames;
    given_[owner->second].push_back(
        {.time = measure::time_of(begin, given),
         .timestamp = static_cast<double>(number_after(given, end, " timestamp = ")) / 1e9});
  } else if (const char* in = measure::find(begin, end, enter)) {
    entered(thread, owner->second, measure::time_of(begin, in), in + enter.size(), end);
  } else if (const char* out = measure::find(begin, end, leave)) {
    left(thread, owner->second, out + leave.size(), end);
  }
}

// "16 (5, c0585611, 7ffd0, 0, 0, 0)"
void Trace::entered(std::int64_t thread, std::size_t program, double time, const char* begin, const char* end) {
  Call call{.time = time};
  std::from_chars(begin, end, call.number);
  if (const char* comma = measure::find(begin, end, ", ")) std::from_chars(comma + 2, end, call.request, 16);
  call.request = call.number == SYS_ioctl ? measure::request_of(call.request) : 0;
  ++traced_.programs[program].by_name[measure::call_name(call.number, call.request)];
  pending_[thread] = call;
}

// "16 = 0"
void Trace::left(std::int64_t thread, std::size_t program, const char* begin, const char* end) {
  const auto call = pending_.find(thread);
  if (call == pending_.end()) return;
  std::int64_t result = -1;
  if (const char* equals = measure::find(begin, end, " = ")) std::from_chars(equals + 3, end, result);
  if (result == 0 && shows_a_frame(call->second.request)) {
    commits_[program][call->second.request].push_back(call->second.time);
  }
  pending_.erase(call);
}

void Trace::pair() {
  for (std::size_t i = 0; i < traced_.programs.size(); ++i) {
    TracedProgram& program = traced_.programs[i];
    // A program may make two kinds of calls for each frame (set a plane, then flip to learn the time). Only one is
    // used.
    for (auto& [request, times] : commits_[i]) {
      if (times.size() > program.commits.size()) program.commits = times;
    }
    if (traced_.programs.size() > 1) continue;
    for (const double commit : program.commits) {
      const auto flip = std::ranges::lower_bound(traced_.flips, commit);
      const auto frame = std::ranges::lower_bound(given_[i], commit, {}, &Given::time);
      // The newest frame that the program had dequeued.
      if (flip == traced_.flips.end() || frame == given_[i].begin()) continue;
      program.latencies.push_back(*flip - std::prev(frame)->timestamp);
    }
  }
}

}  // namespace outside
