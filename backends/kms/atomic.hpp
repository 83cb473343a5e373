// Atomic requests and the property blobs they refer to, without libdrm: drmModeAtomicCommit allocates on each call.
#pragma once

#include "drm_file.hpp"
#include "drm_ioctl.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <drm.h>
#include <drm_mode.h>

namespace dmaflow::kms {

/// An address as the kernel takes it: in 64 bits.
inline std::uint64_t address_of(const void* data) noexcept { return reinterpret_cast<std::uintptr_t>(data); }

/// The arrays of DRM_IOCTL_MODE_ATOMIC. Memory is reserved once; refilling the request allocates nothing.
class AtomicRequest {
 public:
  void reserve(std::size_t objects, std::size_t properties);
  void clear() noexcept;
  /// Sets a property. Set the properties of one object one after another. Property 0 (one the driver lacks) is left
  /// out.
  void set(std::uint32_t object, std::uint32_t property, std::uint64_t value);
  /// Undoes the last set().
  void drop_last() noexcept;
  /// Returns 0 or -errno. @p flags: DRM_MODE_ATOMIC_*, DRM_MODE_PAGE_FLIP_EVENT.
  [[nodiscard]] int commit(int fd, std::uint32_t flags, std::uint64_t user_data = 0) const noexcept;
  /// The same with one property.
  [[nodiscard]] static int commit_one(int fd, std::uint32_t flags, std::uint32_t object, std::uint32_t property,
                                      std::uint64_t value, std::uint64_t user_data) noexcept;

 private:
  std::vector<std::uint32_t> objects_;
  std::vector<std::uint32_t> counts_;
  std::vector<std::uint32_t> properties_;
  std::vector<std::uint64_t> values_;
};

inline int AtomicRequest::commit_one(int fd, std::uint32_t flags, std::uint32_t object, std::uint32_t property,
                                     std::uint64_t value, std::uint64_t user_data) noexcept {
  const std::uint32_t count = 1;
  drm_mode_atomic request{};
  request.flags = flags;
  request.count_objs = 1;
  request.objs_ptr = address_of(&object);
  request.count_props_ptr = address_of(&count);
  request.props_ptr = address_of(&property);
  request.prop_values_ptr = address_of(&value);
  request.user_data = user_data;
  return drm_ioctl(fd, DRM_IOCTL_MODE_ATOMIC, &request);
}

/// Owns a property blob.
class Blob {
 public:
  Blob() = default;
  [[nodiscard]] static Result<Blob> create(DrmFile& file, const void* data, std::size_t size) noexcept;
  Blob(Blob&& other) noexcept : file_(other.file_), id_(std::exchange(other.id_, 0)) {}
  Blob& operator=(Blob&& other) noexcept;
  Blob(const Blob&) = delete;
  Blob& operator=(const Blob&) = delete;
  ~Blob() { reset(); }

  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  void reset() noexcept;

 private:
  Blob(DrmFile& file, std::uint32_t id) noexcept : file_(&file), id_(id) {}
  DrmFile* file_ = nullptr;
  std::uint32_t id_ = 0;
};

}  // namespace dmaflow::kms
