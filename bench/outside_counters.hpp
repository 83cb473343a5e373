// What the kernel counts of a program and of the whole machine, without tracing: perf's counters on tracepoints, and
// /proc. To look costs a few system calls; between two looks it costs nothing that could be measured.
#pragma once

#include <dmaflow/fd.hpp>

#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

namespace outside {

/// Of one program, all its threads, since its start.
struct ProcessCounts {
  std::uint64_t calls = 0;   ///< system calls
  std::uint64_t frames = 0;  ///< that a camera's queue gave it (vb2_dqbuf)
  std::uint64_t cpu_ns = 0;  ///< on a processor, user and kernel
  double user_s = 0;         ///< of it by the accounting of /proc, in whole hundredths
  double system_s = 0;
};

class ProcessCounters {
 public:
  /// For a process that has no threads yet. The reason in words where the kernel refuses.
  static std::expected<ProcessCounters, std::string> open(pid_t process);
  [[nodiscard]] ProcessCounts now() const;
  /// How many it has open. Takes longer than now(): not within a window.
  [[nodiscard]] std::int64_t descriptors() const;

 private:
  pid_t process_ = -1;
  dmaflow::Fd calls_;
  dmaflow::Fd frames_;
  dmaflow::Fd cpu_;
};

/// Of the whole machine.
struct GuestCounts {
  std::uint64_t flips = 0;  ///< events of displays (drm_vblank_event_delivered)
  double busy_s = 0;        ///< what all tasks of all processors have used, the kernel's threads included
};

class GuestCounters {
 public:
  static std::expected<GuestCounters, std::string> open();
  [[nodiscard]] GuestCounts now() const;

 private:
  std::vector<dmaflow::Fd> flips_;  // one a processor
};

/// What the kernel's own threads have used, by process id: a name and seconds.
struct KernelThread {
  std::string name;
  double seconds = 0;
};
std::map<pid_t, KernelThread> kernel_threads();

/// Seconds between two looks, by what they do: "camera" (vivid), "workers" (kworker), "other".
std::map<std::string, double> spent(const std::map<pid_t, KernelThread>& from, const std::map<pid_t, KernelThread>& to);

}  // namespace outside
