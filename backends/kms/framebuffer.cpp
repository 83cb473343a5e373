#include "framebuffer.hpp"

#include "drm_ioctl.hpp"

#include <algorithm>
#include <cerrno>

#include <drm.h>
#include <drm_mode.h>

namespace dmaflow::kms {
namespace {

/// The buffer's GEM handles while the framebuffer is being made. Objects that are one buffer for this driver get the
/// same handle; the registry closes it once.
class Handles {
 public:
  explicit Handles(GemRegistry& gem) : session_(gem) {}
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  ~Handles() {
    for (std::uint32_t i = 0; i < count_; ++i) session_.release(handles_[i]);
  }
  /// 0 or -errno.
  [[nodiscard]] int import(const Buffer& buffer) {
    while (count_ < buffer.object_count()) {
      int error = 0;
      const std::uint32_t handle = session_.import(buffer.fd(count_), error);
      if (error < 0) return error;
      handles_[count_++] = handle;
    }
    return 0;
  }
  [[nodiscard]] const std::array<std::uint32_t, max_planes>& get() const noexcept { return handles_; }

 private:
  GemRegistry::Session session_;
  std::array<std::uint32_t, max_planes> handles_{};
  std::uint32_t count_ = 0;
};

Error import_refused(const DrmFile& file, int error, const Buffer& buffer) noexcept {
  Error result = file.error(error, "DRM_IOCTL_PRIME_FD_TO_HANDLE");
  const std::string_view origin = buffer.origin();
  // virtio-gpu returns ENODEV; drivers without an import of their own (bochs before it moved to shadow buffers) return
  // EINVAL.
  if (error == -ENODEV || error == -EINVAL || error == -EOPNOTSUPP) {
    result.detail("this driver cannot show memory made elsewhere (%.*s): use the display's own allocator",
                  static_cast<int>(origin.size()), origin.data());
  } else if (error == -ENOSYS) {  // bochs of 6.12 as the exporter
    result.detail("a buffer of %.*s: its maker tells no other device where its pages are",
                  static_cast<int>(origin.size()), origin.data());
  } else {
    result.detail("a buffer of %.*s", static_cast<int>(origin.size()), origin.data());
  }
  return result;
}

Error layout_refused(const DrmFile& file, int error, const Layout& layout) {
  Error result = file.error(error, "DRM_IOCTL_MODE_ADDFB2");
  result.detail("the driver makes no framebuffer of %s", layout.describe().c_str());
  return result;
}

}  // namespace

std::optional<ModifierUse> linear_without_modifiers(Modifier modifier, bool device_has_modifiers) noexcept {
  if (modifier.is_implicit()) return ModifierUse::left_out;
  if (device_has_modifiers) return ModifierUse::stated;
  if (modifier.is_linear()) return ModifierUse::left_out;
  return std::nullopt;
}

int add_framebuffer(DrmFile& file, const Layout& layout, const std::array<std::uint32_t, max_planes>& handles,
                    std::uint32_t& id) noexcept {
  const auto use = linear_without_modifiers(layout.modifier, file.modifiers);
  if (!use) return -EINVAL;
  drm_mode_fb_cmd2 request{};
  request.width = layout.size.width;
  request.height = layout.size.height;
  request.pixel_format = layout.format.fourcc;
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    request.handles[p] = handles[layout.planes[p].object];
    request.pitches[p] = layout.planes[p].stride;
    request.offsets[p] = layout.planes[p].offset;
    if (*use == ModifierUse::stated) request.modifier[p] = layout.modifier.value();
  }
  if (*use == ModifierUse::stated) request.flags |= DRM_MODE_FB_MODIFIERS;
  const int result = drm_ioctl(file.fd, DRM_IOCTL_MODE_ADDFB2, &request);
  id = result < 0 ? 0 : request.fb_id;
  return result;
}

// RMFB of a framebuffer that is on a plane commits in a kernel worker and waits for that worker without a time-out;
// signals do not interrupt it (drivers/gpu/drm/drm_framebuffer.c, drm_mode_rmfb()). CLOSEFB never waits.
void remove_framebuffer(DrmFile& file, std::uint32_t id) noexcept {
  if (file.closefb) {
    CloseFb request{.fb_id = id, .pad = 0};
    drm_ioctl(file.fd, ioctl_mode_closefb, &request);
    return;
  }
  unsigned int argument = id;
  drm_ioctl(file.fd, DRM_IOCTL_MODE_RMFB, &argument);
}

Result<Framebuffer*> Framebuffer::of(DrmFile& file, const Buffer& buffer) {
  if (auto* known = attachment_as<Framebuffer>(buffer, *file.domain)) return known;
  std::uint32_t id = 0;
  {
    Handles handles(*file.gem);
    if (const int error = handles.import(buffer); error < 0)
      return std::unexpected(import_refused(file, error, buffer));
    const int error = add_framebuffer(file, buffer.layout(), handles.get(), id);
    if (error < 0) return std::unexpected(layout_refused(file, error, buffer.layout()));
  }
  auto attached = buffer.attach(file.domain, std::make_unique<Framebuffer>(file, id));
  if (!attached) return std::unexpected(Error(attached.error()).device(file.name));
  return static_cast<Framebuffer*>(*attached);
}

}  // namespace dmaflow::kms
