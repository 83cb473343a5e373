// Finding the mode, the plane and the position on the screen. The candidates come from the driver's lists; a test
// commit (DRM_MODE_ATOMIC_TEST_ONLY) decides.
#include "impl.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include <drm_mode.h>

namespace dmaflow::kms {
namespace {

std::string list_modes(const std::vector<ModeEntry>& modes) {
  std::string text;
  for (const ModeEntry& entry : modes) {
    if (text.size() > 200) return text + ", ...";
    if (!text.empty()) text += ", ";
    text += entry.mode.describe();
  }
  return text.empty() ? "none" : text;
}

std::string list_formats(const std::vector<const PlaneObject*>& planes, bool device_has_modifiers) {
  std::string text;
  std::vector<FormatModifier> seen;
  const auto add = [&](FormatModifier pair) {
    if (std::find(seen.begin(), seen.end(), pair) != seen.end()) return;
    seen.push_back(pair);
    if (text.size() > 220) return;
    if (!text.empty()) text += ", ";
    text += pair.format.name();
    if (!pair.modifier.is_linear()) text += ":" + pair.modifier.name();
  };
  for (const PlaneObject* plane : planes) {
    if (plane->has_in_formats && device_has_modifiers) {
      for (const FormatModifier& pair : plane->pairs) add(pair);
    } else {
      for (const PixelFormat format : plane->formats) add({format, Modifier::linear()});
    }
  }
  return text.empty() ? "none" : text;
}

/// The best mode of a size: nearest to the wanted refresh, else preferred, else the highest rate; interlaced last.
const ModeEntry* find_mode(const std::vector<ModeEntry>& modes, Size size, std::uint32_t refresh_mhz) {
  const ModeEntry* best = nullptr;
  const auto is_better = [&](const Mode& a, const Mode& b) {
    if (a.is_interlaced != b.is_interlaced) return b.is_interlaced;
    if (refresh_mhz != 0) {
      const auto distance = [&](const Mode& m) { return std::llabs(std::int64_t{m.refresh_mhz} - refresh_mhz); };
      return distance(a) < distance(b);
    }
    if (a.is_preferred != b.is_preferred) return a.is_preferred;
    return a.refresh_mhz > b.refresh_mhz;
  };
  for (const ModeEntry& entry : modes) {
    if (entry.mode.size != size) continue;
    if (best == nullptr || is_better(entry.mode, best->mode)) best = &entry;
  }
  return best;
}

const ModeEntry* preferred_mode(const std::vector<ModeEntry>& modes) {
  for (const ModeEntry& entry : modes) {
    if (entry.mode.is_preferred) return &entry;
  }
  return modes.empty() ? nullptr : &modes.front();
}

/// The size of a part of the frame on the screen.
Size shown_size(const Rect& source, const PlaneOptions& options) {
  Size size{source.width, source.height};
  if (options.rotation == Rotation::by_90 || options.rotation == Rotation::by_270) std::swap(size.width, size.height);
  return size;
}

Rect centred(Size size, Size screen) {
  const auto half = [](std::uint32_t outer, std::uint32_t inner) {
    return static_cast<std::int32_t>((std::int64_t{outer} - inner) / 2);
  };
  return {half(screen.width, size.width), half(screen.height, size.height), size.width, size.height};
}

Rect fitted(Size size, Size screen) {
  const std::uint64_t by_width = std::uint64_t{screen.width} * size.height;
  const std::uint64_t by_height = std::uint64_t{screen.height} * size.width;
  Size scaled = screen;
  if (by_width < by_height) {
    scaled.height = std::max(1U, static_cast<std::uint32_t>(by_width / size.width));
  } else {
    scaled.width = std::max(1U, static_cast<std::uint32_t>(by_height / size.height));
  }
  return centred(scaled, screen);
}

/// The possible positions on the screen, best first.
std::vector<Rect> positions(const PlaneOptions& options, Size size, Size screen) {
  if (options.position) return {*options.position};
  std::vector<Rect> result;
  if (size.width <= screen.width && size.height <= screen.height) result.push_back(centred(size, screen));
  if (size != screen) result.push_back(fitted(size, screen));
  return result;
}

std::uint64_t rotation_bits(const PlaneOptions& options) {
  std::uint64_t bits = std::uint64_t{DRM_MODE_ROTATE_0} << static_cast<unsigned>(options.rotation);
  if (options.reflect_x) bits |= DRM_MODE_REFLECT_X;
  if (options.reflect_y) bits |= DRM_MODE_REFLECT_Y;
  return bits;
}

bool is_inside(const Rect& part, Size whole) {
  return part.x >= 0 && part.y >= 0 && part.width > 0 && part.height > 0 &&
         std::uint64_t(part.x) + part.width <= whole.width && std::uint64_t(part.y) + part.height <= whole.height;
}

/// Checks the stream itself, without the driver.
Result<void> check_stream(const StreamConfig& stream, const PlaneOptions& options, std::string_view device) {
  const Layout& layout = stream.layout;
  const auto refuse = [&] { return Error::os(EINVAL, "set_input", device); };
  const Size size = layout.size;
  if (size.width == 0 || size.height == 0 || size.width > max_dimension || size.height > max_dimension) {
    return std::unexpected(refuse().detail("a size of %ux%u; possible are 1x1 to %ux%u", size.width, size.height,
                                           max_dimension, max_dimension));
  }
  const FormatInfo* info = format_info(layout.format);
  if (info != nullptr && info->is_opaque) {
    return std::unexpected(refuse().detail("%s is compressed: decode it first", layout.format.name().c_str()));
  }
  for (std::size_t p = 0; info != nullptr && p < info->plane_count; ++p) {
    const PlaneInfo& plane = info->planes[p];
    // Rows of NV15 and similar formats may end within a block: the kernel's minimum pitch allows it. A YUYV pair may
    // not be cut.
    const std::uint32_t across = std::uint32_t{plane.horizontal_sub} * (info->plane_count == 1 ? plane.block_width : 1);
    if (size.width % across != 0 || size.height % plane.vertical_sub != 0) {
      return std::unexpected(refuse().detail("%s needs a width that is a multiple of %u and a height of %u, not %ux%u",
                                             layout.format.name().c_str(), across, unsigned{plane.vertical_sub},
                                             size.width, size.height));
    }
  }
  if (options.source && !is_inside(*options.source, size)) {
    return std::unexpected(refuse().detail("the source rectangle is not inside the frame"));
  }
  return {};
}

/// What the plane cannot do according to its properties; nullopt if it can do everything.
std::optional<Error> lacks(const PlaneObject& plane, const PlaneOptions& options, std::string_view device) {
  const std::uint64_t rotation = rotation_bits(options);
  if (rotation != DRM_MODE_ROTATE_0 && (plane.rotation == 0 || (rotation & ~plane.rotations) != 0)) {
    return Error::os(EINVAL, "rotation", device)
        .detail("plane %u cannot rotate or reflect that way (it can: 0x%llx, asked for: 0x%llx)", plane.id,
                static_cast<unsigned long long>(plane.rotations), static_cast<unsigned long long>(rotation));
  }
  if (options.zpos && plane.zpos == 0) {
    return Error::os(EINVAL, "zpos", device).detail("the order of plane %u cannot be changed", plane.id);
  }
  if (options.zpos && (*options.zpos < plane.zpos_min || *options.zpos > plane.zpos_max)) {
    return Error::os(EINVAL, "zpos", device)
        .detail("plane %u has %llu to %llu, not %u", plane.id, static_cast<unsigned long long>(plane.zpos_min),
                static_cast<unsigned long long>(plane.zpos_max), *options.zpos);
  }
  return std::nullopt;
}

/// A framebuffer like the stream's, for test commits. ID 0 if the driver cannot make one: then the first import
/// decides.
class Probe {
 public:
  Probe(DrmFile& file, const StreamConfig& stream) : file_(file) {
    if (!file.dumb) return;
    auto layout = Layout::linear(stream.layout.format, stream.layout.size, stream.constraints);
    if (!layout || !stream.layout.modifier.is_linear()) return;
    const std::uint32_t stride = layout->planes[0].stride;
    DumbHandle memory(file);
    if (stride % 4 != 0) return;
    const auto sizes = layout->object_sizes(stream.constraints);
    if (layout->object_count() != 1) return;
    const auto rows = static_cast<std::uint32_t>((sizes[0] + stride - 1) / stride);
    if (memory.create(stride / 4, rows, 32) < 0 || memory.size() < sizes[0]) return;
    if (layout->plane_count == 1) layout->planes[0].stride = memory.stride();
    if (memory.size() < layout->object_sizes(stream.constraints)[0]) return;
    if (add_framebuffer(file, *layout, {memory.id()}, id_) < 0) id_ = 0;
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  ~Probe() {
    if (id_ != 0) remove_framebuffer(file_, id_);
  }
  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }

 private:
  DrmFile& file_;
  std::uint32_t id_ = 0;
};

}  // namespace

std::string Mode::describe() const {
  const std::uint32_t hundredths = (refresh_mhz + 5) / 10;
  std::string rate = std::to_string(hundredths % 100);
  if (rate.size() < 2) rate.insert(0, "0");
  return std::to_string(size.width) + "x" + std::to_string(size.height) + (is_interlaced ? "i@" : "@") +
         std::to_string(hundredths / 100) + "." + rate;
}

std::vector<const PlaneObject*> Plane::Impl::candidates() const {
  std::vector<const PlaneObject*> result;
  const auto is_taken = [&](std::uint32_t id) {
    for (const auto& other_output : device().outputs) {
      for (const auto& other : Inside::of(*other_output).planes) {
        const Plane::Impl& impl = Inside::of(*other);
        if (&impl != this && impl.place && impl.place->plane->id == id) return true;
      }
    }
    return false;
  };
  for (const std::uint64_t type : {std::uint64_t{DRM_PLANE_TYPE_PRIMARY}, std::uint64_t{DRM_PLANE_TYPE_OVERLAY}}) {
    if (type == DRM_PLANE_TYPE_PRIMARY && options.kind == PlaneKind::overlay) continue;
    if (type == DRM_PLANE_TYPE_OVERLAY && options.kind == PlaneKind::primary) continue;
    for (const PlaneObject& plane : device().objects.planes) {
      const bool is_wanted = options.plane_id == 0 ? plane.type == type : plane.id == options.plane_id;
      const bool is_elsewhere = plane.crtc_id != 0 && plane.crtc_id != output.crtc->id;
      if (!is_wanted || is_elsewhere || (plane.possible_crtcs >> output.crtc->index & 1U) == 0) continue;
      if (is_taken(plane.id) || std::find(result.begin(), result.end(), &plane) != result.end()) continue;
      result.push_back(&plane);
    }
  }
  if (place) {  // keep the present plane if possible
    const auto present = std::find(result.begin(), result.end(), place->plane);
    if (present != result.end()) std::rotate(result.begin(), present, present + 1);
  }
  return result;
}

void Plane::Impl::turn_off(AtomicRequest& to, const PlaneObject& plane) {
  to.set(plane.id, plane.fb, 0);
  to.set(plane.id, plane.crtc, 0);
}

void Plane::Impl::set_place(AtomicRequest& to, const Place& at, std::uint32_t framebuffer) const {
  const PlaneObject& p = *at.plane;
  const auto fixed_point = [](std::uint64_t pixels) { return pixels << 16U; };  // SRC_* are 16.16
  const auto as_signed = [](std::int32_t value) { return static_cast<std::uint64_t>(std::int64_t{value}); };
  to.set(p.id, p.fb, framebuffer);
  to.set(p.id, p.crtc, output.crtc->id);
  to.set(p.id, p.src_x, fixed_point(static_cast<std::uint64_t>(at.source.x)));
  to.set(p.id, p.src_y, fixed_point(static_cast<std::uint64_t>(at.source.y)));
  to.set(p.id, p.src_w, fixed_point(at.source.width));
  to.set(p.id, p.src_h, fixed_point(at.source.height));
  to.set(p.id, p.crtc_x, as_signed(at.position.x));
  to.set(p.id, p.crtc_y, as_signed(at.position.y));
  to.set(p.id, p.crtc_w, at.position.width);
  to.set(p.id, p.crtc_h, at.position.height);
  to.set(p.id, p.rotation, rotation_bits(options));
  if (options.zpos) to.set(p.id, p.zpos, *options.zpos);
  for (const Neutral& one : p.neutral) to.set(p.id, one.property, one.value);
}

int Plane::Impl::try_place(const Place& at, std::uint32_t framebuffer, std::uint32_t mode_blob) const {
  AtomicRequest request;
  output.set_mode(request, mode_blob);
  for (const auto& plane : output.planes) {
    const Plane::Impl& other = Inside::of(*plane);
    if (&other == this || !other.place || !other.is_on) continue;
    const Held& now = other.under_way.frame ? other.under_way : other.shown;
    if (now.frame) other.set_place(request, *other.place, now.framebuffer);
  }
  set_place(request, at, framebuffer);
  return request.commit(file().fd, DRM_MODE_ATOMIC_TEST_ONLY | DRM_MODE_ATOMIC_ALLOW_MODESET);
}

void Plane::Impl::follow_part(const Rect& visible) {
  const Size size = config.layout.size;
  const Rect whole{0, 0, size.width, size.height};
  const Rect wanted = is_inside(visible, size) ? visible : whole;
  if (wanted == part) return;
  part = wanted;
  has_moved = true;
  place->source = whole;
  place->position = configured_position;
  if (part == whole) return;
  Place at = *place;
  at.source = part;
  for (const Rect& position : positions(options, shown_size(part, options), at.mode.mode.size)) {
    at.position = position;
    if (try_place(at, staged.framebuffer, output.mode_blob.id()) != 0) continue;
    place = at;
    return;
  }
}

namespace {

/// The mode to show a stream in. In this order: the one that other planes have fixed, the requested one, one of the
/// frame's size, the preferred one.
Result<ModeEntry> choose_mode(const Output::Impl& output, bool is_fixed, Size frame) {
  const auto& modes = output.connector->modes;
  // If unplugged while running, the output keeps its mode: a monitor may come back.
  if (output.mode && (is_fixed || modes.empty())) return *output.mode;
  const ModeEntry* found = nullptr;
  if (output.options.mode) {
    found = find_mode(modes, *output.options.mode, output.options.refresh_mhz);
    if (found == nullptr) {
      return std::unexpected(Error::os(EINVAL, "set_input", output.name)
                                 .detail("no mode of %ux%u; the monitor has %s", output.options.mode->width,
                                         output.options.mode->height, list_modes(modes).c_str()));
    }
    return *found;
  }
  found = find_mode(modes, frame, output.options.refresh_mhz);
  if (found == nullptr) found = preferred_mode(modes);
  if (found == nullptr) {
    return std::unexpected(
        Error::os(ENODEV, "set_input", output.name).detail("the connector has no modes: is a monitor plugged in?"));
  }
  return *found;
}

Error refused_place(const Output::Impl& output, int error, const Place& at, const StreamConfig& stream) {
  Error result = output.error(error, "DRM_IOCTL_MODE_ATOMIC");
  if (error == -EACCES) {
    return result.detail("not master of the display: another program took it, or the VT was switched away");
  }
  const bool scales = (at.position.width != at.source.width || at.position.height != at.source.height) &&
                      (at.position.width != at.source.height || at.position.height != at.source.width);
  return result.detail("the driver refuses %ux%u %s at %d,%d%s%ux%u in mode %s; modes: %s", stream.layout.size.width,
                       stream.layout.size.height, stream.layout.format.name().c_str(), at.position.x, at.position.y,
                       scales ? " scaled to " : " as ", at.position.width, at.position.height,
                       at.mode.mode.describe().c_str(), list_modes(output.connector->modes).c_str());
}

}  // namespace

Result<Place> Plane::Impl::find_place(const StreamConfig& stream) {
  if (auto fine = check_stream(stream, options, name); !fine) return std::unexpected(fine.error());
  const Layout& layout = stream.layout;
  const bool with_modifiers = file().modifiers;
  refresh_links(file(), device().objects);

  const auto all = candidates();
  std::vector<const PlaneObject*> able;
  std::copy_if(all.begin(), all.end(), std::back_inserter(able), [&](const PlaneObject* plane) {
    return plane->takes({layout.format, layout.modifier}, with_modifiers);
  });
  if (all.empty()) {
    return std::unexpected(Error::os(EBUSY, "set_input", name).detail("no free plane of that kind on this output"));
  }
  if (able.empty()) {
    return std::unexpected(Error::os(EINVAL, "set_input", name)
                               .detail("no free plane shows %s %s; they show %s", layout.format.name().c_str(),
                                       layout.modifier.name().c_str(), list_formats(all, with_modifiers).c_str()));
  }

  const Rect source = options.source.value_or(Rect{0, 0, layout.size.width, layout.size.height});
  const Size size = shown_size(source, options);
  const bool is_fixed = std::any_of(output.planes.begin(), output.planes.end(), [&](const auto& plane) {
    return &Inside::of(*plane) != this && Inside::of(*plane).place;
  });
  auto mode = choose_mode(output, is_fixed, options.position ? Size{} : size);
  if (!mode) return std::unexpected(mode.error());
  auto blob = Blob::create(file(), &mode->info, sizeof mode->info);
  if (!blob) return std::unexpected(Error(blob.error()).device(name));

  Place found{.plane = nullptr, .mode = *mode, .source = source, .position = {}};
  const Probe probe(file(), stream);
  std::optional<Error> refusal;
  for (const PlaneObject* plane : able) {
    if (auto missing = lacks(*plane, options, name)) {
      if (!refusal) refusal = *missing;
      continue;
    }
    found.plane = plane;
    for (const Rect& position : positions(options, size, mode->mode.size)) {
      found.position = position;
      if (probe.id() == 0) return found;
      const int result = try_place(found, probe.id(), blob->id());
      if (result == 0) return found;
      if (!refusal || result == -EACCES) refusal = refused_place(output, result, found, stream);
    }
  }
  return std::unexpected(*refusal);
}

}  // namespace dmaflow::kms
