// Identifies processes although pids are reused: a pid with its start time, and a descriptor (pidfd).
//
// A pidfd names one process for as long as it is open, needs no privilege, and cannot lose its report. It becomes
// readable when the whole process has ended, not when its first thread has ended, which process events report as an
// exit too.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <compare>
#include <cstdint>
#include <utility>

#include <sys/types.h>

namespace dmaflow::connector {

/// A process, distinguished from earlier and later processes with the same pid. A value.
struct ProcessId {
  pid_t pid = 0;  ///< of the process, not of a thread (tgid)
  std::uint64_t start =
      0;  ///< clock ticks (sysconf(_SC_CLK_TCK)) from boot to its start, as in /proc/PID/stat; 0: unknown
  friend constexpr auto operator<=>(const ProcessId&, const ProcessId&) = default;
};

/// The process that has this pid now, with its start time. Errors: ESRCH (none, or it is a thread's); EACCES (hidden by
/// the mount options of /proc), ENOENT (no /proc here).
[[nodiscard]] Result<ProcessId> identify(pid_t pid);

/// Refers to one process. Move-only; const functions may be called from several threads.
class Process {
 public:
  /// @p id: with a start time it must be exactly that process. Errors: ESRCH (it is gone, or its pid has another
  /// process now), EINVAL (a thread's pid, or none), EMFILE, ENOSYS (before kernel 5.3).
  [[nodiscard]] static Result<Process> open(ProcessId id);
  [[nodiscard]] static Result<Process> open(pid_t pid) { return open(ProcessId{.pid = pid, .start = 0}); }

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Readable (POLLIN) once all its threads have ended, before or after it is reaped. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept { return fd_.get(); }
  /// Checks, with one system call.
  [[nodiscard]] bool has_exited() const noexcept;
  /// Errors: ETIMEDOUT, ECANCELED.
  [[nodiscard]] Result<void> wait_for_exit(Deadline deadline, const Cancel* cancel = nullptr) const noexcept;

 private:
  Process(pid_t pid, Fd fd) noexcept : pid_(pid), fd_(std::move(fd)) {}
  pid_t pid_;
  Fd fd_;
};

/// Waits until the whole process has ended; if it is gone already, it has. Pass the start time if the pid may have been
/// reused. Errors: ETIMEDOUT, ECANCELED, EINVAL (a thread's pid), EMFILE, ENOSYS.
[[nodiscard]] Result<void> wait_for_exit(ProcessId id, Deadline deadline, const Cancel* cancel = nullptr);

}  // namespace dmaflow::connector
