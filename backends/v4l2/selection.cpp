#include "selection.hpp"

#include <cerrno>

namespace dmaflow::v4l2 {
namespace {

v4l2_selection make(const Device& device, std::uint32_t target) noexcept {
  v4l2_selection sel{};
  sel.type = device.selection_type();
  sel.target = target;
  return sel;
}

Rect to_rect(const v4l2_rect& r) noexcept { return {.x = r.left, .y = r.top, .width = r.width, .height = r.height}; }

Error explain(Error error, std::uint32_t target) noexcept {
  const char* what = target == V4L2_SEL_TGT_CROP ? "crop" : "compose";
  if (error.code() == ENOTTY || error.code() == EINVAL || error.code() == ENODATA) {
    error.detail("the device (or its current input) cannot %s", what);
  }
  return error;
}

}  // namespace

Result<Rect> selection(const Device& device, std::uint32_t target) noexcept {
  v4l2_selection sel = make(device, target);
  if (auto done = device.call(DMAFLOW_V4L2_OP(VIDIOC_G_SELECTION), &sel); !done) {
    return std::unexpected(explain(done.error(), target));
  }
  return to_rect(sel.r);
}

Result<Rect> set_selection(const Device& device, std::uint32_t target, const Rect& rect) noexcept {
  v4l2_selection sel = make(device, target);
  sel.r = {.left = rect.x, .top = rect.y, .width = rect.width, .height = rect.height};
  if (auto done = device.call(DMAFLOW_V4L2_OP(VIDIOC_S_SELECTION), &sel); !done) {
    return std::unexpected(explain(done.error(), target));
  }
  return to_rect(sel.r);
}

}  // namespace dmaflow::v4l2
