// Controls by name (VIDIOC_QUERY_EXT_CTRL, VIDIOC_G_EXT_CTRLS, VIDIOC_S_EXT_CTRLS).
#pragma once

#include "device.hpp"

#include <string_view>
#include <vector>

namespace dmaflow::v4l2 {

/// "Power Line Frequency" and "power_line_frequency" are the same name: case is ignored, and each run of other
/// characters counts as one separator.
bool same_name(std::string_view a, std::string_view b) noexcept;

std::vector<Control> list_controls(const Device& device);
Result<std::int64_t> get_control(const Device& device, std::string_view name);
Result<void> set_control(const Device& device, std::string_view name, std::int64_t value);
Result<void> set_control(const Device& device, std::string_view name, std::string_view value);
/// The value of a control by its ID, without listing the controls; @p fallback if the device lacks it.
std::int64_t control_or(const Device& device, std::uint32_t id, std::int64_t fallback) noexcept;

}  // namespace dmaflow::v4l2
