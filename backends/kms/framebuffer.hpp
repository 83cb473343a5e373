// Framebuffer: the form a buffer takes on a display. Made once per buffer and device, found again without a system
// call.
#pragma once

#include "drm_file.hpp"

#include <dmaflow/attachment.hpp>
#include <dmaflow/buffer.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace dmaflow::kms {

/// How DRM_IOCTL_MODE_ADDFB2 is told of the arrangement.
enum class ModifierUse : std::uint8_t { stated, left_out };

/// The one place where a LINEAR buffer goes to a device without modifier support: such a device reads rows one after
/// another, so nothing is guessed. The other way round there is no conversion: INVALID stays unstated and never becomes
/// LINEAR. Nothing where the device cannot be told at all (a vendor's arrangement without DRM_CAP_ADDFB2_MODIFIERS).
[[nodiscard]] std::optional<ModifierUse> linear_without_modifiers(Modifier modifier,
                                                                  bool device_has_modifiers) noexcept;

/// ADDFB2 for a layout whose planes lie in these GEM handles (one per object). Returns 0 or -errno.
[[nodiscard]] int add_framebuffer(DrmFile& file, const Layout& layout,
                                  const std::array<std::uint32_t, max_planes>& handles, std::uint32_t& id) noexcept;
/// Lets go of a framebuffer. A plane that shows it goes on showing it, where the kernel has DRM_IOCTL_MODE_CLOSEFB;
/// else (RMFB) the plane is turned off, by a blocking commit.
void remove_framebuffer(DrmFile& file, std::uint32_t id) noexcept;

class Framebuffer final : public Attachment {
 public:
  /// The buffer's framebuffer on this device, made where there is none. Errors: ENODEV (the driver takes no such
  /// buffer, or is detached), EINVAL (layout), ENOMEM, those of the ioctls.
  [[nodiscard]] static Result<Framebuffer*> of(DrmFile& file, const Buffer& buffer);

  Framebuffer(DrmFile& file, std::uint32_t id) noexcept : file_(file), id_(id) {}
  void tear_down() noexcept override { remove_framebuffer(file_, id_); }

  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  /// Whether a plane tried it: each set_input() of each plane has a number of its own.
  [[nodiscard]] bool was_tried(std::uint64_t configuration) const noexcept;
  void set_tried(std::uint64_t configuration) { tried_.push_back(configuration); }

 private:
  DrmFile& file_;
  std::uint32_t id_;
  std::vector<std::uint64_t> tried_;
};

}  // namespace dmaflow::kms
