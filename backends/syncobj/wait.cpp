// Waiting: one ioctl; or, if a Cancel may end the wait, one ppoll on an eventfd for each point and on the Cancel's.
//
// The kernel's wait does not distinguish a fence that failed from one that signalled, and the kernel forgets a failed
// fence when a later point is submitted. So if failures are possible, the fences are exported before the wait and
// checked after it.
#include "few.hpp"
#include "syncobj.hpp"
#include "sys/sys.hpp"

#include <dmaflow/cancel.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <span>

#include <sys/eventfd.h>

namespace dmaflow {
namespace detail {
namespace {

constexpr const char* operation = "Timeline::wait";

/// The points of one wait, as the kernel takes them. All belong to one DRM file.
struct WaitSet {
  SyncobjFile& file;
  std::span<const Syncobj* const> objects;
  std::span<const std::uint32_t> handles;
  std::span<const std::uint64_t> points;
  bool all;
};

/// Absolute, as the ioctl takes it; with 0 or less it only checks.
std::int64_t nanoseconds(Deadline deadline) noexcept {
  const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time().time_since_epoch());
  return std::max<std::int64_t>(time.count(), 0);
}

std::uint32_t flags_of(const WaitSet& set, const WaitOptions& options) noexcept {
  std::uint32_t flags = set.all ? DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL : 0;
  if (options.for_submit) flags |= DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT;
  // Before kernel 6.8, WAIT_AVAILABLE alone only checks.
  if (options.available) flags |= DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE | DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT;
  return flags;
}

int wait_binary(const WaitSet& set, std::int64_t timeout, std::uint32_t flags, std::uint32_t& first) noexcept {
  drm_syncobj_wait request{};
  request.handles = address_of(set.handles.data());
  request.timeout_nsec = timeout;
  request.count_handles = static_cast<std::uint32_t>(set.handles.size());
  request.flags = flags;
  const int result = sys::ioctl(set.file.fd.get(), DRM_IOCTL_SYNCOBJ_WAIT, &request);
  first = request.first_signaled;
  return result;
}

uapi::SyncobjTimelineWait request_for(const std::uint32_t* handles, const std::uint64_t* points, std::size_t count,
                                      std::int64_t timeout, std::uint32_t flags) noexcept {
  uapi::SyncobjTimelineWait request{};
  request.handles = address_of(handles);
  request.points = address_of(points);
  request.timeout_nsec = timeout;
  request.count_handles = static_cast<std::uint32_t>(count);
  request.flags = flags;
  return request;
}

int wait_timeline(const WaitSet& set, std::int64_t timeout, std::uint32_t flags, const WaitOptions& options,
                  std::uint32_t& first) noexcept {
  auto request = request_for(set.handles.data(), set.points.data(), set.handles.size(), timeout, flags);
  const bool hinted = options.hint && set.file.hints.load(std::memory_order_relaxed);
  if (hinted) {
    request.flags |= uapi::syncobj_wait_deadline;
    request.deadline_nsec = static_cast<std::uint64_t>(nanoseconds(*options.hint));
  }
  int result = sys::ioctl(set.file.fd.get(), uapi::ioctl_syncobj_timeline_wait, &request);
  if (hinted && result == -EINVAL) {
    // An older kernel, or a point that is not submitted; the result without the hint tells which.
    request.flags = flags;
    result = sys::ioctl(set.file.fd.get(), uapi::ioctl_syncobj_timeline_wait, &request);
    if (result != -EINVAL) set.file.hints.store(false, std::memory_order_relaxed);
  }
  first = request.first_signaled;
  return result;
}

Error refused(const WaitSet& set, int result, const WaitOptions& options) noexcept {
  const auto point = static_cast<unsigned long long>(set.points.front());
  const char* more = set.points.size() > 1 ? " (the first of several)" : "";
  if (result == -ETIME) {
    return Error::os(ETIMEDOUT, operation, set.file.name)
        .detail("point %llu%s not %s by the deadline", point, more, options.available ? "submitted" : "signalled");
  }
  Error error = set.file.error(result, operation);
  if (result == -EINVAL) {
    error.detail("point %llu%s is not submitted yet; WaitOptions::for_submit waits for that too", point, more);
  }
  return error;
}

int wait_once(const WaitSet& set, Deadline deadline, const WaitOptions& options, std::uint32_t& first) noexcept {
  const std::int64_t timeout = nanoseconds(deadline);
  const std::uint32_t flags = flags_of(set, options);
  const bool binary = !set.file.timelines && !options.available &&
                      std::ranges::all_of(set.points, [](std::uint64_t point) { return point == 0; });
  return binary ? wait_binary(set, timeout, flags, first) : wait_timeline(set, timeout, flags, options, first);
}

/// Continues after a first try: the kernel counts in ticks, and ends the wait up to one tick too early.
Result<std::uint32_t> wait_further(const WaitSet& set, int result, std::uint32_t first, Deadline deadline,
                                   const WaitOptions& options) noexcept {
  while (result == -ETIME && Deadline::Clock::now() < deadline.time()) {
    result = wait_once(set, deadline, options, first);
  }
  if (result < 0) return std::unexpected(refused(set, result, options));
  return first;
}

/// One ioctl. Returns the index of the first signalled point if one is enough.
Result<std::uint32_t> wait_in_kernel(const WaitSet& set, Deadline deadline, const WaitOptions& options) noexcept {
  std::uint32_t first = 0;
  const int result = wait_once(set, deadline, options, first);
  return wait_further(set, result, first, deadline, options);
}

Error cancelled(const WaitSet& set) noexcept {
  return Error::os(ECANCELED, operation, set.file.name)
      .detail("cancelled; point %llu was not signalled", static_cast<unsigned long long>(set.points.front()));
}

/// For kernels before 6.6: short waits; the Cancel is checked between them.
Result<std::uint32_t> wait_in_slices(const WaitSet& set, Deadline deadline, const WaitOptions& options) noexcept {
  while (true) {
    if (options.cancel->is_set()) return std::unexpected(cancelled(set));
    const auto slice = Deadline::after(std::chrono::milliseconds(10));
    const bool last = deadline.time() <= slice.time();
    auto result = wait_in_kernel(set, last ? deadline : slice, options);
    if (result || result.error().code() != ETIMEDOUT || last) return result;
  }
}

/// Sets up the eventfds that the kernel makes readable, and the Cancel's as the last.
Result<void> listen(const WaitSet& set, const WaitOptions& options, std::span<Fd> events,
                    std::span<pollfd> polled) noexcept {
  for (std::size_t i = 0; i < events.size(); ++i) {
    const int number = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
    if (number < 0) return std::unexpected(set.file.error(number, "eventfd"));
    events[i] = Fd::adopt(number);
    if (auto done = notify(*set.objects[i], set.points[i], number, options.available); !done) return done;
    polled[i] = {.fd = number, .events = POLLIN, .revents = 0};
  }
  polled.back() = {.fd = options.cancel->poll_fd(), .events = POLLIN, .revents = 0};
  return {};
}

/// Waits until enough of the eventfds that listen() set up are readable: one, or all.
Result<std::uint32_t> wait_for_events(const WaitSet& set, Deadline deadline, const WaitOptions& options,
                                      std::span<pollfd> polled) noexcept {
  std::size_t left = set.all ? polled.size() - 1 : 1;
  while (true) {
    const int ready = sys::wait(polled, deadline);
    if (ready < 0) return std::unexpected(set.file.error(ready, "poll"));
    if (ready == 0) return std::unexpected(refused(set, -ETIME, options));
    for (std::size_t i = 0; i + 1 < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      if (--left == 0) return static_cast<std::uint32_t>(i);
      polled[i] = {.fd = -1, .events = 0, .revents = 0};  // ppoll ignores it from now on
    }
    if (polled.back().revents != 0) return std::unexpected(cancelled(set));
  }
}

Result<std::uint32_t> wait_cancellable(const WaitSet& set, Deadline deadline, const WaitOptions& options) noexcept {
  // Most waits find their point signalled; then this is the only call needed.
  auto looked = wait_in_kernel(set, Deadline::immediate(), options);
  if (looked || looked.error().code() != ETIMEDOUT) return looked;
  if (!set.file.eventfds.load(std::memory_order_relaxed)) return wait_in_slices(set, deadline, options);

  Few<Fd> events(set.points.size());
  Few<pollfd> polled(set.points.size() + 1);
  if (!events || !polled) return std::unexpected(set.file.error(-ENOMEM, operation));
  const auto listening = listen(set, options, events.span(), polled.span());
  if (!listening && listening.error().code() == EOPNOTSUPP) {
    set.file.eventfds.store(false, std::memory_order_relaxed);
    return wait_in_slices(set, deadline, options);
  }
  if (!listening) return std::unexpected(listening.error());
  return wait_for_events(set, deadline, options, polled.span());
}

Result<std::uint32_t> wait_blindly(const WaitSet& set, Deadline deadline, const WaitOptions& options) noexcept {
  return options.cancel == nullptr ? wait_in_kernel(set, deadline, options) : wait_cancellable(set, deadline, options);
}

/// The error of a point that has ended, from the fence exported before the wait, or else from the current one.
Result<void> failure_of(const WaitSet& set, std::size_t index, Fence& fence) noexcept {
  const Syncobj& object = *set.objects[index];
  if (!object.foreign.load(std::memory_order_relaxed)) return {};
  if (fence.is_null()) {
    auto taken = export_fence(object, set.points[index]);
    // EINVAL: the timeline was reset meanwhile, and the fence is gone.
    if (!taken) return taken.error().code() == EINVAL ? Result<void>{} : std::unexpected(taken.error());
    fence = std::move(*taken);
  }
  const auto ended = fence.wait(Deadline::immediate());
  if (ended) return {};
  const int code = ended.error().code();
  if (code == ETIMEDOUT) {
    // Submitted again meanwhile, unless ETIMEDOUT is the error of the fence itself.
    const auto over = fence.has_ended();
    if (!over) return std::unexpected(over.error());
    if (!*over) return {};
  }
  return std::unexpected(
      Error::os(code, operation, set.file.name)
          .detail("the fence of point %llu ended with an error", static_cast<unsigned long long>(set.points[index])));
}

Result<std::uint32_t> wait_and_look(const WaitSet& set, Deadline deadline, const WaitOptions& options) noexcept {
  Few<Fence> fences(set.points.size());
  if (!fences) return std::unexpected(set.file.error(-ENOMEM, operation));
  for (std::size_t i = 0; i < set.points.size(); ++i) {
    if (!set.objects[i]->foreign.load(std::memory_order_relaxed)) continue;
    // The fence of a point that is not submitted yet is exported after the wait.
    if (auto fence = export_fence(*set.objects[i], set.points[i])) fences.span()[i] = std::move(*fence);
  }
  auto result = wait_blindly(set, deadline, options);
  if (!result) return result;
  const std::size_t begin = set.all ? 0 : *result;
  const std::size_t end = set.all ? set.points.size() : begin + 1;
  for (std::size_t i = begin; i < end; ++i) {
    if (auto good = failure_of(set, i, fences.span()[i]); !good) return std::unexpected(good.error());
  }
  return result;
}

Result<std::uint32_t> wait_set(const WaitSet& set, Deadline deadline, const WaitOptions& options) noexcept {
  const bool look =
      options.report_failure && !options.available && std::ranges::any_of(set.objects, [](const Syncobj* object) {
        return object->foreign.load(std::memory_order_relaxed);
      });
  return look ? wait_and_look(set, deadline, options) : wait_blindly(set, deadline, options);
}

/// Whether the wait for one point needs only the ioctl.
bool is_plain(const Syncobj& object, const WaitOptions& options) noexcept {
  return object.file->timelines && !options.available && !options.hint && options.cancel == nullptr &&
         !(options.report_failure && object.foreign.load(std::memory_order_relaxed));
}

int wait_plainly(const Syncobj& object, std::uint64_t point, Deadline deadline, bool for_submit) noexcept {
  std::uint32_t flags = DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL;
  if (for_submit) flags |= DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT;
  auto request = request_for(&object.handle, &point, 1, nanoseconds(deadline), flags);
  return sys::ioctl(object.file->fd.get(), uapi::ioctl_syncobj_timeline_wait, &request);
}

/// Every wait that is not plain, and what follows a plain one that failed; @p tried: its -errno, else 0.
[[gnu::noinline]] Result<void> wait_with_set(const Syncobj& object, std::uint64_t point, int tried, Deadline deadline,
                                             const WaitOptions& options) noexcept {
  const Syncobj* const objects = &object;
  const WaitSet set{.file = *object.file,
                    .objects = std::span(&objects, 1),
                    .handles = std::span(&object.handle, 1),
                    .points = std::span(&point, 1),
                    .all = true};
  auto result = tried < 0 ? wait_further(set, tried, 0, deadline, options) : wait_set(set, deadline, options);
  if (!result) return std::unexpected(result.error());
  return {};
}

}  // namespace

Result<void> wait(const Syncobj& object, std::uint64_t point, Deadline deadline, const WaitOptions& options) noexcept {
  int tried = 0;
  if (is_plain(object, options)) {
    tried = wait_plainly(object, point, deadline, options.for_submit);
    if (tried >= 0) return {};
  }
  return wait_with_set(object, point, tried, deadline, options);
}

namespace {

Result<std::uint32_t> wait_several(std::span<const TimelinePoint> points, bool all, Deadline deadline,
                                   const WaitOptions& options) noexcept {
  const std::size_t count = points.size();
  Few<const Syncobj*> objects(count);
  Few<std::uint32_t> handles(count);
  Few<std::uint64_t> values(count);
  if (!objects || !handles || !values) return std::unexpected(Error::os(ENOMEM, operation));
  for (std::size_t i = 0; i < count; ++i) {
    const Syncobj* object = PointAccess::object(points[i]);
    if (object == nullptr) return std::unexpected(no_timeline());
    objects.span()[i] = object;
    handles.span()[i] = object->handle;
    values.span()[i] = points[i].value();
    if (object->file != objects.span()[0]->file) {
      return std::unexpected(
          Error::os(EXDEV, operation, object->file->name)
              .detail("the points are on several DRM files; pass the timelines to one by export_fd() and import_fd()"));
    }
  }
  return wait_set({.file = *objects.span()[0]->file,
                   .objects = objects.span(),
                   .handles = handles.span(),
                   .points = values.span(),
                   .all = all},
                  deadline, options);
}

}  // namespace
}  // namespace detail

Result<void> Timeline::wait(std::uint64_t point, Deadline deadline, const WaitOptions& options) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::wait(*object_, point, deadline, options);
}

Result<void> TimelinePoint::wait(Deadline deadline, const WaitOptions& options) const noexcept {
  if (!object_) return std::unexpected(detail::no_timeline());
  return detail::wait(*object_, value_, deadline, options);
}

Result<void> wait_all(std::span<const TimelinePoint> points, Deadline deadline, const WaitOptions& options) noexcept {
  if (points.empty()) return {};
  auto result = detail::wait_several(points, true, deadline, options);
  if (!result) return std::unexpected(result.error());
  return {};
}

Result<std::size_t> wait_any(std::span<const TimelinePoint> points, Deadline deadline,
                             const WaitOptions& options) noexcept {
  if (points.empty()) {
    return std::unexpected(Error::os(EINVAL, "wait_any").detail("no points: there is nothing to wait for"));
  }
  auto result = detail::wait_several(points, false, deadline, options);
  if (!result) return std::unexpected(result.error());
  return *result;
}

}  // namespace dmaflow
