// Standards: the TV standards (PAL, NTSC, SECAM) of the current port.
#pragma once

#include "device.hpp"

#include <string_view>
#include <vector>

namespace dmaflow::v4l2 {

/// None where the port has no standards.
std::vector<Standard> list_standards(const Device& device);
/// By name, or the beginning of a name, in any case. EINVAL lists those there are.
Result<Standard> find_standard(const Device& device, std::string_view name);
/// What is set, or what is received. One of the listed ones, the first that it may be.
Result<Standard> current_standard(const Device& device);
Result<Standard> detect_standard(const Device& device);
Result<void> set_standard(const Device& device, std::uint64_t id) noexcept;

}  // namespace dmaflow::v4l2
