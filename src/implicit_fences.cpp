#include <dmaflow/implicit_fences.hpp>

#include "cancellable.hpp"
#include "uapi/dma_buf.hpp"

#include <array>
#include <cerrno>

namespace dmaflow {
namespace {

/// The values of Access are in the kernel's order, so no branch is needed.
__u32 sync_flags(Access access) noexcept {
  static_assert(static_cast<__u32>(Access::read) + 1 == DMA_BUF_SYNC_READ);
  static_assert(static_cast<__u32>(Access::write) + 1 == DMA_BUF_SYNC_WRITE);
  static_assert(static_cast<__u32>(Access::read_write) + 1 == DMA_BUF_SYNC_RW);
  return static_cast<__u32>(access) + 1;
}

/// The kernel returns ENOTTY for an ioctl that it does not know.
Error refused(int error, const char* operation, const char* instead, const Buffer& buffer,
              std::size_t object) noexcept {
  if (error != ENOTTY) return Error::os(error, operation, buffer.origin()).detail("dma-buf %zu", object);
  return Error::os(EOPNOTSUPP, operation, buffer.origin())
      .detail("this kernel does not know it; Linux 6.0 and later do. Use %s instead", instead);
}

/// The descriptor of a sync_file, or -errno.
int export_from(const Fd& object, Access access) noexcept {
  uapi::dma_buf_sync_file argument{.flags = sync_flags(access), .fd = -1};
  const int result = sys::ioctl(object.get(), DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &argument);
  return result < 0 ? result : argument.fd;
}

Error not_exported(int result, const Buffer& buffer, std::size_t object) noexcept {
  return refused(-result, "DMA_BUF_IOCTL_EXPORT_SYNC_FILE", "wait_idle()", buffer, object);
}

// Nearly every buffer is one dma-buf. The code for several, and for failures, is kept out of that path: the kernel
// needs only a few hundred instructions for the call itself.
[[gnu::noinline]] Result<void> import_into_all(const Buffer& buffer, uapi::dma_buf_sync_file argument) noexcept {
  const auto objects = buffer.objects();
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const int result = sys::ioctl(objects[i].get(), DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &argument);
    if (result < 0) {
      return std::unexpected(refused(-result, "DMA_BUF_IOCTL_IMPORT_SYNC_FILE", "Fence::wait()", buffer, i));
    }
  }
  return {};
}

[[gnu::noinline]] Result<Fence> export_from_all(const Buffer& buffer, std::span<const Fd> objects,
                                                Access access) noexcept {
  std::array<Fence, max_planes> fences;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const int fd = export_from(objects[i], access);
    if (fd < 0) return std::unexpected(not_exported(fd, buffer, i));
    fences[i] = Fence::adopt_unchecked(Fd::adopt(fd));
  }
  return merge(fences);
}

}  // namespace

Result<Fence> export_fence(const Buffer& buffer, Access access) noexcept {
  const auto objects = buffer.objects();
  if (objects.size() != 1) return export_from_all(buffer, objects, access);
  const int fd = export_from(objects.front(), access);
  if (fd < 0) return std::unexpected(not_exported(fd, buffer, 0));
  return Fence::adopt_unchecked(Fd::adopt(fd));
}

Result<void> import_fence(const Buffer& buffer, const Fence& fence, Access access) noexcept {
  if (fence.is_null()) return {};
  uapi::dma_buf_sync_file argument{.flags = sync_flags(access), .fd = fence.poll_fd()};
  const auto objects = buffer.objects();
  const bool is_done =
      objects.size() == 1 && sys::ioctl_once(objects.front().get(), DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &argument);
  return is_done ? Result<void>{} : import_into_all(buffer, argument);
}

Result<void> wait_idle(const Buffer& buffer, Access access, Deadline deadline, const Cancel* cancel) noexcept {
  const short wanted = access == Access::read ? POLLIN : POLLOUT;
  const char* doing = access == Access::read ? "writes" : "uses";
  for (std::uint32_t i = 0; i < buffer.object_count(); ++i) {
    const int ready = detail::wait(buffer.fd(i), wanted, deadline, cancel);
    if (ready == 0 || ready == -ECANCELED) {
      return std::unexpected(Error::os(ready == 0 ? ETIMEDOUT : ECANCELED, "wait_idle", buffer.origin())
                                 .detail("a device still %s dma-buf %u", doing, i));
    }
    if (ready < 0) return std::unexpected(Error::os(-ready, "poll", buffer.origin()).detail("dma-buf %u", i));
    if ((ready & wanted) == 0) {
      return std::unexpected(Error::os((ready & POLLNVAL) != 0 ? EBADF : EIO, "poll", buffer.origin())
                                 .detail("dma-buf %u gives poll events 0x%x", i, static_cast<unsigned>(ready)));
    }
  }
  return {};
}

}  // namespace dmaflow
