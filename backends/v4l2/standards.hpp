// Standards: the TV standards (PAL, NTSC, SECAM) of the current port.
#pragma once

#include "device.hpp"

#include <string_view>
#include <vector>

namespace dmaflow::v4l2 {

/// Empty if the port has no standards.
std::vector<Standard> list_standards(const Device& device);
/// By name, or the beginning of a name, in any case. EINVAL lists the existing ones.
Result<Standard> find_standard(const Device& device, std::string_view name);
/// The standard that is set, or the one that is received: the first match among the listed ones.
Result<Standard> current_standard(const Device& device);
Result<Standard> detect_standard(const Device& device);
Result<void> set_standard(const Device& device, std::uint64_t id) noexcept;

}  // namespace dmaflow::v4l2
