// CPU access to a buffer: maps it, waits for it, and brackets the access with DMA_BUF_IOCTL_SYNC, exactly once each.
#pragma once

#include <dmaflow/access.hpp>
#include <dmaflow/buffer.hpp>
#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace dmaflow {

/// The objects of a buffer in the address space: one complete mapping per distinct object. Holds the buffer.
/// Keep one to access a buffer again and again without mapping it each time. Move-only; not synchronised. A moved-from
/// map has no bytes.
class CpuMap {
 public:
  /// Maps for reading (Access::read), or for reading and writing (the others). Access::write alone maps for reading
  /// too: mmap() refuses a descriptor that cannot be read whatever the protection, and processors have no write-only
  /// pages. Errors: EACCES (protected buffer; or @p access writes and a descriptor of the buffer is open for reading
  /// only), EINVAL (the buffer is empty; the exporter cannot be mapped), ENOMEM and others of mmap().
  [[nodiscard]] static Result<CpuMap> create(const Buffer& buffer, Access access);
  CpuMap(CpuMap&& other) noexcept;
  CpuMap& operator=(CpuMap&& other) noexcept;
  ~CpuMap();

  [[nodiscard]] const Buffer& buffer() const noexcept { return buffer_; }
  /// False where it was created for Access::read.
  [[nodiscard]] bool is_writable() const noexcept { return is_writable_; }

  /// All bytes of an object; none if there is no such object.
  [[nodiscard]] std::span<const std::byte> object(std::uint32_t index) const noexcept { return bytes_of_object(index); }
  /// A plane's bytes, from its first row to the end of its last; none if there is no such plane.
  [[nodiscard]] std::span<const std::byte> plane(std::uint32_t index) const noexcept { return bytes_of_plane(index); }
  /// The same for writing; none if the map is not writable.
  [[nodiscard]] std::span<std::byte> writable_object(std::uint32_t index) const noexcept {
    return is_writable_ ? bytes_of_object(index) : std::span<std::byte>();
  }
  [[nodiscard]] std::span<std::byte> writable_plane(std::uint32_t index) const noexcept {
    return is_writable_ ? bytes_of_plane(index) : std::span<std::byte>();
  }

 private:
  CpuMap(Buffer buffer, bool is_writable) : buffer_(std::move(buffer)), is_writable_(is_writable) {}
  void unmap() noexcept;
  [[nodiscard]] std::span<std::byte> bytes_of_object(std::uint32_t index) const noexcept {
    return index < objects_.size() ? objects_[index] : std::span<std::byte>();
  }
  [[nodiscard]] std::span<std::byte> bytes_of_plane(std::uint32_t index) const noexcept;
  Buffer buffer_;
  std::array<std::span<std::byte>, max_planes> objects_{};
  bool is_writable_;
};

/// A period in which the CPU may access the buffer. Reads and writes outside it may see stale caches or be lost.
/// begin() first waits, with wait_idle(), for the implicit fences on every object: before a read for writers, before a
/// write also for readers. DMA_BUF_IOCTL_SYNC alone would wait for them without a deadline, and still does for work
/// that another thread or process starts in between. Destroying the object ends the access.
/// Kernel rules: include/uapi/linux/dma-buf.h. Move-only; not synchronised. A moved-from access has no bytes.
class [[nodiscard("the access ends when this object is destroyed")]] CpuAccess {
 public:
  using Mode = Access;

  /// Maps for this access alone, as CpuMap::create() does. Errors: those of CpuMap::create(); ETIMEDOUT and ECANCELED
  /// (devices still use the buffer, or its driver still answers EAGAIN); those of DMA_BUF_IOCTL_SYNC. After an error
  /// nothing is mapped and nothing begun.
  [[nodiscard]] static Result<CpuAccess> begin(const Buffer& buffer, Mode mode, Deadline deadline,
                                               const Cancel* cancel = nullptr);
  /// Uses a mapping the caller keeps, which must outlive the access. Errors: EACCES (@p mode writes and the map was
  /// created for Access::read), EINVAL (the map was moved from); ETIMEDOUT, ECANCELED and those of DMA_BUF_IOCTL_SYNC
  /// as above. After an error nothing is begun.
  [[nodiscard]] static Result<CpuAccess> begin(const CpuMap& map, Mode mode, Deadline deadline,
                                               const Cancel* cancel = nullptr);

  CpuAccess(CpuAccess&& other) noexcept;
  CpuAccess& operator=(CpuAccess&& other) noexcept;
  CpuAccess(const CpuAccess&) = delete;
  CpuAccess& operator=(const CpuAccess&) = delete;
  ~CpuAccess();

  /// As in CpuMap. With Access::write, bytes that are read before they were written are undefined: caches may be stale.
  [[nodiscard]] std::span<const std::byte> object(std::uint32_t index) const noexcept {
    return map_ != nullptr ? map_->object(index) : std::span<const std::byte>();
  }
  [[nodiscard]] std::span<const std::byte> plane(std::uint32_t index) const noexcept {
    return map_ != nullptr ? map_->plane(index) : std::span<const std::byte>();
  }
  /// None if the access is for reading, even on a writable map: the kernel does not expect writes, so they might not
  /// reach the device.
  [[nodiscard]] std::span<std::byte> writable_object(std::uint32_t index) const noexcept {
    return writes() ? map_->writable_object(index) : std::span<std::byte>();
  }
  [[nodiscard]] std::span<std::byte> writable_plane(std::uint32_t index) const noexcept {
    return writes() ? map_->writable_plane(index) : std::span<std::byte>();
  }
  /// Ends the access now and reports whether the kernel accepted that. A second call does nothing and succeeds. If the
  /// driver answers EAGAIN, it tries again for a second; neither the deadline nor the Cancel of begin() shortens this,
  /// because an access that was begun must be ended. Errors: ETIMEDOUT (EAGAIN for a second), those of
  /// DMA_BUF_IOCTL_SYNC.
  Result<void> end() noexcept;

 private:
  CpuAccess() = default;
  [[nodiscard]] bool writes() const noexcept;
  Result<void> start(Mode mode, Deadline deadline, const Cancel* cancel) noexcept;

  std::unique_ptr<CpuMap> own_;  // the mapping made for this access alone
  const CpuMap* map_ = nullptr;  // own_ or the caller's map
  std::uint64_t flags_ = 0;      // DMA_BUF_SYNC_READ/WRITE
  std::uint32_t begun_ = 0;      // objects whose START was sent and whose END was not
};

}  // namespace dmaflow
