// The handle of a syncobj: created, passed on, destroyed once; signal, reset, query.
#include "syncobj.hpp"
#include "sys/sys.hpp"

#include <array>
#include <cerrno>

#include <fcntl.h>
#include <linux/sync_file.h>

namespace dmaflow {
namespace detail {

Syncobj::~Syncobj() {
  drm_syncobj_destroy destroy{.handle = handle, .pad = 0};
  sys::ioctl(file->fd.get(), DRM_IOCTL_SYNCOBJ_DESTROY, &destroy);
}

Error no_timeline() noexcept {
  return Error::os(EINVAL, "Timeline").detail("this object has no timeline: it was moved from, or never had one");
}

Result<void> signal(const Syncobj& object, std::uint64_t point) noexcept {
  const std::uint32_t handle = object.handle;
  const int fd = object.file->fd.get();
  if (point == 0) {
    drm_syncobj_array array{.handles = address_of(&handle), .count_handles = 1, .pad = 0};
    const int result = sys::ioctl(fd, DRM_IOCTL_SYNCOBJ_SIGNAL, &array);
    if (result < 0) return std::unexpected(object.error(result, "DRM_IOCTL_SYNCOBJ_SIGNAL"));
    return {};
  }
  drm_syncobj_timeline_array array{
      .handles = address_of(&handle), .points = address_of(&point), .count_handles = 1, .flags = 0};
  const int result = sys::ioctl(fd, DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &array);
  if (result < 0) return std::unexpected(object.error(result, "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL", point));
  return {};
}

Result<std::uint64_t> query(const Syncobj& object, std::uint32_t flags) noexcept {
  const std::uint32_t handle = object.handle;
  std::uint64_t point = 0;
  drm_syncobj_timeline_array array{
      .handles = address_of(&handle), .points = address_of(&point), .count_handles = 1, .flags = flags};
  const int result = sys::ioctl(object.file->fd.get(), DRM_IOCTL_SYNCOBJ_QUERY, &array);
  if (result < 0) return std::unexpected(object.error(result, "DRM_IOCTL_SYNCOBJ_QUERY"));
  return point;
}

}  // namespace detail

namespace {

/// The kernel returns EINVAL for every descriptor that is not a syncobj; this error says which mistake it was.
Error not_a_syncobj(const detail::SyncobjFile& file, int fd) noexcept {
  constexpr const char* operation = "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE";
  if (sys::fcntl(fd, F_GETFD, 0) == -EBADF) {
    return Error::os(EBADF, operation, file.name).detail("descriptor %d is not open", fd);
  }
  sync_file_info info{};
  const char* is = ": timelines come from export_fd()";
  if (sys::ioctl(fd, SYNC_IOC_FILE_INFO, &info) == 0) is = " but a sync_file: import_fence() takes those";
  if (sys::is_dma_buf(fd) == 1) is = " but a dma-buf";
  return Error::os(EINVAL, operation, file.name).detail("descriptor %d is not a syncobj%s", fd, is);
}

}  // namespace

Result<Timeline> Timeline::create(const SyncobjDevice& device, bool signalled) {
  if (!device.file_) return std::unexpected(detail::no_timeline());
  drm_syncobj_create create{.handle = 0, .flags = signalled ? std::uint32_t{DRM_SYNCOBJ_CREATE_SIGNALED} : 0};
  const auto& file = device.file_;
  const int result = sys::ioctl(file->fd.get(), DRM_IOCTL_SYNCOBJ_CREATE, &create);
  if (result < 0) return std::unexpected(file->error(result, "DRM_IOCTL_SYNCOBJ_CREATE"));
  return Timeline(std::make_shared<const detail::Syncobj>(file, create.handle));
}

Result<Timeline> Timeline::import_fd(const SyncobjDevice& device, int fd) {
  const auto& file = device.file_;
  if (!file) return std::unexpected(detail::no_timeline());
  drm_syncobj_handle import{.handle = 0, .flags = 0, .fd = fd, .pad = 0};
  const int result = sys::ioctl(file->fd.get(), DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &import);
  if (result == -EINVAL || result == -EBADF) return std::unexpected(not_a_syncobj(*file, fd));
  if (result < 0) return std::unexpected(file->error(result, "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE"));
  auto object = std::make_shared<const detail::Syncobj>(file, import.handle);
  object->foreign.store(true, std::memory_order_relaxed);
  return Timeline(std::move(object));
}

Result<Fd> Timeline::export_fd() const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  drm_syncobj_handle request{.handle = object_->handle, .flags = 0, .fd = -1, .pad = 0};
  const int result = sys::ioctl(object_->file->fd.get(), DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &request);
  if (result == -EINVAL) return std::unexpected(object_->error(-ENOENT, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD"));
  if (result < 0) return std::unexpected(object_->error(result, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD"));
  object_->foreign.store(true, std::memory_order_relaxed);
  return Fd::adopt(request.fd);
}

std::uint32_t Timeline::handle() const noexcept {
  if (!object_) return 0;
  object_->foreign.store(true, std::memory_order_relaxed);
  return object_->handle;
}

SyncobjDevice Timeline::device() const noexcept { return SyncobjDevice(object_ ? object_->file : nullptr); }

Result<void> Timeline::signal(std::uint64_t point) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::signal(*object_, point);
}

Result<void> Timeline::reset() const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  const std::uint32_t handle = object_->handle;
  drm_syncobj_array array{.handles = detail::address_of(&handle), .count_handles = 1, .pad = 0};
  const int result = sys::ioctl(object_->file->fd.get(), DRM_IOCTL_SYNCOBJ_RESET, &array);
  if (result < 0) return std::unexpected(object_->error(result, "DRM_IOCTL_SYNCOBJ_RESET"));
  return {};
}

Result<std::uint64_t> Timeline::query() const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::query(*object_, 0);
}

Result<std::uint64_t> Timeline::query_submitted() const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::query(*object_, DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED);
}

Result<void> TimelinePoint::signal() const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::signal(*object_, value_);
}

}  // namespace dmaflow
