// An ioctl on a DRM file.
#pragma once

#include "sys/sys.hpp"

#include <cerrno>

namespace dmaflow::sys {

/// Calls sys::ioctl(), and retries on EAGAIN: drivers also return it for "interrupted"
/// (Documentation/gpu/drm-uapi.rst), and every other client of DRM retries as well. Returns 0 or more, or -errno.
inline int drm_ioctl(int fd, unsigned long request, void* argument) noexcept {
  constexpr int most_tries = 100;  // if the driver really cannot do it, EAGAIN is returned in the end
  int result = -EAGAIN;
  for (int tries = 0; tries < most_tries && result == -EAGAIN; ++tries) result = sys::ioctl(fd, request, argument);
  return result;
}

}  // namespace dmaflow::sys
