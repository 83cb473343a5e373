// include/uapi/drm/drm.h: additions to its syncobj part since Linux 6.1. Declared under our own names, so that they do
// not collide with newer headers. DRM accepts structures that are shorter or longer than its own: missing members are
// zero, additional ones are ignored.
#pragma once

#include <cstdint>

#include <drm.h>

namespace dmaflow::uapi {

/// drm_syncobj_timeline_wait with the deadline hint that Linux 6.6 appended.
struct SyncobjTimelineWait {
  std::uint64_t handles;
  std::uint64_t points;
  std::int64_t timeout_nsec;  // on CLOCK_MONOTONIC, absolute; 0: does not wait
  std::uint32_t count_handles;
  std::uint32_t flags;
  std::uint32_t first_signaled;
  std::uint32_t pad;
  std::uint64_t deadline_nsec;
};
static_assert(sizeof(SyncobjTimelineWait) == 48);
inline constexpr std::uint32_t syncobj_wait_deadline = 1U << 3U;  // DRM_SYNCOBJ_WAIT_FLAGS_WAIT_DEADLINE, Linux 6.6
inline constexpr unsigned long ioctl_syncobj_timeline_wait = DRM_IOWR(0xCA, SyncobjTimelineWait);

/// drm_syncobj_handle with the point that Linux 6.16 appended.
struct SyncobjHandle {
  std::uint32_t handle;
  std::uint32_t flags;
  std::int32_t fd;
  std::uint32_t pad;
  std::uint64_t point;
};
static_assert(sizeof(SyncobjHandle) == 24);
// DRM_SYNCOBJ_{HANDLE_TO_FD,FD_TO_HANDLE}_FLAGS_TIMELINE, Linux 6.16: the sync_file of one point instead of the whole
// syncobj.
inline constexpr std::uint32_t syncobj_fd_timeline = 1U << 1U;
inline constexpr unsigned long ioctl_syncobj_handle_to_fd = DRM_IOWR(0xC1, SyncobjHandle);
inline constexpr unsigned long ioctl_syncobj_fd_to_handle = DRM_IOWR(0xC2, SyncobjHandle);

/// drm_syncobj_eventfd, Linux 6.6.
struct SyncobjEventfd {
  std::uint32_t handle;
  std::uint32_t flags;
  std::uint64_t point;
  std::int32_t fd;
  std::uint32_t pad;
};
static_assert(sizeof(SyncobjEventfd) == 24);
inline constexpr unsigned long ioctl_syncobj_eventfd = DRM_IOWR(0xCF, SyncobjEventfd);

}  // namespace dmaflow::uapi
