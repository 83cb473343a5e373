// The work of fence.hpp, implicit_fences.hpp and timeline.hpp in raw system calls, as an expert would write it in C:
// descriptors have no owners, calls do not go through a seam, errors are only errno values, and everything is inlined
// into the program. Functions return the result, or -errno.
//
// Functions named "unchecked" omit the checks that most programs omit, and so lose the errors of fences.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include <drm.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace raw {

inline int call(int fd, unsigned long request, void* argument) noexcept {
  int result = 0;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

// --- dma-bufs -------------------------------------------------------------------------------------------------------

// struct dma_buf_export_sync_file and dma_buf_import_sync_file, which the headers of Linux 5.x lack.
struct DmaBufSyncFile {
  std::uint32_t flags;
  std::int32_t fd;
};

inline int export_fence(int dma_buf, std::uint32_t access) noexcept {
  DmaBufSyncFile argument{.flags = access, .fd = -1};
  const int result = call(dma_buf, _IOWR(DMA_BUF_BASE, 2, DmaBufSyncFile), &argument);
  return result < 0 ? result : argument.fd;
}

inline int import_fence(int dma_buf, int fence, std::uint32_t access) noexcept {
  DmaBufSyncFile argument{.flags = access, .fd = fence};
  return call(dma_buf, _IOW(DMA_BUF_BASE, 3, DmaBufSyncFile), &argument);
}

// --- sync_files -----------------------------------------------------------------------------------------------------

// 1: all parts have ended without an error, 0: not all have ended, -errno: a part or the call failed.
inline int look_among(int fd, sync_fence_info* parts, std::uint32_t room) noexcept {
  sync_file_info info{};
  info.num_fences = room;
  info.sync_fence_info = reinterpret_cast<std::uintptr_t>(parts);
  if (const int result = call(fd, SYNC_IOC_FILE_INFO, &info); result < 0) return result;
  int state = 1;
  for (std::uint32_t i = 0; i < info.num_fences; ++i) {
    if (parts[i].status < 0) return parts[i].status;
    if (parts[i].status == 0) state = 0;
  }
  return state;
}

inline int count_parts(int fd) noexcept {
  sync_file_info info{};
  const int result = call(fd, SYNC_IOC_FILE_INFO, &info);
  return result < 0 ? result : static_cast<int>(info.num_fences);
}

inline int look(int fd) noexcept {
  std::array<sync_fence_info, 16> some;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel writes it
  const int state = look_among(fd, some.data(), some.size());
  if (state != -EINVAL) return state;
  const int count = count_parts(fd);
  if (count < 0) return count;
  const std::unique_ptr<sync_fence_info[]> all(new (std::nothrow) sync_fence_info[static_cast<std::size_t>(count)]);
  return all ? look_among(fd, all.get(), static_cast<std::uint32_t>(count)) : -ENOMEM;
}

inline int wait(int fd, int timeout_ms) noexcept {
  int state = look(fd);
  if (state != 0) return state < 0 ? state : 0;
  pollfd polled{.fd = fd, .events = POLLIN, .revents = 0};
  const int ready = ::poll(&polled, 1, timeout_ms);
  if (ready <= 0) return ready == 0 ? -ETIMEDOUT : -errno;
  state = look(fd);
  return state < 0 ? state : 0;
}

// Waits as libsync does.
inline int wait_unchecked(int fd, int timeout_ms) noexcept {
  pollfd polled{.fd = fd, .events = POLLIN, .revents = 0};
  const int ready = ::poll(&polled, 1, timeout_ms);
  if (ready <= 0) return ready == 0 ? -ETIMEDOUT : -errno;
  return (polled.revents & (POLLERR | POLLNVAL)) != 0 ? -EINVAL : 0;
}

inline int merge_two(int one, int other) noexcept {
  sync_merge_data data{};
  __builtin_memcpy(data.name, "raw", 4);
  data.fd2 = other;
  const int result = call(one, SYNC_IOC_MERGE, &data);
  return result < 0 ? result : data.fence;
}

// Merges pairs, then pairs of pairs: the kernel copies every part in each call, so a chain would be more work. Closes
// its intermediate descriptors. Overwrites fds.
inline int merge_pairs(int* fds, std::size_t count) noexcept {
  for (bool first = true; count > 1; first = false) {
    std::size_t out = 0;
    for (std::size_t i = 0; i + 1 < count; i += 2) {
      const int merged = merge_two(fds[i], fds[i + 1]);
      if (merged < 0) return merged;
      if (!first) {
        ::close(fds[i]);
        ::close(fds[i + 1]);
      }
      fds[out++] = merged;
    }
    if (count % 2 != 0) fds[out++] = first ? ::dup(fds[count - 1]) : fds[count - 1];
    count = out;
  }
  return fds[0];
}

inline constexpr std::size_t most_inputs = 256;

// Merges all fences into one; fails if any of them failed; closes the inputs. Checks each input, so that a failed one
// is found and one that has ended is left out. If the result has fewer parts, checks the inputs again: a part that the
// kernel left out had ended meanwhile and may have failed.
inline int merge(int* fds, std::size_t count) noexcept {
  std::array<int, most_inputs> active;  // NOLINT(cppcoreguidelines-pro-type-member-init): written before it is read
  std::size_t left = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const int state = look(fds[i]);
    if (state < 0) return state;
    if (state == 0) active[left++] = fds[i];
  }
  if (left < 2) return -EINVAL;  // this case is not measured
  const int merged = merge_pairs(active.data(), left);
  if (merged < 0) return merged;
  const int parts = count_parts(merged);
  if (parts < 0) return parts;
  for (std::size_t i = 0; static_cast<std::size_t>(parts) < left && i < count; ++i) {
    if (const int state = look(fds[i]); state < 0) return state;
  }
  for (std::size_t i = 0; i < count; ++i) ::close(fds[i]);
  return merged;
}

inline int merge_unchecked(int* fds, std::size_t count) noexcept {
  std::array<int, most_inputs> inputs;  // NOLINT(cppcoreguidelines-pro-type-member-init): written before it is read
  for (std::size_t i = 0; i < count; ++i) inputs[i] = fds[i];
  const int merged = merge_pairs(inputs.data(), count);
  for (std::size_t i = 0; i < count; ++i) ::close(fds[i]);
  return merged;
}

// --- syncobjs -------------------------------------------------------------------------------------------------------

inline int create_syncobj(int drm) noexcept {
  drm_syncobj_create create{};
  const int result = call(drm, DRM_IOCTL_SYNCOBJ_CREATE, &create);
  return result < 0 ? result : static_cast<int>(create.handle);
}

inline int signal(int drm, std::uint32_t handle, std::uint64_t point) noexcept {
  drm_syncobj_timeline_array array{};
  array.handles = reinterpret_cast<std::uintptr_t>(&handle);
  array.points = reinterpret_cast<std::uintptr_t>(&point);
  array.count_handles = 1;
  return call(drm, DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &array);
}

inline int wait_for_point(int drm, std::uint32_t handle, std::uint64_t point, std::int64_t deadline_ns) noexcept {
  drm_syncobj_timeline_wait request{};
  request.handles = reinterpret_cast<std::uintptr_t>(&handle);
  request.points = reinterpret_cast<std::uintptr_t>(&point);
  request.timeout_nsec = deadline_ns;
  request.count_handles = 1;
  request.flags = DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL | DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT;
  return call(drm, DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, &request);
}

}  // namespace raw
