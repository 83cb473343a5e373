#include <dmaflow/cpu_access.hpp>
#include <dmaflow/implicit_fences.hpp>

#include "cancellable.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <linux/dma-buf.h>
#include <sys/mman.h>

namespace dmaflow {

Result<CpuMap> CpuMap::create(const Buffer& buffer, Access access) {
  if (!buffer) return std::unexpected(Error::os(EINVAL, "CpuMap::create").detail("the buffer is empty"));
  if (buffer.is_protected()) {
    return std::unexpected(
        Error::os(EACCES, "mmap", buffer.origin()).detail("the buffer is protected: the CPU may not map it"));
  }
  const bool writes = access != Access::read;
  CpuMap map(buffer, writes);
  for (std::uint32_t i = 0; i < buffer.object_count(); ++i) {
    const auto size = static_cast<std::size_t>(buffer.size(i));
    const auto mapping = sys::mmap(size, PROT_READ | (writes ? PROT_WRITE : 0), MAP_SHARED, buffer.fd(i), 0);
    if (mapping.error != 0) {
      Error error = Error::os(mapping.error, "mmap", buffer.origin());
      if (mapping.error == EACCES && writes) {
        return std::unexpected(error.detail(
            "dma-buf %u, to write: its descriptor is open for reading only. Map it with Access::read, or export the "
            "dma-buf with O_RDWR (DRM_RDWR)",
            i));
      }
      return std::unexpected(error.detail("dma-buf %u, %zu bytes, %s", i, size, writes ? "to write" : "to read"));
    }
    map.objects_[i] = {static_cast<std::byte*>(mapping.address), size};
  }
  return map;
}

CpuMap::CpuMap(CpuMap&& other) noexcept
    : buffer_(std::move(other.buffer_)),
      objects_(std::exchange(other.objects_, {})),
      is_writable_(std::exchange(other.is_writable_, false)) {}

CpuMap& CpuMap::operator=(CpuMap&& other) noexcept {
  if (this != &other) {
    unmap();
    buffer_ = std::move(other.buffer_);
    objects_ = std::exchange(other.objects_, {});
    is_writable_ = std::exchange(other.is_writable_, false);
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

std::span<std::byte> CpuMap::bytes_of_plane(std::uint32_t index) const noexcept {
  if (!buffer_ || index >= buffer_.layout().plane_count) return {};
  const Layout& layout = buffer_.layout();
  const PlaneLayout& plane = layout.planes[index];
  const auto bytes = objects_[plane.object].subspan(plane.offset);
  // For formats that are not in the table, and for vendor modifiers, only the start of a plane is known.
  std::size_t wanted = bytes.size();
  if (layout.opaque_bytes != 0) {
    wanted = static_cast<std::size_t>(layout.opaque_bytes);
  } else if (!layout.modifier.is_vendor() && layout.rows(index) != 0) {
    wanted = std::size_t{plane.stride} * (layout.rows(index) - 1) + layout.row_bytes(index);
  }
  return bytes.first(std::min(wanted, bytes.size()));
}

namespace {

std::uint64_t flags_of(Access mode) noexcept {
  return (mode != Access::write ? std::uint64_t{DMA_BUF_SYNC_READ} : 0) |
         (mode != Access::read ? std::uint64_t{DMA_BUF_SYNC_WRITE} : 0);
}

Error moved_from() noexcept {
  return Error::os(EINVAL, "CpuAccess::begin").detail("the map is empty: it was moved from");
}

constexpr auto first_pause = std::chrono::microseconds(50);
constexpr auto longest_pause = std::chrono::milliseconds(4);
constexpr auto end_timeout = std::chrono::seconds(1);

int sync_once(int fd, std::uint64_t flags) noexcept {
  dma_buf_sync argument{.flags = flags};
  return sys::ioctl(fd, DMA_BUF_IOCTL_SYNC, &argument);
}

/// Repeats DMA_BUF_IOCTL_SYNC after EAGAIN, as its header requires (the seam retries EINTR), until the deadline. What
/// the driver waits for cannot be polled, so this sleeps between the tries, longer each time.
[[gnu::cold]] int sync_again(int fd, std::uint64_t flags, Deadline deadline, const Cancel* cancel) noexcept {
  int result = -EAGAIN;
  for (Deadline::Clock::duration pause = first_pause; result == -EAGAIN;
       pause = std::min<Deadline::Clock::duration>(2 * pause, longest_pause)) {
    if (deadline.remaining() == Deadline::Clock::duration::zero()) return -ETIMEDOUT;
    const auto next = std::min(deadline.time(), Deadline::after(pause).time());
    const int slept = detail::wait(-1, 0, Deadline::at(next), cancel);
    if (slept < 0) return slept;
    result = sync_once(fd, flags);
  }
  return result;
}

int sync(int fd, std::uint64_t flags, Deadline deadline, const Cancel* cancel) noexcept {
  const int result = sync_once(fd, flags);
  if (result != -EAGAIN) [[likely]]
    return result;
  return sync_again(fd, flags, deadline, cancel);
}

/// The deadline counts from the first EAGAIN, so the clock is not read if there is none.
int sync_end(int fd, std::uint64_t flags) noexcept {
  const int result = sync_once(fd, DMA_BUF_SYNC_END | flags);
  if (result != -EAGAIN) [[likely]]
    return result;
  return sync_again(fd, DMA_BUF_SYNC_END | flags, Deadline::after(end_timeout), nullptr);
}

}  // namespace

Result<CpuAccess> CpuAccess::begin(const Buffer& buffer, Mode mode, Deadline deadline, const Cancel* cancel) {
  auto map = CpuMap::create(buffer, mode);
  if (!map) return std::unexpected(map.error());
  CpuAccess access;
  access.own_ = std::make_unique<CpuMap>(std::move(*map));
  access.map_ = access.own_.get();
  if (auto started = access.start(mode, deadline, cancel); !started) return std::unexpected(started.error());
  return access;
}

Result<CpuAccess> CpuAccess::begin(const CpuMap& map, Mode mode, Deadline deadline, const Cancel* cancel) {
  if (mode != Mode::read && !map.is_writable()) [[unlikely]] {
    if (!map.buffer()) return std::unexpected(moved_from());
    return std::unexpected(
        Error::os(EACCES, "CpuAccess::begin", map.buffer().origin())
            .detail("the map was created with Access::read; create it with Access::write or read_write to write"));
  }
  CpuAccess access;
  access.map_ = &map;
  if (auto started = access.start(mode, deadline, cancel); !started) return std::unexpected(started.error());
  return access;
}

CpuAccess::CpuAccess(CpuAccess&& other) noexcept
    : own_(std::move(other.own_)),
      map_(std::exchange(other.map_, nullptr)),
      flags_(other.flags_),
      begun_(std::exchange(other.begun_, 0)) {}

CpuAccess& CpuAccess::operator=(CpuAccess&& other) noexcept {
  if (this != &other) {
    end();
    own_ = std::move(other.own_);
    map_ = std::exchange(other.map_, nullptr);
    flags_ = other.flags_;
    begun_ = std::exchange(other.begun_, 0);
  }
  return *this;
}

CpuAccess::~CpuAccess() { end(); }

bool CpuAccess::writes() const noexcept { return map_ != nullptr && (flags_ & DMA_BUF_SYNC_WRITE) != 0; }

// On failure the destructor ends what was begun.
Result<void> CpuAccess::start(Mode mode, Deadline deadline, const Cancel* cancel) noexcept {
  const Buffer& buffer = map_->buffer();
  if (!buffer) return std::unexpected(moved_from());
  flags_ = flags_of(mode);
  if (auto idle = wait_idle(buffer, mode, deadline, cancel); !idle) return idle;
  for (; begun_ < buffer.object_count(); ++begun_) {
    if (const int result = sync(buffer.fd(begun_), DMA_BUF_SYNC_START | flags_, deadline, cancel); result < 0) {
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
    if (const int sent = sync_end(map_->buffer().fd(begun_), flags_); sent < 0) {
      failed = -sent;
      object = begun_;
    }
  }
  if (failed == 0) [[likely]]
    return {};
  return std::unexpected(
      Error::os(failed, "DMA_BUF_IOCTL_SYNC", map_->buffer().origin()).detail("end, dma-buf %u", object));
}

}  // namespace dmaflow
