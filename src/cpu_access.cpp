#include <dmaflow/cpu_access.hpp>
#include <dmaflow/implicit_fences.hpp>

#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <linux/dma-buf.h>
#include <sys/mman.h>

namespace dmaflow {

Result<CpuMap> CpuMap::create(const Buffer& buffer) {
  if (buffer.is_protected()) {
    return std::unexpected(
        Error::os(EACCES, "mmap", buffer.origin()).detail("the buffer is protected: the CPU may not map it"));
  }
  CpuMap map(buffer);
  for (std::uint32_t i = 0; i < buffer.object_count(); ++i) {
    const auto size = static_cast<std::size_t>(buffer.size(i));
    const auto mapping = sys::mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, buffer.fd(i), 0);
    if (mapping.error != 0) {
      return std::unexpected(
          Error::os(mapping.error, "mmap", buffer.origin()).detail("dma-buf %u, %zu bytes", i, size));
    }
    map.objects_[i] = {static_cast<std::byte*>(mapping.address), size};
  }
  return map;
}

CpuMap::CpuMap(CpuMap&& other) noexcept
    : buffer_(std::move(other.buffer_)), objects_(std::exchange(other.objects_, {})) {}

CpuMap& CpuMap::operator=(CpuMap&& other) noexcept {
  if (this != &other) {
    unmap();
    buffer_ = std::move(other.buffer_);
    objects_ = std::exchange(other.objects_, {});
  }
  return *this;
}

CpuMap::~CpuMap() { unmap(); }

void CpuMap::unmap() noexcept {
  for (auto& object : objects_) {
    if (!object.empty()) sys::munmap(object.data(), object.size());
    object = {};
  }
}

std::span<std::byte> CpuMap::plane(std::uint32_t index) const noexcept {
  const Layout& layout = buffer_.layout();
  const Plane& plane = layout.planes[index];
  const auto bytes = objects_[plane.object].subspan(plane.offset);
  // Of formats the table does not know, and of vendors' arrangements, only the beginning of a plane is known.
  std::size_t wanted = bytes.size();
  if (layout.opaque_bytes != 0) {
    wanted = static_cast<std::size_t>(layout.opaque_bytes);
  } else if (!layout.modifier.is_vendor() && layout.rows(index) != 0) {
    wanted = std::size_t{plane.stride} * (layout.rows(index) - 1) + layout.row_bytes(index);
  }
  return bytes.first(std::min(wanted, bytes.size()));
}

Result<CpuAccess> CpuAccess::begin(const Buffer& buffer, Mode mode, Deadline deadline, const Cancel* cancel) {
  auto map = CpuMap::create(buffer);
  if (!map) return std::unexpected(map.error());
  CpuAccess access;
  access.own_ = std::make_unique<CpuMap>(std::move(*map));
  if (auto started = access.start(mode, deadline, cancel); !started) return std::unexpected(started.error());
  return access;
}

Result<CpuAccess> CpuAccess::begin(const CpuMap& map, Mode mode, Deadline deadline, const Cancel* cancel) {
  CpuAccess access;
  access.shared_ = &map;
  if (auto started = access.start(mode, deadline, cancel); !started) return std::unexpected(started.error());
  return access;
}

CpuAccess::CpuAccess(CpuAccess&& other) noexcept
    : own_(std::move(other.own_)),
      shared_(std::exchange(other.shared_, nullptr)),
      flags_(other.flags_),
      begun_(std::exchange(other.begun_, 0)) {}

CpuAccess& CpuAccess::operator=(CpuAccess&& other) noexcept {
  if (this != &other) {
    end();
    own_ = std::move(other.own_);
    shared_ = std::exchange(other.shared_, nullptr);
    flags_ = other.flags_;
    begun_ = std::exchange(other.begun_, 0);
  }
  return *this;
}

CpuAccess::~CpuAccess() { end(); }

const CpuMap& CpuAccess::map() const noexcept { return own_ ? *own_ : *shared_; }

namespace {

/// DMA_BUF_IOCTL_SYNC, tried again on EAGAIN as its header asks (the seam retries EINTR), until the deadline.
int sync(int fd, std::uint64_t flags, Deadline deadline) noexcept {
  while (true) {
    dma_buf_sync argument{.flags = flags};
    const int result = sys::ioctl(fd, DMA_BUF_IOCTL_SYNC, &argument);
    if (result != -EAGAIN) return result;
    if (deadline.remaining() == Deadline::Clock::duration::zero()) return -ETIMEDOUT;
  }
}

/// EAGAIN in the kernel's own time, but not for ever.
int sync_end(int fd, std::uint64_t flags) noexcept {
  dma_buf_sync argument{.flags = DMA_BUF_SYNC_END | flags};
  const int result = sys::ioctl(fd, DMA_BUF_IOCTL_SYNC, &argument);
  if (result != -EAGAIN) [[likely]]
    return result;
  return sync(fd, DMA_BUF_SYNC_END | flags, Deadline::after(std::chrono::seconds(1)));
}

}  // namespace

// On failure the destructor ends what was begun.
Result<void> CpuAccess::start(Mode mode, Deadline deadline, const Cancel* cancel) noexcept {
  const Buffer& buffer = map().buffer();
  flags_ = (mode != Mode::write ? std::uint64_t{DMA_BUF_SYNC_READ} : 0) |
           (mode != Mode::read ? std::uint64_t{DMA_BUF_SYNC_WRITE} : 0);
  if (auto idle = wait_idle(buffer, mode, deadline, cancel); !idle) return idle;
  for (; begun_ < buffer.object_count(); ++begun_) {
    if (const int result = sync(buffer.fd(begun_), DMA_BUF_SYNC_START | flags_, deadline); result < 0) {
      return std::unexpected(
          Error::os(-result, "DMA_BUF_IOCTL_SYNC", buffer.origin()).detail("start, dma-buf %u", begun_));
    }
  }
  return {};
}

Result<void> CpuAccess::end() noexcept {
  int failed = 0;
  std::uint32_t object = 0;
  while (begun_ > 0) {
    --begun_;
    if (const int sent = sync_end(map().buffer().fd(begun_), flags_); sent < 0) {
      failed = -sent;
      object = begun_;
    }
  }
  if (failed == 0) [[likely]]
    return {};
  return std::unexpected(
      Error::os(failed, "DMA_BUF_IOCTL_SYNC", map().buffer().origin()).detail("end, dma-buf %u", object));
}

}  // namespace dmaflow
