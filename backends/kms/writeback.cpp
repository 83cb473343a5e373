// Writeback: a connector that writes to memory instead of driving a monitor. The image that the CRTC composes is
// written to a buffer. Kernel: drivers/gpu/drm/drm_writeback.c.
//
// The connector stays on the CRTC until the stream ends. If it is removed before the write is done, its fence never
// signals (vkms). Adding it again would set the mode each time.
#include "impl.hpp"

#include <algorithm>
#include <cerrno>

#include <drm_mode.h>

namespace dmaflow::kms {
namespace {

ConnectorObject* writeback_of(const Output::Impl& output) noexcept {
  if (output.connector->is_writeback) return output.connector;
  for (ConnectorObject& connector : output.device.objects.connectors) {
    if (connector.is_writeback && (connector.possible_crtcs >> output.crtc->index & 1U) != 0) return &connector;
  }
  return nullptr;
}

std::string names_of(const std::vector<PixelFormat>& formats) {
  std::string text;
  for (const PixelFormat format : formats) text += (text.empty() ? "" : ", ") + format.name();
  return text;
}

}  // namespace

std::vector<PixelFormat> Output::capture_formats() const {
  const ConnectorObject* const writeback = writeback_of(*impl_);
  return writeback == nullptr ? std::vector<PixelFormat>{} : writeback->writeback_formats;
}

Result<Fence> Output::capture(const Buffer& target) {
  Impl& my = *impl_;
  if (auto alive = my.device.check_alive("capture"); !alive) return std::unexpected(alive.error());
  const auto refuse = [&](int code) { return Error::os(code, "capture", my.name); };
  ConnectorObject* const writeback = writeback_of(my);
  if (writeback == nullptr) return std::unexpected(refuse(EOPNOTSUPP).detail("the driver has no writeback connector"));
  if (!my.is_lit || !my.mode) return std::unexpected(refuse(EINVAL).detail("nothing is on the screen"));
  const Layout& layout = target.layout();
  const auto& formats = writeback->writeback_formats;
  if (layout.size != my.mode->mode.size) {
    return std::unexpected(refuse(EINVAL).detail("the screen is %s, the buffer %s", my.mode->mode.describe().c_str(),
                                                 layout.describe().c_str()));
  }
  if (std::find(formats.begin(), formats.end(), layout.format) == formats.end()) {
    return std::unexpected(
        refuse(EINVAL).detail("it cannot write %s, but %s", layout.format.name().c_str(), names_of(formats).c_str()));
  }
  auto framebuffer = Framebuffer::of(my.device.file, target);
  if (!framebuffer) return std::unexpected(Error(framebuffer.error()).device(my.name));

  std::int32_t fence = -1;
  my.request.clear();
  std::uint32_t flags = 0;
  const bool is_on = my.writeback == writeback || my.connector == writeback;
  if (!is_on) {
    my.request.set(writeback->id, writeback->crtc_property, my.crtc->id);
    flags = DRM_MODE_ATOMIC_ALLOW_MODESET;
  }
  my.request.set(writeback->id, writeback->writeback_fb, (*framebuffer)->id());
  my.request.set(writeback->id, writeback->writeback_out_fence, address_of(&fence));
  const Deadline deadline = Deadline::after(stop_time);
  const int result = my.commit_within(my.request, flags, *my.crtc, deadline, deadline).result;
  Fd made = Fd::adopt(fence);
  if (result == -EINVAL && !is_on) {
    return std::unexpected(
        refuse(EINVAL).detail("the driver cannot drive %s and memory at once; an output of %s alone can",
                              my.connector->name.c_str(), writeback->name.c_str()));
  }
  if (result == -ETIMEDOUT) {
    return std::unexpected(refuse(ETIMEDOUT).detail("the display has not finished the frame before"));
  }
  if (result < 0) return std::unexpected(my.error(result, "DRM_IOCTL_MODE_ATOMIC").detail("writing the screen back"));
  if (!is_on) {
    my.writeback = writeback;
    writeback->crtc_id = my.crtc->id;
  }
  return Fence::adopt_unchecked(std::move(made));
}

Outcome Output::Impl::detach_writeback(Deadline taken, Deadline done) noexcept {
  if (writeback == nullptr) return {};
  request.clear();
  request.set(writeback->id, writeback->crtc_property, 0);
  Outcome outcome = commit_within(request, DRM_MODE_ATOMIC_ALLOW_MODESET, *crtc, taken, done);
  if (outcome.result == -ETIMEDOUT) return outcome;
  if (outcome.result == 0) writeback->crtc_id = 0;
  writeback = nullptr;
  return outcome;
}

}  // namespace dmaflow::kms
