// Counts system calls with the kernel's tracepoint.
#pragma once

#include "operation.hpp"
#include "tracepoint.hpp"

#include <dmaflow/fd.hpp>

#include <cstdint>
#include <string>
#include <utility>

#include <unistd.h>

namespace bench {

/// Counts the calling thread's system calls. Needs tracefs and the permission to use perf counters (root).
class CallCounter {
 public:
  /// May fail; then why() has the reason.
  CallCounter() {
    auto counter = kernel_counter("raw_syscalls/sys_enter", 0, -1);
    if (counter) {
      fd_ = std::move(*counter);
    } else {
      why_ = counter.error();
    }
  }

  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
  [[nodiscard]] const std::string& why() const noexcept { return why_; }

  /// The count so far, including the call that reads it.
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
