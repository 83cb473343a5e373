// Processes that are told apart although pids come back: a pid with its start time, and a descriptor (pidfd).
//
// A pidfd names one process for as long as it is open, needs no privilege, cannot lose its report, and becomes readable
// when the whole process has ended: not when its first thread has, which process events call an exit too.
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

/// A process, told apart from those that had its pid before and will have it after. A value.
struct ProcessId {
  pid_t pid = 0;  ///< of the process, not of a thread (tgid)
  std::uint64_t start =
      0;  ///< clock ticks (sysconf(_SC_CLK_TCK)) from boot to its start, as in /proc/PID/stat; 0: unknown
  friend constexpr auto operator<=>(const ProcessId&, const ProcessId&) = default;
};

/// The process that has this pid now, with its start time. Errors: ESRCH (none, or it is a thread's); EACCES (hidden by
/// the mount options of /proc), ENOENT (no /proc here).
[[nodiscard]] Result<ProcessId> identify(pid_t pid);

/// Holds on to one process. Move-only; const functions may be called from several threads.
class Process {
 public:
  /// @p id: with a start time the process must be that very one. Errors: ESRCH (it is gone, or its pid has another
  /// process now), EINVAL (a thread's pid, or none), EMFILE, ENOSYS (before kernel 5.3).
  [[nodiscard]] static Result<Process> open(ProcessId id);
  [[nodiscard]] static Result<Process> open(pid_t pid) { return open(ProcessId{.pid = pid, .start = 0}); }

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Readable (POLLIN) once all its threads have ended, before or after it is reaped. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept { return fd_.get(); }
  /// Looks, with one system call.
  [[nodiscard]] bool has_exited() const noexcept;
  /// Errors: ETIMEDOUT, ECANCELED.
  [[nodiscard]] Result<void> wait_for_exit(Deadline deadline, const Cancel* cancel = nullptr) const noexcept;

 private:
  Process(pid_t pid, Fd fd) noexcept : pid_(pid), fd_(std::move(fd)) {}
  pid_t pid_;
  Fd fd_;
};

/// Waits until the process as a whole has ended; one that is gone already has. Give it the start time where the pid may
/// have come back. Errors: ETIMEDOUT, ECANCELED, EINVAL (a thread's pid), EMFILE, ENOSYS.
[[nodiscard]] Result<void> wait_for_exit(ProcessId id, Deadline deadline, const Cancel* cancel = nullptr);

}  // namespace dmaflow::connector
