// Fence: the moment from which a buffer may be touched.
//
// A device that is given work says at once "this fence will signal when I am done"; who wants the buffer next waits for
// the fence, or hands it on to a device that can wait by itself. docs/synchronization.md begins at the beginning.
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
  int status = 0;                         ///< 1 signalled, 0 active, a negative errno where it ended with an error
  std::chrono::nanoseconds timestamp{0};  ///< when it ended, CLOCK_MONOTONIC; 0 while active
};

/// A sync_file, or "already signalled" (null). Move-only, one owner per descriptor. Not synchronised; const calls on
/// one object may be made from several threads.
///
/// A merged fence stands for several, its parts. It ends when all of them have ended. One part that failed makes it
/// failed, whatever the others do, though the kernel's own answer may forget that.
class Fence {
 public:
  enum class State : std::uint8_t {
    active,     ///< work is going on
    signalled,  ///< the work is done
    failed,     ///< it, or a part of it, ended with an error; other parts may be at work still (has_ended() tells)
  };

  /// Null: already signalled.
  Fence() = default;
  /// Takes a sync_file descriptor. On an error the descriptor is still the caller's, and open.
  /// Errors: EINVAL (not a sync_file: a pipe, a dma-buf), EBADF (not open; also -1, which some APIs use for
  /// "signalled": that is Fence() here). One system call.
  [[nodiscard]] static Result<Fence> adopt(Fd& fd) noexcept;
  /// The same for a descriptor that the kernel or a driver has just made as a sync_file: it is not looked at. None (-1)
  /// becomes null.
  [[nodiscard]] static Fence adopt_unchecked(Fd fd) noexcept { return Fence(std::move(fd)); }
  /// A fence with a descriptor of its own; @p fd stays the caller's. Errors: those of adopt(), EMFILE.
  [[nodiscard]] static Result<Fence> dup_of(int fd) noexcept;
  /// The same fence again, with a descriptor of its own. Null gives null, with no system call. Errors: EMFILE.
  [[nodiscard]] Result<Fence> dup() const noexcept;

  /// True where there is nothing to wait for and nothing to close.
  [[nodiscard]] bool is_null() const noexcept { return !fd_; }

  /// Waits until the fence, all of it, has ended. EINTR-transparent. Null costs no system call, a fence that has
  /// signalled one. Allocates only for merged fences of more than 16 parts.
  /// Errors: the fence's own, where it or a part ended with one; ETIMEDOUT and ECANCELED, and only then may the work
  /// still go on.
  [[nodiscard]] Result<void> wait(Deadline deadline, const Cancel* cancel = nullptr) const noexcept;
  /// Looks without waiting: the worst of the parts. Errors: those of SYNC_IOC_FILE_INFO.
  [[nodiscard]] Result<State> state() const noexcept;
  /// Looks without waiting: whether the work is over, well or not, so that nobody touches the buffer for it any more.
  [[nodiscard]] Result<bool> has_ended() const noexcept;
  /// Readable (POLLIN) once the fence has ended, also with an error; -1 for null. Owned by the fence.
  [[nodiscard]] int poll_fd() const noexcept { return fd_.get(); }
  /// What the fence is made of; empty for null. Allocates. Errors: those of SYNC_IOC_FILE_INFO.
  [[nodiscard]] Result<std::vector<FenceInfo>> info() const;

  /// Tells the drivers behind the fence when it is wanted, so that they may clock up. A hint: nothing fails if they are
  /// late. Errors: EOPNOTSUPP (the kernel has no SYNC_IOC_SET_DEADLINE, which came with 6.6).
  Result<void> hint_deadline(Deadline deadline) const noexcept;

  /// Gives the descriptor away, for an API that takes it over; none (-1) for null. The fence becomes null.
  [[nodiscard]] Fd take_fd() && noexcept { return std::move(fd_); }

 private:
  explicit Fence(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

/// One fence for all of @p fences: it ends when all have ended. On success the inputs have become null; on an error
/// they are all still the caller's, as they were. Inputs that have signalled are left out: where none is left the
/// result is null, where one is left it is that one, moved, and k left cost k - 1 SYNC_IOC_MERGE. The same fence twice
/// is no harm. Of fences of one timeline the kernel keeps the latest, for they end in order. Errors: an input's own,
/// where one has failed; those of SYNC_IOC_FILE_INFO and SYNC_IOC_MERGE (EMFILE, ENOMEM).
[[nodiscard]] Result<Fence> merge(std::span<Fence> fences) noexcept;

}  // namespace dmaflow
