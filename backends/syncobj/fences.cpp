// Points to sync_files and back, transfers between points, and eventfds for points.
//
// Since kernel 6.16 the sync_file ioctls take a point. Before that, the conversion goes through a binary syncobj and
// DRM_IOCTL_SYNCOBJ_TRANSFER, which turns a fence that has ended into one that succeeded.
#include "syncobj.hpp"
#include "sys/sys.hpp"

#include <cerrno>

#include <sys/eventfd.h>

namespace dmaflow {
namespace detail {
namespace {

int transfer(const SyncobjFile& file, std::uint32_t to, std::uint64_t to_point, std::uint32_t from,
             std::uint64_t from_point) noexcept {
  drm_syncobj_transfer request{
      .src_handle = from, .dst_handle = to, .src_point = from_point, .dst_point = to_point, .flags = 0, .pad = 0};
  return sys::ioctl(file.fd.get(), DRM_IOCTL_SYNCOBJ_TRANSFER, &request);
}

/// sync_file of a binary syncobj: the descriptor or -errno.
int export_binary(const SyncobjFile& file, std::uint32_t handle) noexcept {
  drm_syncobj_handle request{
      .handle = handle, .flags = DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE, .fd = -1, .pad = 0};
  const int result = sys::ioctl(file.fd.get(), DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &request);
  return result < 0 ? result : request.fd;
}

int import_binary(const SyncobjFile& file, std::uint32_t handle, int sync_file) noexcept {
  drm_syncobj_handle request{
      .handle = handle, .flags = DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE, .fd = sync_file, .pad = 0};
  return sys::ioctl(file.fd.get(), DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &request);
}

int make_scratch(SyncobjFile& file) noexcept {
  if (file.scratch != 0) return 0;
  drm_syncobj_create create{};
  const int result = sys::ioctl(file.fd.get(), DRM_IOCTL_SYNCOBJ_CREATE, &create);
  if (result >= 0) file.scratch = create.handle;
  return result;
}

int export_by_transfer(SyncobjFile& file, std::uint32_t handle, std::uint64_t point) noexcept {
  const std::lock_guard lock(file.scratch_mutex);
  if (const int made = make_scratch(file); made < 0) return made;
  const int moved = transfer(file, file.scratch, 0, handle, point);
  return moved < 0 ? moved : export_binary(file, file.scratch);
}

int import_by_transfer(SyncobjFile& file, std::uint32_t handle, std::uint64_t point, int sync_file) noexcept {
  const std::lock_guard lock(file.scratch_mutex);
  if (const int made = make_scratch(file); made < 0) return made;
  const int imported = import_binary(file, file.scratch, sync_file);
  return imported < 0 ? imported : transfer(file, handle, point, file.scratch, 0);
}

/// Tries the call of kernel 6.16 first, then the transfer, and remembers what the kernel supports: if the first is
/// refused and the second succeeds, the kernel lacks the first.
template <typename Direct, typename Round>
int at_point(SyncobjFile& file, Direct direct, Round round) noexcept {
  const Ability ability = file.point_fences.load(std::memory_order_relaxed);
  if (ability != Ability::absent) {
    const int result = direct();
    if (result >= 0) file.point_fences.store(Ability::present, std::memory_order_relaxed);
    if (result != -EINVAL || ability == Ability::present) return result;
  }
  const int result = round();
  if (result >= 0) file.point_fences.store(Ability::absent, std::memory_order_relaxed);
  return result;
}

int export_sync_file(const Syncobj& object, std::uint64_t point) noexcept {
  SyncobjFile& file = *object.file;
  if (point == 0) return export_binary(file, object.handle);
  const auto direct = [&] {
    uapi::SyncobjHandle request{.handle = object.handle,
                                .flags = DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE | uapi::syncobj_fd_timeline,
                                .fd = -1,
                                .pad = 0,
                                .point = point};
    const int result = sys::ioctl(file.fd.get(), uapi::ioctl_syncobj_handle_to_fd, &request);
    return result < 0 ? result : request.fd;
  };
  return at_point(file, direct, [&] { return export_by_transfer(file, object.handle, point); });
}

int import_sync_file(const Syncobj& object, std::uint64_t point, int sync_file) noexcept {
  SyncobjFile& file = *object.file;
  if (point == 0) return import_binary(file, object.handle, sync_file);
  const auto direct = [&] {
    uapi::SyncobjHandle request{.handle = object.handle,
                                .flags = DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE | uapi::syncobj_fd_timeline,
                                .fd = sync_file,
                                .pad = 0,
                                .point = point};
    return sys::ioctl(file.fd.get(), uapi::ioctl_syncobj_fd_to_handle, &request);
  };
  return at_point(file, direct, [&] { return import_by_transfer(file, object.handle, point, sync_file); });
}

/// Whether the kernel has the call at all. If so, it finds no syncobj for handle 0; otherwise it returns EINVAL.
bool knows_eventfds(const SyncobjFile& file) noexcept {
  uapi::SyncobjEventfd nothing{.handle = 0, .flags = 0, .point = 0, .fd = -1, .pad = 0};
  const int result = sys::ioctl(file.fd.get(), uapi::ioctl_syncobj_eventfd, &nothing);
  return result != -EINVAL && result != -ENOTTY;
}

Error not_submitted(const Syncobj& object, int result, const char* operation, std::uint64_t point) noexcept {
  Error error = object.error(result, operation, point);
  if (result == -EINVAL) {
    error.detail("point %llu is not submitted yet, so there is no fence; wait for it with WaitOptions::available first",
                 static_cast<unsigned long long>(point));
  }
  return error;
}

}  // namespace

Result<Fence> export_fence(const Syncobj& object, std::uint64_t point) noexcept {
  const int number = export_sync_file(object, point);
  if (number < 0) return std::unexpected(not_submitted(object, number, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", point));
  return Fence::adopt_unchecked(Fd::adopt(number));
}

Result<void> import_fence(const Syncobj& object, std::uint64_t point, const Fence& fence) noexcept {
  if (fence.is_null()) return signal(object, point);
  object.foreign.store(true, std::memory_order_relaxed);
  const int result = import_sync_file(object, point, fence.poll_fd());
  if (result < 0) return std::unexpected(object.error(result, "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE", point));
  // The transfer turned a fence that had failed into one that succeeded: no waiter would learn of the failure.
  if (point == 0 || object.file->point_fences.load(std::memory_order_relaxed) == Ability::present) return {};
  const auto state = fence.state();
  if (!state) return std::unexpected(state.error());
  if (*state != Fence::State::failed) return {};
  const auto has_ended = fence.has_ended();  // while a part of it is active, it keeps its parts and their errors
  if (!has_ended) return std::unexpected(has_ended.error());
  return *has_ended ? fence.wait(Deadline::immediate()) : Result<void>{};
}

Result<void> notify(const Syncobj& object, std::uint64_t point, int eventfd, bool available) noexcept {
  constexpr const char* operation = "DRM_IOCTL_SYNCOBJ_EVENTFD";
  const std::uint32_t flags = available ? std::uint32_t{DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE} : 0;
  uapi::SyncobjEventfd request{.handle = object.handle, .flags = flags, .point = point, .fd = eventfd, .pad = 0};
  const int result = sys::ioctl(object.file->fd.get(), uapi::ioctl_syncobj_eventfd, &request);
  if (result >= 0) return {};
  if (result != -EINVAL && result != -EBADF) return std::unexpected(object.error(result, operation, point));
  if (!knows_eventfds(*object.file)) {
    return std::unexpected(
        Error::os(EOPNOTSUPP, operation, object.file->name)
            .detail("this kernel cannot (6.6 can); TimelinePoint::fence() has a descriptor to poll"));
  }
  return std::unexpected(Error::os(-result, operation, object.file->name)
                             .detail("descriptor %d is not %s", eventfd, result == -EBADF ? "open" : "an eventfd"));
}

}  // namespace detail

Result<Fence> TimelinePoint::fence() const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::export_fence(*object_, value_);
}

Result<void> TimelinePoint::import_fence(const Fence& fence) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::import_fence(*object_, value_, fence);
}

Result<void> Timeline::import_fence(std::uint64_t point, const Fence& fence) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::import_fence(*object_, point, fence);
}

Result<void> TimelinePoint::transfer_from(const TimelinePoint& source) const noexcept {
  if (!object_ || !source.object_) return std::unexpected(detail::no_timeline());
  if (object_->file != source.object_->file) {
    const auto fence = source.fence();
    return fence ? import_fence(*fence) : std::unexpected(fence.error());
  }
  if (source.object_->foreign.load(std::memory_order_relaxed)) object_->foreign.store(true, std::memory_order_relaxed);
  const int result = detail::transfer(*object_->file, object_->handle, value_, source.object_->handle, source.value_);
  if (result >= 0) return {};
  return std::unexpected(detail::not_submitted(*object_, result, "DRM_IOCTL_SYNCOBJ_TRANSFER", source.value_));
}

Result<void> TimelinePoint::notify(int eventfd, bool available) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::notify(*object_, value_, eventfd, available);
}

Result<Fd> TimelinePoint::event(bool available) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  const int number = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
  if (number < 0) return std::unexpected(object_->error(number, "eventfd"));
  Fd event = Fd::adopt(number);
  if (auto done = notify(event.get(), available); !done) return std::unexpected(done.error());
  return event;
}

}  // namespace dmaflow
