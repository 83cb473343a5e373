#include "atomic.hpp"

#include "drm_ioctl.hpp"

#include <drm.h>
#include <drm_mode.h>

namespace dmaflow::kms {

void AtomicRequest::reserve(std::size_t objects, std::size_t properties) {
  objects_.reserve(objects);
  counts_.reserve(objects);
  properties_.reserve(properties);
  values_.reserve(properties);
}

void AtomicRequest::clear() noexcept {
  objects_.clear();
  counts_.clear();
  properties_.clear();
  values_.clear();
}

void AtomicRequest::set(std::uint32_t object, std::uint32_t property, std::uint64_t value) {
  if (property == 0) return;
  if (objects_.empty() || objects_.back() != object) {
    objects_.push_back(object);
    counts_.push_back(0);
  }
  ++counts_.back();
  properties_.push_back(property);
  values_.push_back(value);
}

void AtomicRequest::drop_last() noexcept {
  properties_.pop_back();
  values_.pop_back();
  if (--counts_.back() > 0) return;
  counts_.pop_back();
  objects_.pop_back();
}

int AtomicRequest::commit(int fd, std::uint32_t flags, std::uint64_t user_data) const noexcept {
  drm_mode_atomic request{};
  request.flags = flags;
  request.count_objs = static_cast<std::uint32_t>(objects_.size());
  request.objs_ptr = address_of(objects_.data());
  request.count_props_ptr = address_of(counts_.data());
  request.props_ptr = address_of(properties_.data());
  request.prop_values_ptr = address_of(values_.data());
  request.user_data = user_data;
  return drm_ioctl(fd, DRM_IOCTL_MODE_ATOMIC, &request);
}

Result<Blob> Blob::create(DrmFile& file, const void* data, std::size_t size) noexcept {
  drm_mode_create_blob request{};
  request.data = address_of(data);
  request.length = static_cast<std::uint32_t>(size);
  if (const int result = drm_ioctl(file.fd, DRM_IOCTL_MODE_CREATEPROPBLOB, &request); result < 0) {
    return std::unexpected(file.error(result, "DRM_IOCTL_MODE_CREATEPROPBLOB"));
  }
  return Blob(file, request.blob_id);
}

Blob& Blob::operator=(Blob&& other) noexcept {
  if (this != &other) {
    reset();
    file_ = other.file_;
    id_ = std::exchange(other.id_, 0);
  }
  return *this;
}

void Blob::reset() noexcept {
  if (id_ == 0) return;
  drm_mode_destroy_blob request{.blob_id = std::exchange(id_, 0)};
  drm_ioctl(file_->fd, DRM_IOCTL_MODE_DESTROYPROPBLOB, &request);
}

}  // namespace dmaflow::kms
