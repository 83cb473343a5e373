// Framebuffer: the KMS object by which a display shows a buffer. Made once per buffer and device; later lookups need no
// system call.
#pragma once

#include "drm_file.hpp"

#include <dmaflow/attachment.hpp>
#include <dmaflow/buffer.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace dmaflow::kms {

/// Whether DRM_IOCTL_MODE_ADDFB2 is given the modifier.
enum class ModifierUse : std::uint8_t { stated, left_out };

/// The only place where a LINEAR buffer may go to a device without modifier support: such a device reads rows one after
/// another, so nothing is guessed. There is no conversion in the other direction: INVALID stays unstated and never
/// becomes LINEAR. Nullopt if the modifier cannot be passed at all (a vendor's modifier without
/// DRM_CAP_ADDFB2_MODIFIERS).
[[nodiscard]] std::optional<ModifierUse> linear_without_modifiers(Modifier modifier,
                                                                  bool device_has_modifiers) noexcept;

/// ADDFB2 for a layout whose planes lie in these GEM handles (one per object). Returns 0 or -errno.
[[nodiscard]] int add_framebuffer(DrmFile& file, const Layout& layout,
                                  const std::array<std::uint32_t, max_planes>& handles, std::uint32_t& id) noexcept;
/// Removes a framebuffer. If the kernel has DRM_IOCTL_MODE_CLOSEFB, a plane that shows it continues to show it;
/// otherwise (RMFB) a blocking commit turns the plane off.
void remove_framebuffer(DrmFile& file, std::uint32_t id) noexcept;

class Framebuffer final : public Attachment {
 public:
  /// The buffer's framebuffer on this device, made if there is none. Errors: ENODEV (the driver takes no such
  /// buffer, or is detached), EINVAL (layout), ENOMEM, those of the ioctls.
  [[nodiscard]] static Result<Framebuffer*> of(DrmFile& file, const Buffer& buffer);

  Framebuffer(DrmFile& file, std::uint32_t id) noexcept : file_(file), id_(id) {}
  void tear_down() noexcept override { remove_framebuffer(file_, id_); }

  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  /// Whether a plane tried it with this configuration. Each set_input() of each plane has its own number.
  [[nodiscard]] bool was_tried(std::uint64_t configuration) const noexcept {
    return std::ranges::find(tried_, configuration) != tried_.end();
  }
  void set_tried(std::uint64_t configuration) { tried_.push_back(configuration); }

 private:
  DrmFile& file_;
  std::uint32_t id_;
  std::vector<std::uint64_t> tried_;
};

}  // namespace dmaflow::kms
