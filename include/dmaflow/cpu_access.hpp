// CPU access to a buffer: mapped, waited for, and bracketed with DMA_BUF_IOCTL_SYNC, exactly once each.
#pragma once

#include <dmaflow/access.hpp>
#include <dmaflow/buffer.hpp>
#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <utility>

namespace dmaflow {

/// The objects of a buffer in the address space: one mapping per distinct object, whole. Holds the buffer.
/// Keep one to access a buffer again and again without mapping it each time. Move-only; not synchronised.
class CpuMap {
 public:
  /// Errors: EACCES (protected buffer), ENOMEM, those of mmap (EINVAL: the exporter cannot be mapped).
  [[nodiscard]] static Result<CpuMap> create(const Buffer& buffer);
  CpuMap(CpuMap&& other) noexcept;
  CpuMap& operator=(CpuMap&& other) noexcept;
  ~CpuMap();

  [[nodiscard]] const Buffer& buffer() const noexcept { return buffer_; }
  /// All bytes of an object.
  [[nodiscard]] std::span<std::byte> object(std::uint32_t index) const noexcept { return objects_[index]; }
  /// A plane's bytes, from its first row to the end of its last.
  [[nodiscard]] std::span<std::byte> plane(std::uint32_t index) const noexcept;

 private:
  explicit CpuMap(Buffer buffer) : buffer_(std::move(buffer)) {}
  void unmap() noexcept;
  Buffer buffer_;
  std::array<std::span<std::byte>, max_planes> objects_{};
};

/// A stretch of time in which the CPU may touch the buffer. Reads and writes outside it may see stale caches or be
/// lost. begin() first waits, with wait_idle(), for the implicit fences on every object: for writers to read, for
/// readers too to write. DMA_BUF_IOCTL_SYNC alone would wait for them without a deadline, and still does for work that
/// another thread or process starts in between. Destroying the object ends the access.
/// Kernel rules: include/uapi/linux/dma-buf.h. Move-only; not synchronised.
class [[nodiscard("the access ends when this object is destroyed")]] CpuAccess {
 public:
  using Mode = Access;

  /// Maps for this access alone. Errors: those of CpuMap::create; ETIMEDOUT and ECANCELED (devices
  /// still use it); those of DMA_BUF_IOCTL_SYNC. After an error nothing is mapped and nothing begun.
  [[nodiscard]] static Result<CpuAccess> begin(const Buffer& buffer, Mode mode, Deadline deadline,
                                               const Cancel* cancel = nullptr);
  /// Uses a mapping the caller keeps, which must outlive the access.
  [[nodiscard]] static Result<CpuAccess> begin(const CpuMap& map, Mode mode, Deadline deadline,
                                               const Cancel* cancel = nullptr);

  CpuAccess(CpuAccess&& other) noexcept;
  CpuAccess& operator=(CpuAccess&& other) noexcept;
  CpuAccess(const CpuAccess&) = delete;
  CpuAccess& operator=(const CpuAccess&) = delete;
  ~CpuAccess();

  [[nodiscard]] std::span<std::byte> object(std::uint32_t index) const noexcept { return map().object(index); }
  [[nodiscard]] std::span<std::byte> plane(std::uint32_t index) const noexcept { return map().plane(index); }
  /// Ends the access now and says whether the kernel took it. A second call does nothing and succeeds.
  Result<void> end() noexcept;

 private:
  CpuAccess() = default;
  [[nodiscard]] const CpuMap& map() const noexcept;
  Result<void> start(Mode mode, Deadline deadline, const Cancel* cancel) noexcept;

  std::unique_ptr<CpuMap> own_;     // the mapping made for this access alone
  const CpuMap* shared_ = nullptr;  // or the caller's
  std::uint64_t flags_ = 0;         // DMA_BUF_SYNC_READ/WRITE
  std::uint32_t begun_ = 0;         // objects whose START was sent and whose END was not
};

}  // namespace dmaflow
