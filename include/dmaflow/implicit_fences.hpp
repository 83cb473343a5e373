// Implicit fences: those that hang on the memory itself.
//
// Every dma-buf carries a list of the work that is going on in it, each marked as reading or writing. Drivers that work
// this way ("implicitly") add to it and wait for what is in it, unseen by programs. These calls carry fences between
// that list and Fence. The list orders accesses so:
//
//     who comes next    waits for       on the list as
//     a reader          writers         read
//     a writer          everybody       write
//
// Kernel rules: include/uapi/linux/dma-buf.h. docs/synchronization.md has the whole table.
#pragma once

#include <dmaflow/access.hpp>
#include <dmaflow/buffer.hpp>
#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/fence.hpp>

namespace dmaflow {

/// What somebody who wants to access the buffer in this way must wait for: to read, the writers; to write, readers too.
/// All dma-bufs of the buffer in one fence. A snapshot: what is added to the list later is not in it.
/// Errors: EOPNOTSUPP (the kernel cannot; it came with 6.0: use wait_idle()), EMFILE, those of
/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE, and with several dma-bufs those of merge().
[[nodiscard]] Result<Fence> export_fence(const Buffer& buffer, Access access) noexcept;

/// Puts @p fence, which stays the caller's, on the list of every dma-buf of the buffer: as read, so that later writers
/// wait for it, or as write, so that later readers do too. Only those who look at the list wait: V4L2 devices never do,
/// displays only with some drivers (docs/synchronization.md). Null: nothing to do, no system call.
/// Errors: EOPNOTSUPP (the kernel cannot; it came with 6.0: wait for the fence instead), those of
/// DMA_BUF_IOCTL_IMPORT_SYNC_FILE. Nothing takes a fence off a list: where the second dma-buf fails, the first has it.
[[nodiscard]] Result<void> import_fence(const Buffer& buffer, const Fence& fence, Access access) noexcept;

/// Waits until the buffer may be accessed in this way: to read, until nobody writes; to write, until nobody uses it.
/// Works on every kernel, by poll: POLLIN, POLLOUT. One system call for each dma-buf. Poll does not tell whether the
/// work ended well. Errors: ETIMEDOUT, ECANCELED, those of ppoll.
[[nodiscard]] Result<void> wait_idle(const Buffer& buffer, Access access, Deadline deadline,
                                     const Cancel* cancel = nullptr) noexcept;

}  // namespace dmaflow
