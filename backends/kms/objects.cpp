#include "objects.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include <drm_mode.h>

namespace dmaflow::kms {
namespace {

template <auto free_function>
struct Freer {
  template <typename T>
  void operator()(T* object) const noexcept {
    free_function(object);
  }
};
using ResourcesPtr = std::unique_ptr<drmModeRes, Freer<drmModeFreeResources>>;
using PlaneResourcesPtr = std::unique_ptr<drmModePlaneRes, Freer<drmModeFreePlaneResources>>;
using PlanePtr = std::unique_ptr<drmModePlane, Freer<drmModeFreePlane>>;
using ConnectorPtr = std::unique_ptr<drmModeConnector, Freer<drmModeFreeConnector>>;
using EncoderPtr = std::unique_ptr<drmModeEncoder, Freer<drmModeFreeEncoder>>;
using PropertiesPtr = std::unique_ptr<drmModeObjectProperties, Freer<drmModeFreeObjectProperties>>;
using PropertyPtr = std::unique_ptr<drmModePropertyRes, Freer<drmModeFreeProperty>>;
using BlobPtr = std::unique_ptr<drmModePropertyBlobRes, Freer<drmModeFreePropertyBlob>>;

using Visitor = std::function<void(std::string_view name, const drmModePropertyRes& property, std::uint64_t value)>;

void each_property(int fd, std::uint32_t object, std::uint32_t type, const Visitor& visit) {
  const PropertiesPtr all(drmModeObjectGetProperties(fd, object, type));
  if (!all) return;
  for (std::uint32_t i = 0; i < all->count_props; ++i) {
    const PropertyPtr property(drmModeGetProperty(fd, all->props[i]));
    if (property) visit(property->name, *property, all->prop_values[i]);
  }
}

Mode mode_of(const drmModeModeInfo& info) {
  Mode mode;
  mode.size = {info.hdisplay, info.vdisplay};
  const std::uint64_t total = std::uint64_t{info.htotal} * info.vtotal;
  std::uint64_t rate = total == 0 ? 0 : (std::uint64_t{info.clock} * 1'000'000 + total / 2) / total;
  if ((info.flags & DRM_MODE_FLAG_INTERLACE) != 0) rate *= 2;
  mode.refresh_mhz = static_cast<std::uint32_t>(rate);
  mode.is_preferred = (info.type & DRM_MODE_TYPE_PREFERRED) != 0;
  mode.is_interlaced = (info.flags & DRM_MODE_FLAG_INTERLACE) != 0;
  return mode;
}

Connection connection_of(drmModeConnection state) {
  if (state == DRM_MODE_CONNECTED) return Connection::connected;
  return state == DRM_MODE_DISCONNECTED ? Connection::disconnected : Connection::unknown;
}

std::string connector_name(const drmModeConnector& connector) {
  const char* type = drmModeGetConnectorTypeName(connector.connector_type);
  return std::string(type == nullptr ? "Unknown" : type) + "-" + std::to_string(connector.connector_type_id);
}

/// A blob that is a list of fourccs.
std::vector<PixelFormat> parse_formats(std::span<const std::byte> blob) {
  std::vector<PixelFormat> formats(blob.size() / sizeof(PixelFormat::fourcc));
  for (std::size_t i = 0; i < formats.size(); ++i) {
    std::memcpy(&formats[i].fourcc, &blob[i * sizeof(PixelFormat::fourcc)], sizeof(PixelFormat::fourcc));
  }
  return formats;
}

/// Which properties have a neutral value: the one that the kernel sets when it resets the object
/// (drivers/gpu/drm/drm_atomic_state_helper.c), or 0 for blobs and switches.
std::optional<std::uint64_t> neutral_value(std::string_view name, const drmModePropertyRes& property) {
  if ((property.flags & DRM_MODE_PROP_IMMUTABLE) != 0) return std::nullopt;
  constexpr std::array<std::string_view, 5> off = {"GAMMA_LUT", "DEGAMMA_LUT", "CTM", "VRR_ENABLED",
                                                   "HDR_OUTPUT_METADATA"};
  if (std::ranges::find(off, name) != off.end()) return 0;
  if (name == "alpha" && property.count_values == 2) return property.values[1];  // the range's end: opaque
  const std::string_view wanted = name == "Colorspace" ? "Default" : name == "pixel blend mode" ? "Pre-multiplied" : "";
  for (int i = 0; i < property.count_enums; ++i) {
    if (!wanted.empty() && wanted == property.enums[i].name) return property.enums[i].value;
  }
  return std::nullopt;
}

void note_neutral(std::vector<Neutral>& list, std::string_view name, const drmModePropertyRes& property) {
  if (const auto value = neutral_value(name, property)) list.push_back({.property = property.prop_id, .value = *value});
}

PlaneObject read_plane(int fd, const drmModePlane& plane) {
  PlaneObject result;
  result.id = plane.plane_id;
  result.possible_crtcs = plane.possible_crtcs;
  result.crtc_id = plane.crtc_id;
  for (std::uint32_t i = 0; i < plane.count_formats; ++i) result.formats.push_back({plane.formats[i]});
  const struct {
    std::string_view name;
    std::uint32_t PlaneObject::* id;
  } names[] = {
      {"FB_ID", &PlaneObject::fb},      {"CRTC_ID", &PlaneObject::crtc},  {"IN_FENCE_FD", &PlaneObject::in_fence},
      {"SRC_X", &PlaneObject::src_x},   {"SRC_Y", &PlaneObject::src_y},   {"SRC_W", &PlaneObject::src_w},
      {"SRC_H", &PlaneObject::src_h},   {"CRTC_X", &PlaneObject::crtc_x}, {"CRTC_Y", &PlaneObject::crtc_y},
      {"CRTC_W", &PlaneObject::crtc_w}, {"CRTC_H", &PlaneObject::crtc_h}};
  each_property(fd, plane.plane_id, DRM_MODE_OBJECT_PLANE,
                [&](std::string_view name, const drmModePropertyRes& property, std::uint64_t value) {
                  for (const auto& known : names) {
                    if (name == known.name) result.*known.id = property.prop_id;
                  }
                  note_neutral(result.neutral, name, property);
                  const bool is_immutable = (property.flags & DRM_MODE_PROP_IMMUTABLE) != 0;
                  if (name == "type") result.type = value;
                  if (name == "rotation" && !is_immutable) {
                    result.rotation = property.prop_id;
                    result.rotations = 0;
                    for (int i = 0; i < property.count_enums; ++i) {
                      if (property.enums[i].value < 64) result.rotations |= std::uint64_t{1} << property.enums[i].value;
                    }
                  }
                  if (name == "zpos" && !is_immutable && property.count_values == 2) {
                    result.zpos = property.prop_id;
                    result.zpos_min = property.values[0];
                    result.zpos_max = property.values[1];
                  }
                  if (name == "IN_FORMATS" && value != 0) {
                    const BlobPtr blob(drmModeGetPropertyBlob(fd, static_cast<std::uint32_t>(value)));
                    if (!blob) return;
                    result.pairs = parse_in_formats({static_cast<const std::byte*>(blob->data), blob->length});
                    result.has_in_formats = !result.pairs.empty();
                  }
                });
  return result;
}

CrtcObject read_crtc(int fd, std::uint32_t id, std::uint32_t index) {
  CrtcObject result{.id = id, .index = index};
  each_property(fd, id, DRM_MODE_OBJECT_CRTC,
                [&](std::string_view name, const drmModePropertyRes& property, std::uint64_t) {
                  note_neutral(result.neutral, name, property);
                  if (name == "ACTIVE") result.active_property = property.prop_id;
                  if (name == "MODE_ID") result.mode_property = property.prop_id;
                  if (name == "OUT_FENCE_PTR") result.out_fence_property = property.prop_id;
                });
  return result;
}

}  // namespace

std::vector<FormatModifier> parse_in_formats(std::span<const std::byte> blob) {
  std::vector<FormatModifier> pairs;
  drm_format_modifier_blob header{};
  if (blob.size() < sizeof header) return pairs;
  std::memcpy(&header, blob.data(), sizeof header);
  const auto fits = [&](std::uint64_t offset, std::uint64_t count, std::uint64_t size) {
    return offset <= blob.size() && count * size <= blob.size() - offset;
  };
  if (!fits(header.formats_offset, header.count_formats, sizeof(std::uint32_t)) ||
      !fits(header.modifiers_offset, header.count_modifiers, sizeof(drm_format_modifier))) {
    return pairs;
  }
  for (std::uint32_t m = 0; m < header.count_modifiers; ++m) {
    drm_format_modifier entry{};
    std::memcpy(&entry, blob.data() + header.modifiers_offset + m * sizeof entry, sizeof entry);
    for (std::uint32_t bit = 0; bit < 64; ++bit) {
      const std::uint64_t index = std::uint64_t{entry.offset} + bit;
      if ((entry.formats >> bit & 1U) == 0 || index >= header.count_formats) continue;
      PixelFormat format;
      std::memcpy(&format.fourcc, blob.data() + header.formats_offset + index * sizeof(std::uint32_t),
                  sizeof(std::uint32_t));
      pairs.push_back({format, Modifier::from_value(entry.modifier)});
    }
  }
  return pairs;
}

bool PlaneObject::takes(FormatModifier wanted, bool device_has_modifiers) const noexcept {
  if (std::find(formats.begin(), formats.end(), wanted.format) == formats.end()) return false;
  if (wanted.modifier.is_implicit()) return true;
  if (!device_has_modifiers) return wanted.modifier.is_linear();
  if (!has_in_formats) return wanted.modifier.is_linear();
  return std::find(pairs.begin(), pairs.end(), wanted) != pairs.end();
}

Result<ConnectorObject> read_connector(const DrmFile& file, std::uint32_t id, bool probe) {
  const ConnectorPtr connector(probe ? drmModeGetConnector(file.fd, id) : drmModeGetConnectorCurrent(file.fd, id));
  if (!connector) return std::unexpected(file.error(-errno, "DRM_IOCTL_MODE_GETCONNECTOR"));
  ConnectorObject result;
  result.id = id;
  result.name = connector_name(*connector);
  result.connection = connection_of(connector->connection);
  result.is_writeback = connector->connector_type == DRM_MODE_CONNECTOR_WRITEBACK;
  for (int i = 0; i < connector->count_modes; ++i) {
    result.modes.push_back({connector->modes[i], mode_of(connector->modes[i])});
  }
  for (int i = 0; i < connector->count_encoders; ++i) {
    const EncoderPtr encoder(drmModeGetEncoder(file.fd, connector->encoders[i]));
    if (encoder) result.possible_crtcs |= encoder->possible_crtcs;
  }
  each_property(file.fd, id, DRM_MODE_OBJECT_CONNECTOR,
                [&](std::string_view name, const drmModePropertyRes& property, std::uint64_t value) {
                  note_neutral(result.neutral, name, property);
                  if (name == "WRITEBACK_FB_ID") result.writeback_fb = property.prop_id;
                  if (name == "WRITEBACK_OUT_FENCE_PTR") result.writeback_out_fence = property.prop_id;
                  if (name == "WRITEBACK_PIXEL_FORMATS" && value != 0) {
                    const BlobPtr blob(drmModeGetPropertyBlob(file.fd, static_cast<std::uint32_t>(value)));
                    if (blob)
                      result.writeback_formats =
                          parse_formats({static_cast<const std::byte*>(blob->data), blob->length});
                  }
                  if (name != "CRTC_ID") return;
                  result.crtc_property = property.prop_id;
                  result.crtc_id = static_cast<std::uint32_t>(value);
                });
  return result;
}

Result<Objects> read_objects(const DrmFile& file) {
  const ResourcesPtr resources(drmModeGetResources(file.fd));
  if (!resources) return std::unexpected(file.error(-errno, "DRM_IOCTL_MODE_GETRESOURCES"));
  Objects objects;
  for (int i = 0; i < resources->count_crtcs; ++i) {
    objects.crtcs.push_back(read_crtc(file.fd, resources->crtcs[i], static_cast<std::uint32_t>(i)));
  }
  for (int i = 0; i < resources->count_connectors; ++i) {
    auto connector = read_connector(file, resources->connectors[i], true);
    if (connector) objects.connectors.push_back(std::move(*connector));
  }
  const PlaneResourcesPtr planes(drmModeGetPlaneResources(file.fd));
  if (!planes) return std::unexpected(file.error(-errno, "DRM_IOCTL_MODE_GETPLANERESOURCES"));
  for (std::uint32_t i = 0; i < planes->count_planes; ++i) {
    const PlanePtr plane(drmModeGetPlane(file.fd, planes->planes[i]));
    if (plane) objects.planes.push_back(read_plane(file.fd, *plane));
  }
  if (objects.crtcs.empty() || objects.connectors.empty() || objects.planes.empty()) {
    return std::unexpected(Error::os(ENODEV, "drmModeGetResources", file.name).detail("a card without a display"));
  }
  return objects;
}

void refresh_connectors(const DrmFile& file, Objects& objects) {
  const ResourcesPtr resources(drmModeGetResources(file.fd));
  if (!resources) return;
  std::vector<std::uint32_t> present;
  for (int i = 0; i < resources->count_connectors; ++i) {
    auto connector = read_connector(file, resources->connectors[i], true);
    if (!connector) continue;
    present.push_back(connector->id);
    const auto known = std::find_if(objects.connectors.begin(), objects.connectors.end(),
                                    [&](const ConnectorObject& c) { return c.id == connector->id; });
    if (known == objects.connectors.end()) {
      objects.connectors.push_back(std::move(*connector));
    } else {
      *known = std::move(*connector);
    }
  }
  for (ConnectorObject& known : objects.connectors) {
    if (std::find(present.begin(), present.end(), known.id) == present.end()) {
      known.connection = Connection::disconnected;
    }
  }
}

void refresh_links(const DrmFile& file, Objects& objects) {
  for (PlaneObject& object : objects.planes) {
    const PlanePtr plane(drmModeGetPlane(file.fd, object.id));
    if (plane) object.crtc_id = plane->crtc_id;
  }
  for (ConnectorObject& object : objects.connectors) {
    each_property(file.fd, object.id, DRM_MODE_OBJECT_CONNECTOR,
                  [&](std::string_view, const drmModePropertyRes& property, std::uint64_t value) {
                    if (property.prop_id == object.crtc_property) object.crtc_id = static_cast<std::uint32_t>(value);
                  });
  }
}

Connector describe(const ConnectorObject& connector) {
  Connector result{.id = connector.id, .name = connector.name, .connection = connector.connection, .modes = {}};
  for (const ModeEntry& entry : connector.modes) result.modes.push_back(entry.mode);
  return result;
}

}  // namespace dmaflow::kms
