// Fence: signals when a buffer may be accessed.
//
// A device that is given work returns at once a fence that will signal when the work is done. The next user of the
// buffer waits for the fence, or passes it to a device that can wait by itself. docs/synchronization.md introduces
// fences.
//
// A fence is a sync_file descriptor, or null: "already signalled", which has no descriptor and costs no system call.
// Kernel interface: include/uapi/linux/sync_file.h.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dmaflow {

/// One of the fences in a sync_file, as its driver describes it.
struct FenceInfo {
  std::string driver;                     ///< "vgem", "virtio_gpu"
  std::string timeline;                   ///< the queue of work it belongs to, as the driver names it
  int status = 0;                         ///< 1 signalled, 0 active, a negative errno if it ended with an error
  std::chrono::nanoseconds timestamp{0};  ///< when it ended, CLOCK_MONOTONIC; 0 while active
};

/// A sync_file, or "already signalled" (null). Move-only, one owner per descriptor. Not synchronised; const calls on
/// one object may be made from several threads.
///
/// A merged fence stands for several fences, its parts. It ends when all of them have ended. If one part failed, the
/// merged fence has failed, whatever the others do, although the kernel's own answer may not show that.
class Fence {
 public:
  enum class State : std::uint8_t {
    active,     ///< the work is in progress
    signalled,  ///< the work is done
    failed,     ///< it, or a part of it, ended with an error; other parts may still be active (see has_ended())
  };

  /// Null: already signalled.
  Fence() = default;
  /// Takes a sync_file descriptor. On an error the caller still owns the descriptor, and it is open.
  /// Errors: EINVAL (not a sync_file: a pipe, a dma-buf), EBADF (not open; also -1, which some APIs use for
  /// "signalled": that is Fence() here). One system call.
  [[nodiscard]] static Result<Fence> adopt(Fd& fd) noexcept;
  /// The same for a descriptor that the kernel or a driver has just created as a sync_file: it is not checked. -1
  /// becomes null.
  [[nodiscard]] static Fence adopt_unchecked(Fd fd) noexcept { return Fence(std::move(fd)); }
  /// A fence with its own descriptor; the caller keeps @p fd. Errors: those of adopt(), EMFILE.
  [[nodiscard]] static Result<Fence> dup_of(int fd) noexcept;
  /// The same fence again, with its own descriptor. Null gives null, with no system call. Errors: EMFILE.
  [[nodiscard]] Result<Fence> dup() const noexcept;

  /// True if there is nothing to wait for and nothing to close.
  [[nodiscard]] bool is_null() const noexcept { return !fd_; }

  /// Waits until the fence has ended with all its parts. EINTR-transparent. A null fence costs no system call, a
  /// signalled one costs one call. Allocates only for merged fences of more than 16 parts.
  /// Errors: the fence's own, if it or a part ended with one; ETIMEDOUT and ECANCELED, and only then may the work still
  /// be in progress.
  [[nodiscard]] Result<void> wait(Deadline deadline, const Cancel* cancel = nullptr) const noexcept;
  /// Checks without waiting: the worst state of the parts. Errors: those of SYNC_IOC_FILE_INFO.
  [[nodiscard]] Result<State> state() const noexcept;
  /// Checks without waiting whether the work is over, successful or not, so that it no longer accesses the buffer.
  [[nodiscard]] Result<bool> has_ended() const noexcept;
  /// Readable (POLLIN) once the fence has ended, also with an error; -1 for null. Owned by the fence.
  [[nodiscard]] int poll_fd() const noexcept { return fd_.get(); }
  /// What the fence is made of; empty for null. Allocates. Errors: those of SYNC_IOC_FILE_INFO.
  [[nodiscard]] Result<std::vector<FenceInfo>> info() const;

  /// Tells the drivers behind the fence when the result is wanted, so that they may raise clocks. A hint: nothing fails
  /// if they are late. Errors: EOPNOTSUPP (the kernel has no SYNC_IOC_SET_DEADLINE, which came with 6.6).
  Result<void> hint_deadline(Deadline deadline) const noexcept;

  /// Gives up the descriptor, for an API that takes ownership of it; -1 for null. The fence becomes null.
  [[nodiscard]] Fd take_fd() && noexcept { return std::move(fd_); }

 private:
  explicit Fence(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

/// One fence for all of @p fences: it ends when all have ended. On success the inputs have become null; on an error
/// they are all unchanged and the caller's. Signalled inputs are left out: if none is left, the result is null; if one
/// is left, the result is that one, moved; k inputs cost k - 1 SYNC_IOC_MERGE. Passing the same fence twice is
/// harmless. Of several fences of one timeline the kernel keeps the latest, because they end in order. Errors: an
/// input's own, if one has failed; those of SYNC_IOC_FILE_INFO and SYNC_IOC_MERGE (EMFILE, ENOMEM).
[[nodiscard]] Result<Fence> merge(std::span<Fence> fences) noexcept;

}  // namespace dmaflow
