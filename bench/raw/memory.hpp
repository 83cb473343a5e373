// Memory in raw system calls, as an expert would write it in C: allocated, imported by a display, mapped and accessed.
// Descriptors have no owners, calls do not go through a seam, errors are only errno values, and everything is inlined
// into the program. Functions return the result, or -errno.
//
// Functions named "checked" also check what the library checks: that there is enough memory before the kernel would
// have to kill a process, that a descriptor is a dma-buf, its identity and size, and that every wait has a deadline.
#pragma once

#include "fences.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <drm_fourcc.h>
#include <drm_mode.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

namespace raw {

// --- Allocation: a dma-buf's descriptor ------------------------------------------------------------------------------

inline int heap_alloc(int heap, std::uint64_t bytes) noexcept {
  dma_heap_allocation_data data{};
  data.len = bytes;
  data.fd_flags = O_CLOEXEC | O_RDWR;
  const int result = call(heap, DMA_HEAP_IOCTL_ALLOC, &data);
  return result < 0 ? result : static_cast<int>(data.fd);
}

// A memfd of whole pages that cannot shrink.
inline int sealed_memfd(std::uint64_t bytes) noexcept {
  constexpr unsigned noexec_seal = 8;  // MFD_NOEXEC_SEAL, Linux 6.3
  int memfd = ::memfd_create("raw", MFD_CLOEXEC | MFD_ALLOW_SEALING | noexec_seal);
  if (memfd < 0) memfd = ::memfd_create("raw", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memfd < 0) return -errno;
  if (::ftruncate(memfd, static_cast<off_t>(bytes)) == 0 && ::fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0) {
    return memfd;
  }
  const int error = errno;
  ::close(memfd);
  return -error;
}

// The caller keeps the memfd.
inline int udmabuf_of(int device, int memfd, std::uint64_t bytes) noexcept {
  udmabuf_create create{};
  create.memfd = static_cast<std::uint32_t>(memfd);
  create.flags = UDMABUF_FLAGS_CLOEXEC;
  create.size = bytes;
  return call(device, UDMABUF_CREATE, &create);
}

inline int udmabuf_alloc(int device, std::uint64_t bytes) noexcept {
  const int memfd = sealed_memfd(bytes);
  if (memfd < 0) return memfd;
  const int dma_buf = udmabuf_of(device, memfd, bytes);
  ::close(memfd);
  return dma_buf;
}

// A dumb buffer with 32 bits a pixel.
inline int dumb_alloc(int drm, std::uint32_t width, std::uint32_t height) noexcept {
  drm_mode_create_dumb create{};
  create.width = width;
  create.height = height;
  create.bpp = 32;
  if (const int result = call(drm, DRM_IOCTL_MODE_CREATE_DUMB, &create); result < 0) return result;
  drm_prime_handle prime{.handle = create.handle, .flags = DRM_CLOEXEC | DRM_RDWR, .fd = -1};
  const int result = call(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime);
  drm_mode_destroy_dumb destroy{.handle = create.handle};
  call(drm, DRM_IOCTL_MODE_DESTROY_DUMB, &destroy);
  return result < 0 ? result : prime.fd;
}

// --- Checked ---------------------------------------------------------------------------------------------------------

inline bool has_memory(std::uint64_t bytes) noexcept {
  const int file = ::open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
  if (file < 0) return true;
  std::array<char, 512> text;  // NOLINT(cppcoreguidelines-pro-type-member-init): read() fills it
  const ssize_t length = ::read(file, text.data(), text.size() - 1);
  ::close(file);
  if (length <= 0) return true;
  text[static_cast<std::size_t>(length)] = '\0';
  const char* const line = std::strstr(text.data(), "MemAvailable:");
  return line == nullptr || std::strtoull(line + 13, nullptr, 10) * 1024 >= bytes;
}

struct Identity {
  dev_t device;
  ino_t inode;
};

// Returns 0 if it is a dma-buf of at least this size.
inline int look_at_dma_buf(int fd, std::uint64_t bytes, Identity& identity) noexcept {
  struct stat status;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel writes it
  if (::fstat(fd, &status) < 0) return -errno;
  identity = {status.st_dev, status.st_ino};
  struct statfs file_system;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel writes it
  if (::fstatfs(fd, &file_system) < 0) return -errno;
  constexpr auto dma_buf_magic = 0x444d4142;
  if (file_system.f_type != dma_buf_magic) return -EINVAL;
  const off_t size = ::lseek(fd, 0, SEEK_END);
  return size >= 0 && static_cast<std::uint64_t>(size) >= bytes ? 0 : -EINVAL;
}

// --- Access by the CPU -----------------------------------------------------------------------------------------------

inline void* map(int dma_buf, std::size_t bytes) noexcept {
  return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, dma_buf, 0);
}

// Tries again on EAGAIN, as the kernel's header requires.
inline int sync(int dma_buf, std::uint64_t flags) noexcept {
  dma_buf_sync argument{.flags = flags};
  int result = 0;
  do {
    result = call(dma_buf, DMA_BUF_IOCTL_SYNC, &argument);
  } while (result == -EAGAIN);
  return result;
}

// Waits for the buffer's fences with a deadline, which DMA_BUF_IOCTL_SYNC does not have.
inline int wait_idle(int dma_buf, short events, std::int64_t deadline_ns) noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t left = deadline_ns - (std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec);
  const timespec timeout{.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
  pollfd polled{.fd = dma_buf, .events = events, .revents = 0};
  const int ready = ::ppoll(&polled, 1, &timeout, nullptr);
  if (ready <= 0) return ready == 0 ? -ETIMEDOUT : -errno;
  return (polled.revents & events) != 0 ? 0 : -EIO;
}

// --- Import by a display ---------------------------------------------------------------------------------------------

// For XRGB8888. Returns the framebuffer's id.
inline int add_framebuffer(int drm, int dma_buf, std::uint32_t width, std::uint32_t height, std::uint32_t stride,
                           bool with_modifier, std::uint32_t& id) noexcept {
  drm_prime_handle prime{.handle = 0, .flags = 0, .fd = dma_buf};
  if (const int result = call(drm, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime); result < 0) return result;
  drm_mode_fb_cmd2 request{};
  request.width = width;
  request.height = height;
  request.pixel_format = DRM_FORMAT_XRGB8888;
  request.handles[0] = prime.handle;
  request.pitches[0] = stride;
  if (with_modifier) {
    request.modifier[0] = DRM_FORMAT_MOD_LINEAR;
    request.flags = DRM_MODE_FB_MODIFIERS;
  }
  const int result = call(drm, DRM_IOCTL_MODE_ADDFB2, &request);
  drm_gem_close close{.handle = prime.handle, .pad = 0};
  call(drm, DRM_IOCTL_GEM_CLOSE, &close);
  id = request.fb_id;
  return result;
}

inline int remove_framebuffer(int drm, std::uint32_t id) noexcept {
  unsigned int argument = id;
  return call(drm, DRM_IOCTL_MODE_RMFB, &argument);
}

// An atomic test commit: a framebuffer on a whole plane, in a mode.
class TestCommit {
 public:
  // Must be called in the order of the objects.
  void set(std::uint32_t object, std::uint32_t property, std::uint64_t value) noexcept {
    if (objects_used_ == 0 || objects_[objects_used_ - 1] != object) {
      objects_[objects_used_] = object;
      counts_[objects_used_++] = 0;
    }
    ++counts_[objects_used_ - 1];
    properties_[used_] = property;
    values_[used_++] = value;
  }
  // The same for the framebuffer property, whose value is the argument of try_with().
  void set_framebuffer(std::uint32_t object, std::uint32_t property) noexcept {
    framebuffer_at_ = used_;
    set(object, property, 0);
  }
  int try_with(int drm, std::uint32_t framebuffer) noexcept {
    values_[framebuffer_at_] = framebuffer;
    drm_mode_atomic request{};
    request.flags = DRM_MODE_ATOMIC_TEST_ONLY | DRM_MODE_ATOMIC_ALLOW_MODESET;
    request.count_objs = objects_used_;
    request.objs_ptr = reinterpret_cast<std::uintptr_t>(objects_.data());
    request.count_props_ptr = reinterpret_cast<std::uintptr_t>(counts_.data());
    request.props_ptr = reinterpret_cast<std::uintptr_t>(properties_.data());
    request.prop_values_ptr = reinterpret_cast<std::uintptr_t>(values_.data());
    return call(drm, DRM_IOCTL_MODE_ATOMIC, &request);
  }

 private:
  std::array<std::uint32_t, 4> objects_{};
  std::array<std::uint32_t, 4> counts_{};
  std::array<std::uint32_t, 16> properties_{};
  std::array<std::uint64_t, 16> values_{};
  std::uint32_t objects_used_ = 0;
  std::size_t used_ = 0;
  std::size_t framebuffer_at_ = 0;
};

}  // namespace raw
