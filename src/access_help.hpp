// Why a device file may not be opened, in words that help.
#pragma once

#include <string>

namespace dmaflow::detail {

/// Of a device file that gave EACCES or EPERM: who owns it, and which command or udev rule would help. @p udev_match
/// selects the device in a rule ("SUBSYSTEM==\"dma_heap\", KERNEL==\"system\"").
[[nodiscard]] std::string access_help(const std::string& path, const std::string& udev_match);

}  // namespace dmaflow::detail
