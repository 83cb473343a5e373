// An ioctl on a DRM file, under the name that this backend uses everywhere.
#pragma once

#include "sys/drm_ioctl.hpp"

#include <cstdint>

#include <sys/ioctl.h>

namespace dmaflow::kms {

using sys::drm_ioctl;

/// drm_mode_closefb of include/uapi/drm/drm_mode.h (since Linux 6.8), which libdrm's headers lack.
struct CloseFb {
  std::uint32_t fb_id;
  std::uint32_t pad;  // 0
};
static_assert(sizeof(CloseFb) == 8);
inline constexpr unsigned long ioctl_mode_closefb = _IOWR('d', 0xd0, CloseFb);

}  // namespace dmaflow::kms
