// Fence: the moment from which a buffer may be touched.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>

namespace dmaflow {

/// A sync_file, or "already signalled" (null): no descriptor, and no system call to wait for it.
/// Move-only; not synchronised. Kernel interface: include/uapi/linux/sync_file.h.
class Fence {
 public:
  enum class Status : std::uint8_t { active, signalled, failed };

  /// Already signalled.
  Fence() = default;
  /// Takes a sync_file descriptor. EINVAL, and the descriptor stays the caller's, where @p fd is not a sync_file.
  [[nodiscard]] static Result<Fence> adopt(Fd& fd) noexcept;

  /// True where there is nothing to wait for and nothing to close.
  [[nodiscard]] bool is_null() const noexcept { return !fd_; }
  /// Waits until the fence signals. EINTR-transparent. Null returns at once, with no system call.
  /// Errors: ETIMEDOUT at the deadline; the fence's own error where it ended with one.
  [[nodiscard]] Result<void> wait(Deadline deadline) const noexcept;
  /// Looks without waiting. Errors: those of SYNC_IOC_FILE_INFO.
  [[nodiscard]] Result<Status> status() const noexcept;
  /// Readable (POLLIN) once the fence has signalled; -1 for null. Owned by the fence.
  [[nodiscard]] int poll_fd() const noexcept { return fd_.get(); }

 private:
  explicit Fence(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace dmaflow
