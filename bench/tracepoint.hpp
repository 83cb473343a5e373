// The kernel's perf counters, for tracepoints and CPU time, without tracing.
#pragma once

#include <dmaflow/fd.hpp>

#include <cerrno>
#include <cstdint>
#include <expected>
#include <fstream>
#include <string>
#include <system_error>

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace bench {

/// Opens a counter for @p process (0: the calling thread; a process id: includes threads that it creates later; -1:
/// all) on @p processor (-1: any). The error is the reason as text.
inline std::expected<dmaflow::Fd, std::string> kernel_counter(std::uint32_t type, std::uint64_t config, pid_t process,
                                                              int processor) {
  perf_event_attr event{};
  event.type = type;
  event.size = sizeof event;
  event.config = config;
  event.inherit = process > 0 ? 1 : 0;
  const long fd = ::syscall(SYS_perf_event_open, &event, process, processor, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) return std::unexpected("perf_event_open: " + std::system_category().message(errno));
  return dmaflow::Fd::adopt(static_cast<int>(fd));
}

/// The same for a tracepoint: "raw_syscalls/sys_enter".
inline std::expected<dmaflow::Fd, std::string> kernel_counter(const std::string& tracepoint, pid_t process,
                                                              int processor) {
  std::uint64_t id = 0;
  for (const char* root : {"/sys/kernel/tracing/events/", "/sys/kernel/debug/tracing/events/"}) {
    if (id == 0) std::ifstream(root + tracepoint + "/id") >> id;
  }
  if (id == 0)
    return std::unexpected("no tracepoint " + tracepoint + ": is this root, with tracefs, and is the driver there?");
  return kernel_counter(PERF_TYPE_TRACEPOINT, id, process, processor);
}

}  // namespace bench
