#include "saved_state.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string_view>

#include <xf86drmMode.h>

namespace dmaflow::kms {
namespace {

// Rotation and the like keep their values when a plane is turned off, and colour tables when a CRTC is.
constexpr std::array<std::string_view, 15> saved_names = {"CRTC_ID", "FB_ID",  "MODE_ID",  "ACTIVE", "SRC_X",
                                                          "SRC_Y",   "SRC_W",  "SRC_H",    "CRTC_X", "CRTC_Y",
                                                          "CRTC_W",  "CRTC_H", "rotation", "zpos",   "alpha"};
constexpr std::array<std::string_view, 7> saved_colour_names = {
    "pixel blend mode", "CTM", "GAMMA_LUT", "DEGAMMA_LUT", "VRR_ENABLED", "HDR_OUTPUT_METADATA", "Colorspace"};

bool is_saved(std::string_view name) {
  return std::ranges::find(saved_names, name) != saved_names.end() ||
         std::ranges::find(saved_colour_names, name) != saved_colour_names.end();
}

/// These are zero if an output is turned off. The rest of a plane's state does no harm.
bool is_zero_when_off(std::string_view name) {
  return name == "CRTC_ID" || name == "FB_ID" || name == "MODE_ID" || name == "ACTIVE";
}

}  // namespace

Result<void> SavedState::save(std::uint32_t object, std::uint32_t type) {
  using Properties = std::unique_ptr<drmModeObjectProperties, decltype(&drmModeFreeObjectProperties)>;
  using Property = std::unique_ptr<drmModePropertyRes, decltype(&drmModeFreeProperty)>;
  using BlobCopy = std::unique_ptr<drmModePropertyBlobRes, decltype(&drmModeFreePropertyBlob)>;

  const Properties all(drmModeObjectGetProperties(file_->fd, object, type), drmModeFreeObjectProperties);
  if (!all) return std::unexpected(file_->error(-errno, "DRM_IOCTL_MODE_OBJ_GETPROPERTIES"));
  const std::size_t first = values_.size();
  bool was_on = false;
  for (std::uint32_t i = 0; i < all->count_props; ++i) {
    const Property property(drmModeGetProperty(file_->fd, all->props[i]), drmModeFreeProperty);
    if (!property || (property->flags & DRM_MODE_PROP_IMMUTABLE) != 0) continue;
    const std::string_view name = property->name;
    if (!is_saved(name)) continue;
    std::uint64_t value = all->prop_values[i];
    if ((property->flags & DRM_MODE_PROP_BLOB) != 0 && value != 0) {
      const BlobCopy blob(drmModeGetPropertyBlob(file_->fd, static_cast<std::uint32_t>(value)),
                          drmModeFreePropertyBlob);
      if (!blob) return std::unexpected(file_->error(-errno, "DRM_IOCTL_MODE_GETPROPBLOB"));
      auto copy = Blob::create(*file_, blob->data, blob->length);
      if (!copy) return std::unexpected(copy.error());
      value = copy->id();
      blobs_.push_back(std::move(*copy));
    }
    if (name == "FB_ID") was_on = value != 0;
    values_.push_back({.object = object,
                       .property = property->prop_id,
                       .value = value,
                       .off = is_zero_when_off(name) ? 0 : value,
                       .is_plane = type == DRM_MODE_OBJECT_PLANE});
  }
  for (std::size_t i = first; i < values_.size(); ++i) values_[i].was_on = was_on;
  return {};
}

Result<SavedState> SavedState::take(DrmFile& file, const Objects& objects, const CrtcObject& crtc,
                                    const ConnectorObject& connector) {
  SavedState state(file);
  const auto is_concerned = [&](std::uint32_t id) { return id != 0 && (id == crtc.id || id == connector.crtc_id); };
  for (const ConnectorObject& other : objects.connectors) {
    if (other.id != connector.id && !is_concerned(other.crtc_id)) continue;
    if (auto saved = state.save(other.id, DRM_MODE_OBJECT_CONNECTOR); !saved) return std::unexpected(saved.error());
  }
  for (const CrtcObject& other : objects.crtcs) {
    if (!is_concerned(other.id)) continue;
    if (auto saved = state.save(other.id, DRM_MODE_OBJECT_CRTC); !saved) return std::unexpected(saved.error());
  }
  for (const PlaneObject& plane : objects.planes) {
    const bool is_free = plane.crtc_id == 0 && (plane.possible_crtcs >> crtc.index & 1U) != 0;
    if (!is_free && !is_concerned(plane.crtc_id)) continue;
    if (auto saved = state.save(plane.id, DRM_MODE_OBJECT_PLANE); !saved) return std::unexpected(saved.error());
  }
  state.request_.reserve(state.values_.size() + 1, state.values_.size() + 1);
  return state;
}

AtomicRequest& SavedState::request(const std::vector<std::uint32_t>& used, bool off) noexcept {
  request_.clear();
  for (const Value& value : values_) {
    const bool was_used = std::find(used.begin(), used.end(), value.object) != used.end();
    if (value.is_plane && !was_used && !value.was_on) continue;
    request_.set(value.object, value.property, off ? value.off : value.value);
  }
  return request_;
}

}  // namespace dmaflow::kms
