// What a uevent says, for Hotplug and its tests.
#pragma once

#include <string_view>

namespace dmaflow::kms {

struct Uevent {
  bool is_drm = false;
  bool is_change = false;   ///< as when a monitor comes or goes
  std::string_view device;  ///< "dri/card0"; points into the report
};

/// Reads a kernel report of any content. Never fails.
[[nodiscard]] Uevent parse_uevent(std::string_view report) noexcept;

}  // namespace dmaflow::kms
