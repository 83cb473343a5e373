// Timeline: a drm_syncobj, the kernel's ordered sequence of points with fences (include/uapi/drm/drm.h).
//
// A timeline is a sequence of increasing numbers. A point is *submitted* once there is a fence for it (signal(),
// import_fence(), a GPU's job) and *signalled* once that fence and those of all lower points have signalled. Waits may
// begin before the point is submitted, in any thread and any process that has the timeline. If only one fence is
// needed, use point 0: the syncobj is then "binary", and holds one fence, which each new one replaces.
//
// Threads: every function that is const may be called from several threads at once on one object. Points share their
// timeline: it is destroyed (one DRM_IOCTL_SYNCOBJ_DESTROY) with the last of the Timeline, its points and its promises,
// and so is the DRM file. Only creation, and waiting for more than 16 points at once, allocate.
//
// Errors of every call, in addition to those it names: EOPNOTSUPP (a point other than 0, or a query, on a device with
// binary syncobjs only), ENOENT (another user of the DRM file destroyed the handle), ENOMEM, ENODEV (the device is
// gone), EINVAL (the object was moved from).
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/fence.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dmaflow {

class Cancel;
namespace detail {
struct PointAccess;
struct Syncobj;
struct SyncobjFile;
}  // namespace detail

/// A DRM file to make timelines on. A cheap handle: copies share the file. A syncobj needs no work from the device: any
/// driver that supports them suffices, and timelines are passed between devices with export_fd() and import_fd().
class SyncobjDevice {
 public:
  /// Opens a render node (/dev/dri/renderD128) or a primary one (/dev/dri/card0; the first to open that becomes the
  /// display's master, so a program that does not drive the display should prefer the render node).
  /// Errors: those of open (EACCES names the group that may), ENOTTY (not a DRM device), EOPNOTSUPP (the driver has no
  /// syncobjs: bochs, vgem, vkms and others without jobs).
  [[nodiscard]] static Result<SyncobjDevice> open(const std::string& path);
  /// Takes ownership of a DRM file; on an error the caller keeps it. Errors: EBADF, and those of open().
  [[nodiscard]] static Result<SyncobjDevice> adopt(Fd& fd);
  /// The same DRM file, and so the same handles, as @p fd, which the caller keeps. Errors: EMFILE, and as adopt().
  [[nodiscard]] static Result<SyncobjDevice> dup_of(int fd);

  /// Whether timelines are supported (DRM_CAP_SYNCOBJ_TIMELINE); otherwise only binary syncobjs are, and every point
  /// must be 0.
  [[nodiscard]] bool has_timelines() const noexcept;
  /// "/dev/dri/renderD128 (virtio_gpu)".
  [[nodiscard]] std::string_view name() const noexcept;
  /// The DRM file, for the driver's own calls. Owned by this object.
  [[nodiscard]] int fd() const noexcept;

 private:
  friend class Timeline;
  explicit SyncobjDevice(std::shared_ptr<detail::SyncobjFile> file) noexcept : file_(std::move(file)) {}
  std::shared_ptr<detail::SyncobjFile> file_;
};

/// What to wait for, and how.
struct WaitOptions {
  /// Wait also for a fence that is not submitted yet. Without it such a point fails with EINVAL at once.
  bool for_submit = true;
  /// Wait only until the point is submitted, not signalled.
  bool available = false;
  /// The kernel's wait treats a fence that failed like one that signalled. With this, the wait checks the fence itself
  /// and ends with its error. It does so only on a timeline that may contain foreign fences (import_fence(),
  /// transfer_from(), import_fd(), export_fd(), handle()): there it costs three more system calls per point, four
  /// before kernel 6.16.
  bool report_failure = true;
  /// When the result is wanted, passed to the driver so that it may raise clocks (kernel 6.6; ignored before).
  std::optional<Deadline> hint = std::nullopt;
  /// Ends the wait with ECANCELED. A point that is signalled already still counts as signalled.
  const Cancel* cancel = nullptr;
};

/// A value on a timeline. Copies share the timeline; a default one refers to nothing (every call gives EINVAL).
class [[nodiscard]] TimelinePoint {
 public:
  TimelinePoint() = default;

  explicit operator bool() const noexcept { return object_ != nullptr; }
  [[nodiscard]] std::uint64_t value() const noexcept { return value_; }

  /// As Timeline::signal().
  [[nodiscard]] Result<void> signal() const noexcept;
  /// As Timeline::wait().
  [[nodiscard]] Result<void> wait(Deadline deadline, const WaitOptions& options = {}) const noexcept;
  /// As Timeline::import_fence().
  [[nodiscard]] Result<void> import_fence(const Fence& fence) const noexcept;

  /// The point as a sync_file, which signals with the point and is not affected by later changes of the timeline. It
  /// covers lower points only while they are pending: the failure of a lower point is not a failure of this one.
  /// One system call, two before kernel 6.16. Errors: EINVAL (not submitted yet: wait with `available` first), EMFILE.
  [[nodiscard]] Result<Fence> fence() const noexcept;
  /// Gives this point the fence of @p source, a point of this or another timeline, possibly of another device. A
  /// signalled fence arrives as signalled; if it had failed, its error is lost (the kernel forgets it).
  /// Errors: EINVAL (@p source is not submitted yet).
  [[nodiscard]] Result<void> transfer_from(const TimelinePoint& source) const noexcept;

  /// An eventfd (nonblocking, CLOEXEC) that becomes readable when the point is signalled, or with @p available when it
  /// is submitted; at once if it already is. For poll loops. Kernel 6.6. It is also readable when the fence failed:
  /// check fence() then. Errors: EOPNOTSUPP (older kernel: use fence() and its poll_fd()), EMFILE.
  [[nodiscard]] Result<Fd> event(bool available = false) const noexcept;
  /// The same with the caller's eventfd, which the caller keeps; 1 is added to it. This cannot be undone: the kernel
  /// keeps the eventfd's file open until then, or until the timeline is destroyed.
  /// Errors: EINVAL (not an eventfd), EBADF, EOPNOTSUPP.
  [[nodiscard]] Result<void> notify(int eventfd, bool available = false) const noexcept;

 private:
  friend class Timeline;
  friend struct detail::PointAccess;
  TimelinePoint(std::shared_ptr<const detail::Syncobj> object, std::uint64_t value) noexcept
      : object_(std::move(object)), value_(value) {}
  std::shared_ptr<const detail::Syncobj> object_{};
  std::uint64_t value_ = 0;
};

/// Owns one handle of a syncobj. Move-only.
class Timeline {
 public:
  /// A new one, at 0 with nothing submitted; @p signalled: a binary one whose fence has signalled.
  [[nodiscard]] static Result<Timeline> create(const SyncobjDevice& device, bool signalled = false);
  /// The timeline of a descriptor from export_fd(), of any process and device. @p fd is only read, and the caller keeps
  /// it. Errors: EBADF (closed), EINVAL (not a syncobj; the error says what it is if that is known).
  [[nodiscard]] static Result<Timeline> import_fd(const SyncobjDevice& device, int fd);
  /// A descriptor of the timeline, to pass to another process or device. Errors: EMFILE.
  [[nodiscard]] Result<Fd> export_fd() const noexcept;
  /// The handle in device().fd(), for the driver's own calls. Owned by this object.
  [[nodiscard]] std::uint32_t handle() const noexcept;
  [[nodiscard]] SyncobjDevice device() const noexcept;

  [[nodiscard]] TimelinePoint at(std::uint64_t value) const noexcept { return {object_, value}; }

  /// Submits @p point as signalled. One system call. Values must increase: a value at or below one submitted before is
  /// accepted and affects no wait, but query() may then return a point whose fence is still pending. Point 0 replaces
  /// everything submitted with one signalled fence.
  [[nodiscard]] Result<void> signal(std::uint64_t point) const noexcept;
  /// Submits @p point with a fence; a null one is signal(). The caller keeps the fence. One system call, three before
  /// kernel 6.16. Errors: before 6.16 the fence's own error if it has failed already: the point is signalled anyway,
  /// but the kernel may not have kept the error.
  [[nodiscard]] Result<void> import_fence(std::uint64_t point, const Fence& fence) const noexcept;
  /// Removes all fences: no point is submitted. Waits that have found their fence continue with it; others continue to
  /// wait for one.
  [[nodiscard]] Result<void> reset() const noexcept;

  /// The highest point signalled; 0 if there is none, or if the last fence was set as point 0.
  [[nodiscard]] Result<std::uint64_t> query() const noexcept;
  /// The highest point submitted.
  [[nodiscard]] Result<std::uint64_t> query_submitted() const noexcept;

  /// Waits until the fences of @p point and of all lower points have signalled; for point 0 the current fence. Values
  /// between submitted ones count as the next higher. One system call without a Cancel and if no failure is possible
  /// (see WaitOptions), one or two more at the deadline: the kernel counts it in ticks of 1 to 10 ms and ends the wait
  /// up to a tick too early or too late. This call does not end early. With a Cancel: one system call if the point is
  /// signalled already; else an eventfd for each point (kernel 6.6; before that, waits of 10 ms each). An abandoned
  /// wait leaves some hundred bytes in the kernel until the point signals or the timeline is destroyed. Errors:
  /// ETIMEDOUT at the deadline; ECANCELED; EINVAL (not submitted, and not for_submit); the fence's own error, if it is
  /// known: the kernel forgets it as soon as a later point is submitted, unless a wait had begun by then.
  [[nodiscard]] Result<void> wait(std::uint64_t point, Deadline deadline,
                                  const WaitOptions& options = {}) const noexcept;

 private:
  explicit Timeline(std::shared_ptr<const detail::Syncobj> object) noexcept : object_(std::move(object)) {}
  std::shared_ptr<const detail::Syncobj> object_;
};

/// Waits until all points are signalled; returns at once if there are none. All must be on one DRM file.
/// Errors: EXDEV (several DRM files: pass the timelines to one with export_fd() and import_fd()), those of
/// Timeline::wait(); if several points failed, that of the first.
[[nodiscard]] Result<void> wait_all(std::span<const TimelinePoint> points, Deadline deadline,
                                    const WaitOptions& options = {}) noexcept;
/// Waits until one is signalled, and returns its index. Errors: EINVAL (no points), those of wait_all().
[[nodiscard]] Result<std::size_t> wait_any(std::span<const TimelinePoint> points, Deadline deadline,
                                           const WaitOptions& options = {}) noexcept;

/// A promise that a point will be signalled. If it is destroyed or assigned to before it was kept, it is kept then, so
/// that no peer waits for ever. Move-only; not synchronised.
class [[nodiscard("destroying a promise keeps it: the point is signalled")]] ReleasePoint {
 public:
  ReleasePoint() = default;
  explicit ReleasePoint(TimelinePoint point) noexcept : point_(std::move(point)) {}
  ReleasePoint(ReleasePoint&& other) noexcept : point_(std::exchange(other.point_, {})) {}
  ReleasePoint& operator=(ReleasePoint&& other) noexcept;
  ReleasePoint(const ReleasePoint&) = delete;
  ReleasePoint& operator=(const ReleasePoint&) = delete;
  ~ReleasePoint() { keep(); }

  /// True until the promise is kept or moved away.
  explicit operator bool() const noexcept { return static_cast<bool>(point_); }
  [[nodiscard]] const TimelinePoint& point() const noexcept { return point_; }

  /// Keeps it now. After an error it is still open. Errors: those of Timeline::signal().
  [[nodiscard]] Result<void> signal() noexcept;
  /// Keeps it with a fence. After an error it is still open, and then kept without one at the latest when destroyed.
  /// Errors: those of Timeline::import_fence().
  [[nodiscard]] Result<void> signal_with(const Fence& fence) noexcept;

 private:
  void keep() noexcept;
  TimelinePoint point_;
};

}  // namespace dmaflow
