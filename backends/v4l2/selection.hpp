// Selection: crop and compose rectangles (VIDIOC_G_SELECTION, VIDIOC_S_SELECTION).
#pragma once

#include "device.hpp"

namespace dmaflow::v4l2 {

/// @p target: V4L2_SEL_TGT_CROP or V4L2_SEL_TGT_COMPOSE.
Result<Rect> selection(const Device& device, std::uint32_t target) noexcept;
Result<Rect> set_selection(const Device& device, std::uint32_t target, const Rect& rect) noexcept;

}  // namespace dmaflow::v4l2
