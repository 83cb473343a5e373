// Counts system calls, by the kernel's own tracepoint.
#pragma once

#include "operation.hpp"

#include <dmaflow/fd.hpp>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <string>
#include <system_error>

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bench {

/// The calling thread's system calls. Needs tracefs and the right to count (root).
class CallCounter {
 public:
  /// May fail: why() then says what is missing.
  CallCounter() {
    std::uint64_t id = 0;
    for (const char* root : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
      if (id == 0) std::ifstream(std::string(root) + "/events/raw_syscalls/sys_enter/id") >> id;
    }
    if (id == 0) {
      why_ = "no tracepoint raw_syscalls: run this as root, with tracefs mounted";
      return;
    }
    perf_event_attr event{};
    event.type = PERF_TYPE_TRACEPOINT;
    event.size = sizeof event;
    event.config = id;
    fd_ = dmaflow::Fd::adopt(static_cast<int>(::syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)));
    if (!fd_) why_ = "perf_event_open: " + std::system_category().message(errno);
  }

  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
  [[nodiscard]] const std::string& why() const noexcept { return why_; }

  /// So far; the look itself contained.
  [[nodiscard]] double now() const {
    std::uint64_t count = 0;
    require(::read(fd_.get(), &count, sizeof count) == sizeof count, "the counter cannot be read");
    return static_cast<double>(count);
  }

 private:
  dmaflow::Fd fd_;
  std::string why_;
};

}  // namespace bench
