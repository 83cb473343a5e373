#include <dmaflow/process.hpp>

#include "cancellable.hpp"
#include "proc.hpp"

#include <cerrno>
#include <cstdio>

namespace dmaflow::connector {
namespace {

Error process_error(int code, const char* operation, pid_t pid) noexcept {
  char name[32];
  std::snprintf(name, sizeof name, "process %d", pid);
  return Error::os(code, operation, name);
}

}  // namespace

Result<Process> Process::open(ProcessId id) {
  const int number = sys::pidfd_open(id.pid, 0);
  if (number < 0) {
    Error error = process_error(number, "pidfd_open", id.pid);
    if (number == -ENOSYS) error.detail("needs kernel 5.3");
    // Kernel 6.9 and later return ENOENT where earlier ones return EINVAL.
    if (number == -EINVAL || number == -ENOENT) {
      error = process_error(EINVAL, "pidfd_open", id.pid)
                  .detail("this is not the pid of a process, but of a thread, or of none");
    }
    return std::unexpected(error);
  }
  Process process(id.pid, Fd::adopt(number));
  if (id.start == 0) return process;
  // Read after the pidfd was opened: the process that has this pid now is the pidfd's, unless that one has ended
  // meanwhile.
  const auto now = read_stat(id.pid);
  if (!now || now->start != id.start) {
    return std::unexpected(
        process_error(ESRCH, "pidfd_open", id.pid).detail("the process is gone, and its pid has another one"));
  }
  return process;
}

Result<ProcessId> identify(pid_t pid) {
  // /proc/TID exists for threads too, though it is not listed; pidfds are for processes only.
  const auto process = Process::open(pid);
  if (!process && process.error().code() != EINVAL) return std::unexpected(process.error());
  const auto stat = read_stat(pid);
  if (!process || !stat) return std::unexpected(process_error(ESRCH, "identify", pid));
  return ProcessId{.pid = pid, .start = stat->start};
}

bool Process::has_exited() const noexcept { return sys::wait(fd_.get(), POLLIN, Deadline::immediate()) > 0; }

Result<void> Process::wait_for_exit(Deadline deadline, const Cancel* cancel) const noexcept {
  const int ready = dmaflow::detail::wait(fd_.get(), POLLIN, deadline, cancel);
  if (ready > 0) return {};
  return std::unexpected(process_error(ready == 0 ? ETIMEDOUT : ready, "wait_for_exit", pid_));
}

Result<void> wait_for_exit(ProcessId id, Deadline deadline, const Cancel* cancel) {
  const auto process = Process::open(id);
  if (process) return process->wait_for_exit(deadline, cancel);
  if (process.error().code() == ESRCH) return {};
  return std::unexpected(process.error());
}

}  // namespace dmaflow::connector
