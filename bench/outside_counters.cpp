#include "outside_counters.hpp"

#include "tracepoint.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include <linux/perf_event.h>
#include <unistd.h>

namespace outside {
namespace {

namespace fs = std::filesystem;
using bench::kernel_counter;

std::uint64_t count_of(const dmaflow::Fd& fd) {
  std::uint64_t count = 0;
  return ::read(fd.get(), &count, sizeof count) == sizeof count ? count : 0;
}

double tick() { return 1.0 / static_cast<double>(::sysconf(_SC_CLK_TCK)); }

/// The fields of /proc/PID/stat after the name, which may contain anything. The first is the state, field 3 of proc(5).
std::vector<std::string> stat_fields(const fs::path& proc, std::string* name = nullptr) {
  std::ifstream file(proc / "stat");
  std::string line;
  std::getline(file, line);
  const auto open = line.find('(');
  const auto close = line.rfind(')');
  if (open == std::string::npos || close == std::string::npos) return {};
  if (name != nullptr) *name = line.substr(open + 1, close - open - 1);
  std::istringstream rest(line.substr(close + 1));
  std::vector<std::string> fields;
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

/// The CPU time of one processor's tasks, including interrupts during them (Documentation/scheduler/sched-stats.rst).
double tasks_of(std::istringstream& line) {
  std::uint64_t nanoseconds = 0;
  std::string word;
  for (int field = 1; field <= 6; ++field) line >> word;
  line >> nanoseconds;
  return static_cast<double>(nanoseconds) / 1e9;
}

}  // namespace

std::expected<ProcessCounters, std::string> ProcessCounters::open(pid_t process) {
  ProcessCounters my;
  my.process_ = process;
  auto calls = kernel_counter("raw_syscalls/sys_enter", process, -1);
  if (!calls) return std::unexpected(calls.error());
  auto frames = kernel_counter("vb2/vb2_dqbuf", process, -1);
  if (!frames) return std::unexpected(frames.error());
  auto cpu = kernel_counter(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, process, -1);
  if (!cpu) return std::unexpected(cpu.error());
  my.calls_ = std::move(*calls);
  my.frames_ = std::move(*frames);
  my.cpu_ = std::move(*cpu);
  return my;
}

ProcessCounts ProcessCounters::now() const {
  ProcessCounts counts{.calls = count_of(calls_), .frames = count_of(frames_), .cpu_ns = count_of(cpu_)};
  const auto fields = stat_fields("/proc/" + std::to_string(process_));
  constexpr std::size_t user = 14 - 3;  // proc(5): utime and stime
  if (fields.size() > user + 1) {
    counts.user_s = std::stod(fields[user]) * tick();
    counts.system_s = std::stod(fields[user + 1]) * tick();
  }
  return counts;
}

std::int64_t ProcessCounters::descriptors() const {
  std::error_code error;
  return std::distance(fs::directory_iterator("/proc/" + std::to_string(process_) + "/fd", error), {});
}

std::expected<GuestCounters, std::string> GuestCounters::open() {
  GuestCounters my;
  for (int processor = 0; processor < ::sysconf(_SC_NPROCESSORS_ONLN); ++processor) {
    auto flips = kernel_counter("drm/drm_vblank_event_delivered", -1, processor);
    if (!flips) return std::unexpected(flips.error());
    my.flips_.push_back(std::move(*flips));
  }
  return my;
}

GuestCounts GuestCounters::now() const {
  GuestCounts counts;
  for (const dmaflow::Fd& flips : flips_) counts.flips += count_of(flips);
  std::ifstream stats("/proc/schedstat");
  for (std::string text; std::getline(stats, text);) {
    std::istringstream line(text);
    std::string name;
    if (line >> name && name.starts_with("cpu")) counts.busy_s += tasks_of(line);
  }
  return counts;
}

std::map<pid_t, KernelThread> kernel_threads() {
  constexpr std::size_t parent = 4 - 3;
  std::map<pid_t, KernelThread> threads;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string digits = entry.path().filename();
    pid_t process = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), process);
    if (process <= 0) continue;
    KernelThread thread;
    const auto fields = stat_fields(entry.path(), &thread.name);
    // kthreadd has process id 2 and is the parent of all other kernel threads.
    if (fields.size() <= parent || fields[parent] != "2") continue;
    std::uint64_t nanoseconds = 0;
    std::ifstream(entry.path() / "schedstat") >> nanoseconds;
    thread.seconds = static_cast<double>(nanoseconds) / 1e9;
    threads.emplace(process, std::move(thread));
  }
  return threads;
}

std::map<std::string, double> spent(const std::map<pid_t, KernelThread>& from,
                                    const std::map<pid_t, KernelThread>& to) {
  std::map<std::string, double> sums = {{"camera", 0}, {"workers", 0}, {"other", 0}};
  for (const auto& [process, thread] : to) {
    const auto before = from.find(process);
    const double seconds = thread.seconds - (before == from.end() ? 0 : before->second.seconds);
    const char* const what = thread.name.starts_with("vivid")     ? "camera"
                             : thread.name.starts_with("kworker") ? "workers"
                                                                  : "other";
    sums[what] += seconds;
  }
  return sums;
}

}  // namespace outside
