// Dumb buffers: memory that a display can always show, as an Allocator.
#pragma once

#include "drm_file.hpp"

#include <dmaflow/allocator.hpp>

#include <cstdint>
#include <optional>
#include <utility>

namespace dmaflow::kms {

/// A dumb buffer's handle, kept while the buffer is exported or shown. Locks the file's handles meanwhile.
class DumbHandle {
 public:
  explicit DumbHandle(DrmFile& file) : file_(file), session_(*file.gem) {}
  DumbHandle(const DumbHandle&) = delete;
  DumbHandle& operator=(const DumbHandle&) = delete;
  ~DumbHandle() { reset(); }
  /// Returns 0 or -errno. A second create() releases the first handle.
  [[nodiscard]] int create(std::uint32_t width, std::uint32_t height, std::uint32_t bits) noexcept;
  void reset() noexcept;
  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  [[nodiscard]] std::uint32_t stride() const noexcept { return stride_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] Result<Fd> export_dma_buf() noexcept;

 private:
  DrmFile& file_;
  GemRegistry::Session session_;
  std::uint32_t id_ = 0;
  std::uint32_t stride_ = 0;
  std::uint64_t size_ = 0;
};

/// Whether the memory manager of a DRM driver, this one or another, exported the buffer: exp_name in its fdinfo.
[[nodiscard]] bool is_exported_by_drm(const Buffer& buffer) noexcept;

/// Zeroed linear buffers. Belongs to the device's thread.
class DumbAllocator final : public Allocator {
 public:
  explicit DumbAllocator(DrmFile& file) noexcept : file_(file) {}
  [[nodiscard]] std::string_view name() const noexcept override { return "display"; }
  [[nodiscard]] MemoryTraits traits() const noexcept override { return {.moves = moves_.value_or(false)}; }
  /// Whether the driver moves the memory when it is shown. The first plane that imports such memory finds out.
  void set_moves(bool moves) noexcept { moves_ = moves; }
  /// True for a buffer that can be used to find that out: one made here, or by this driver for another user (GBM). This
  /// driver cannot move buffers of other drivers. They need no check here: a driver that moves memory does not import
  /// them at all.
  [[nodiscard]] bool is_to_be_tried(const Buffer& buffer) const noexcept {
    return !moves_ && (buffer.id(0) == made_first_ || is_exported_by_drm(buffer));
  }
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

 private:
  [[nodiscard]] Result<Buffer> allocate_one(const Layout& wanted, const Constraints& constraints);
  [[nodiscard]] Result<Fd> allocate_object(const Constraints& constraints, Layout& layout, std::uint32_t object);
  DrmFile& file_;
  std::optional<bool> moves_;
  ObjectId made_first_{};  // the first buffer of the last allocate()
};

}  // namespace dmaflow::kms
