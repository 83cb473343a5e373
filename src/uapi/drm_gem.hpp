// include/uapi/drm/drm.h: import and export of buffers by a DRM file, and their handles. Declared under our own names,
// so that the core needs neither libdrm nor the kernel's DRM headers.
#pragma once

#include <cstdint>

#include <sys/ioctl.h>

namespace dmaflow::uapi {

/// drm_prime_handle.
struct PrimeHandle {
  std::uint32_t handle;
  std::uint32_t flags;  // O_CLOEXEC, O_RDWR for the new descriptor
  std::int32_t fd;
};
static_assert(sizeof(PrimeHandle) == 12);

/// drm_gem_close.
struct GemClose {
  std::uint32_t handle;
  std::uint32_t pad;
};
static_assert(sizeof(GemClose) == 8);

inline constexpr unsigned long ioctl_gem_close = _IOW('d', 0x09, GemClose);
inline constexpr unsigned long ioctl_prime_handle_to_fd = _IOWR('d', 0x2d, PrimeHandle);
inline constexpr unsigned long ioctl_prime_fd_to_handle = _IOWR('d', 0x2e, PrimeHandle);

}  // namespace dmaflow::uapi
