// The kernel's counters for a program and for the whole machine, without tracing: perf's counters on tracepoints, and
// /proc. Reading them costs a few system calls. Between two readings the cost is too small to measure.
#pragma once

#include <dmaflow/fd.hpp>

#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

namespace outside {

/// Counts of one program with all its threads, since its start.
struct ProcessCounts {
  std::uint64_t calls = 0;   ///< system calls
  std::uint64_t frames = 0;  ///< frames that it dequeued from a camera (vb2_dqbuf)
  std::uint64_t cpu_ns = 0;  ///< CPU time, user and kernel
  double user_s = 0;         ///< the user part as accounted in /proc, in whole hundredths of a second
  double system_s = 0;
};

class ProcessCounters {
 public:
  /// For a process that has no threads yet. The error is the reason as text.
  static std::expected<ProcessCounters, std::string> open(pid_t process);
  [[nodiscard]] ProcessCounts now() const;
  /// The number of its open descriptors. Takes longer than now(), so do not call it within a window.
  [[nodiscard]] std::int64_t descriptors() const;

 private:
  pid_t process_ = -1;
  dmaflow::Fd calls_;
  dmaflow::Fd frames_;
  dmaflow::Fd cpu_;
};

/// Counts of the whole machine.
struct GuestCounts {
  std::uint64_t flips = 0;  ///< flip events of displays (drm_vblank_event_delivered)
  double busy_s = 0;        ///< CPU time of all tasks on all processors, including the kernel's threads
};

class GuestCounters {
 public:
  static std::expected<GuestCounters, std::string> open();
  [[nodiscard]] GuestCounts now() const;

 private:
  std::vector<dmaflow::Fd> flips_;  // one for each processor
};

/// The name and CPU time of one of the kernel's own threads.
struct KernelThread {
  std::string name;
  double seconds = 0;
};
std::map<pid_t, KernelThread> kernel_threads();

/// CPU seconds between two readings, by the threads' purpose: "camera" (vivid), "workers" (kworker), "other".
std::map<std::string, double> spent(const std::map<pid_t, KernelThread>& from, const std::map<pid_t, KernelThread>& to);

}  // namespace outside
