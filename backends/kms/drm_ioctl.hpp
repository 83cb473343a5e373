// An ioctl on a DRM file, under the name that this backend uses everywhere.
#pragma once

#include "sys/drm_ioctl.hpp"

namespace dmaflow::kms {

using sys::drm_ioctl;

}  // namespace dmaflow::kms
