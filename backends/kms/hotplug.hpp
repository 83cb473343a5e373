// The contents of a uevent, for Hotplug and its tests.
#pragma once

#include <string_view>

namespace dmaflow::kms {

struct Uevent {
  bool is_drm = false;
  bool is_change = false;   ///< e.g. a monitor was plugged in or out
  std::string_view device;  ///< "dri/card0"; points into the report
};

/// Parses a kernel report with any contents. Never fails.
[[nodiscard]] Uevent parse_uevent(std::string_view report) noexcept;

}  // namespace dmaflow::kms
