// The objects of a card: connectors, CRTCs and planes with their properties, read once when the device is opened.
// The functions use libdrm, and are for set-up only.
#pragma once

#include "drm_file.hpp"

#include <dmaflow/format.hpp>
#include <dmaflow/kms.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include <xf86drmMode.h>

namespace dmaflow::kms {

/// A mode: the kernel's structure and our description of it.
struct ModeEntry {
  drmModeModeInfo info{};
  Mode mode;
};

/// A property that changes what is seen and that another program may have left set (a night mode's GAMMA_LUT), with the
/// value at which frames are shown as they are.
struct Neutral {
  std::uint32_t property = 0;
  std::uint64_t value = 0;
};

struct ConnectorObject {
  std::uint32_t id = 0;
  std::string name;
  Connection connection = Connection::unknown;
  bool is_writeback = false;
  std::uint32_t writeback_fb = 0;         // WRITEBACK_FB_ID
  std::uint32_t writeback_out_fence = 0;  // WRITEBACK_OUT_FENCE_PTR
  std::vector<PixelFormat> writeback_formats;
  std::vector<ModeEntry> modes;
  std::uint32_t possible_crtcs = 0;  // bit = index of the CRTC
  std::uint32_t crtc_id = 0;         // the one that drives it now
  std::uint32_t crtc_property = 0;   // CRTC_ID
  std::vector<Neutral> neutral;
};

struct CrtcObject {
  std::uint32_t id = 0;
  std::uint32_t index = 0;
  std::uint32_t active_property = 0;
  std::uint32_t mode_property = 0;
  std::uint32_t out_fence_property = 0;  // OUT_FENCE_PTR
  std::vector<Neutral> neutral;
};

struct PlaneObject {
  std::uint32_t id = 0;
  std::uint32_t possible_crtcs = 0;
  std::uint64_t type = 0;     // DRM_PLANE_TYPE_*
  std::uint32_t crtc_id = 0;  // the one it is on now
  bool has_in_formats = false;
  std::vector<PixelFormat> formats;
  std::vector<FormatModifier> pairs;  // from IN_FORMATS
  std::uint32_t fb = 0, crtc = 0, in_fence = 0;
  std::uint32_t src_x = 0, src_y = 0, src_w = 0, src_h = 0;
  std::uint32_t crtc_x = 0, crtc_y = 0, crtc_w = 0, crtc_h = 0;
  std::uint32_t rotation = 0;   // 0 = the driver has none
  std::uint64_t rotations = 1;  // DRM_MODE_ROTATE_* and REFLECT_* it takes
  std::uint32_t zpos = 0;       // 0 = none, or it cannot be changed
  std::uint64_t zpos_min = 0, zpos_max = 0;
  std::vector<Neutral> neutral;

  /// Whether it takes the pair, on a device with or without support for modifiers.
  [[nodiscard]] bool takes(FormatModifier wanted, bool device_has_modifiers) const noexcept;
};

struct Objects {
  std::deque<ConnectorObject> connectors;  // includes writebacks; docks add some at run time; existing ones never move
  std::vector<CrtcObject> crtcs;
  std::vector<PlaneObject> planes;
};

/// Errors: ENODEV (no CRTC, connector or plane: not a display), those of the ioctls.
[[nodiscard]] Result<Objects> read_objects(const DrmFile& file);
/// Reads every connector again. New ones are added; lost ones are marked as disconnected.
void refresh_connectors(const DrmFile& file, Objects& objects);
/// Reads a connector again. @p probe: asks the monitor, which may take long; otherwise returns what the kernel knows.
[[nodiscard]] Result<ConnectorObject> read_connector(const DrmFile& file, std::uint32_t id, bool probe);
/// Updates which CRTC drives each connector and which CRTC each plane is on.
void refresh_links(const DrmFile& file, Objects& objects);
/// The connector as users see it.
[[nodiscard]] Connector describe(const ConnectorObject& connector);

/// The pairs in an IN_FORMATS blob (struct drm_format_modifier_blob). Entries that lie outside the blob are left out.
[[nodiscard]] std::vector<FormatModifier> parse_in_formats(std::span<const std::byte> blob);

}  // namespace dmaflow::kms
