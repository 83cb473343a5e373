// Implicit fences: fences attached to the memory itself.
//
// Every dma-buf has a list of the work in progress on it, each entry marked as reading or writing. Drivers that work
// this way ("implicitly") add to it and wait for its entries, invisibly to programs. These calls transfer fences
// between that list and Fence. The list orders accesses as follows:
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

/// What an access of this kind must wait for: a read, the writers; a write, readers too. All dma-bufs of the buffer in
/// one fence. A snapshot: it does not include work added to the list later.
/// Errors: EOPNOTSUPP (the kernel cannot; it came with 6.0: use wait_idle()), EMFILE, those of
/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE, and with several dma-bufs those of merge().
[[nodiscard]] Result<Fence> export_fence(const Buffer& buffer, Access access) noexcept;

/// Puts @p fence, which the caller keeps, on the list of every dma-buf of the buffer: as read, so that later writers
/// wait for it, or as write, so that later readers wait too. Only users that check the list wait: V4L2 devices never
/// do, displays only with some drivers (docs/synchronization.md). Null: nothing to do, no system call.
/// Errors: EOPNOTSUPP (the kernel cannot; it came with 6.0: wait for the fence instead), those of
/// DMA_BUF_IOCTL_IMPORT_SYNC_FILE. A fence cannot be removed from a list: if the second dma-buf fails, the first has it
/// already.
[[nodiscard]] Result<void> import_fence(const Buffer& buffer, const Fence& fence, Access access) noexcept;

/// Waits until the buffer may be accessed in this way: a read waits for all writes, a write for all accesses. Works on
/// every kernel, with poll: POLLIN, POLLOUT. One system call for each dma-buf. Poll does not show whether the work
/// succeeded. Errors: ETIMEDOUT, ECANCELED, those of ppoll.
[[nodiscard]] Result<void> wait_idle(const Buffer& buffer, Access access, Deadline deadline,
                                     const Cancel* cancel = nullptr) noexcept;

}  // namespace dmaflow
