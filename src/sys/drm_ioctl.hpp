// An ioctl on a DRM file.
#pragma once

#include "sys/sys.hpp"

#include <cerrno>

namespace dmaflow::sys {

/// Through the seam, and again on EAGAIN: drivers say it for "interrupted" as well (Documentation/gpu/drm-uapi.rst),
/// and every other client of theirs goes by that. 0 or more, or -errno.
inline int drm_ioctl(int fd, unsigned long request, void* argument) noexcept {
  constexpr int most_tries = 100;  // a driver that is really unable says so in the end
  int result = -EAGAIN;
  for (int tries = 0; tries < most_tries && result == -EAGAIN; ++tries) result = sys::ioctl(fd, request, argument);
  return result;
}

}  // namespace dmaflow::sys
