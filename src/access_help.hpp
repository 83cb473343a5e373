// Explains why a device file cannot be opened, and what would help.
#pragma once

#include <string>

namespace dmaflow::detail {

/// For a device file that returned EACCES or EPERM: who owns it, and which command or udev rule would help. In a rule,
/// @p udev_match selects the device ("SUBSYSTEM==\"dma_heap\", KERNEL==\"system\"").
[[nodiscard]] std::string access_help(const std::string& path, const std::string& udev_match);

}  // namespace dmaflow::detail
