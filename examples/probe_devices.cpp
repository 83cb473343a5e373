#include "probe_devices.hpp"

#include "probe_progress.hpp"

#include <dmaflow/dmaflow.hpp>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <fcntl.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

using namespace dmaflow;

std::vector<std::string> nodes(const std::string& directory, const std::string& prefix) {
  std::map<unsigned, std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    unsigned number = 0;
    if (!name.starts_with(prefix)) continue;
    const char* const end = name.data() + name.size();
    const auto [last, problem] = std::from_chars(name.data() + prefix.size(), end, number);
    if (problem == std::errc{} && last == end) found[number] = entry.path();
  }
  std::vector<std::string> paths;
  for (auto& [number, path] : found) paths.push_back(std::move(path));
  return paths;
}

Json as_json(const Error& error) {
  const char* const name = error.domain() == ErrorDomain::os ? ::strerrorname_np(error.code()) : nullptr;
  return {{"message", error.message()},
          {"operation", error.operation()},
          {"code", name != nullptr ? Json(name) : Json(error.code())}};
}

namespace {

std::string text(Size size) { return std::to_string(size.width) + "x" + std::to_string(size.height); }

double rate(Interval interval) {
  return interval.numerator == 0 ? 0 : static_cast<double>(interval.denominator) / interval.numerator;
}

/// The list, or an empty one if listing failed; the caller reports the error.
template <typename T>
std::vector<T> or_none(const Result<std::vector<T>>& listed) {
  return listed ? *listed : std::vector<T>();
}

Json format_json(PixelFormat format) { return {{"fourcc", format.code()}, {"name", format.name()}}; }

// --- Memory

Json answer(heap::Answer answer) {
  if (answer == heap::Answer::unknown) return nullptr;
  return answer == heap::Answer::yes;
}

Json look_at_heaps() {
  Json heaps = Json::array();
  for (const auto& info : heap::list()) {
    Json heap{{"name", info.name},
              {"contiguous", answer(info.properties.contiguous)},
              {"cached", answer(info.properties.cached)},
              {"protected", answer(info.properties.is_protected)}};
    if (const auto opened = heap::Allocator::open(info.name); !opened) heap["error"] = as_json(opened.error());
    heaps.push_back(std::move(heap));
  }
  return heaps;
}

Json look_at_udmabuf() {
  Json result{{"path", udmabuf::Options{}.device}};
  int megabytes = 0;
  if (std::ifstream(udmabuf::Options{}.parameters + "/size_limit_mb") >> megabytes) result["limit_mb"] = megabytes;
  if (const auto opened = udmabuf::Allocator::open(); !opened) result["error"] = as_json(opened.error());
  return result;
}

// --- V4L2

/// Sizes with the slowest and the fastest rate of each; a range has the rates of its largest size.
Json sizes_json(const v4l2::Camera& camera, const v4l2::Format& format) {
  Json sizes = Json::array();
  const auto ranges = camera.sizes(format);
  if (!ranges) return sizes;
  for (const auto& range : *ranges) {
    Json size{{"min", text(range.min)}, {"max", text(range.max)}};
    if (!range.is_discrete()) size["step"] = text(range.step);
    double slowest = 0;
    double fastest = 0;
    if (const auto intervals = camera.intervals(format, range.max)) {
      for (const auto& interval : *intervals) {
        fastest = std::max(fastest, rate(interval.shortest));
        slowest = slowest == 0 ? rate(interval.longest) : std::min(slowest, rate(interval.longest));
      }
    }
    if (fastest > 0) size.update({{"slowest", slowest}, {"fastest", fastest}});
    sizes.push_back(std::move(size));
  }
  return sizes;
}

Json v4l2_format_json(const v4l2::Format& format) {
  Json result = format_json(format.format);
  result.update({{"description", format.description},
                 {"modifier", format.modifier.name()},
                 {"separate_planes", format.separate_objects},
                 {"compressed", format.compressed},
                 {"known", format.known}});
  return result;
}

Json ports_json(const Result<std::vector<v4l2::Port>>& ports) {
  Json result = Json::array();
  if (!ports) return result;
  for (const auto& port : *ports) {
    result.push_back({{"name", port.name}, {"current", port.is_current}, {"problem", port.problem}});
  }
  return result;
}

void add_info(Json& json, const v4l2::DeviceInfo& info) {
  json.update({{"driver", info.driver}, {"card", info.card}, {"bus", info.bus}, {"multiplanar", info.multiplanar}});
}

Json look_at_camera(const std::string& path) {
  Json result{{"path", path}};
  const auto camera = v4l2::Camera::open(path);
  if (!camera) {
    result["error"] = as_json(camera.error());
    return result;
  }
  add_info(result, (*camera)->info());
  result["inputs"] = ports_json((*camera)->inputs());
  result["formats"] = Json::array();
  const auto formats = (*camera)->formats();
  if (!formats) result["error"] = as_json(formats.error());
  for (const auto& format : or_none(formats)) {
    Json one = v4l2_format_json(format);
    one["sizes"] = sizes_json(**camera, format);
    result["formats"].push_back(std::move(one));
  }
  return result;
}

Json look_at_output(const std::string& path) {
  Json result{{"path", path}};
  const auto output = v4l2::Output::open(path);
  if (!output) {
    result["error"] = as_json(output.error());
    return result;
  }
  add_info(result, (*output)->info());
  result["outputs"] = ports_json((*output)->outputs());
  result["formats"] = Json::array();
  const auto formats = (*output)->formats();
  if (!formats) result["error"] = as_json(formats.error());
  for (const auto& format : or_none(formats)) result["formats"].push_back(v4l2_format_json(format));
  return result;
}

/// A device that is neither a camera nor an output is listed among the cameras, with the reason.
void look_at_v4l2(Json& devices, Progress& progress) {
  devices["cameras"] = Json::array();
  devices["video_outputs"] = Json::array();
  const auto known = v4l2::list();
  for (const std::string& path : nodes("/dev", "video")) {
    if (!progress.next("looking at " + path)) return;
    const auto info = std::ranges::find(known, path, &v4l2::DeviceInfo::path);
    const bool is_output = info != known.end() && info->output;
    devices[is_output ? "video_outputs" : "cameras"].push_back(is_output ? look_at_output(path) : look_at_camera(path));
  }
}

// --- Displays

template <typename T, void (*end)(T*)>
struct Ended {
  void operator()(T* object) const noexcept { end(object); }
};
template <typename T, void (*end)(T*)>
using Owned = std::unique_ptr<T, Ended<T, end>>;

/// The value of a plane's property, or 0.
std::uint64_t property(int fd, std::uint32_t plane, std::string_view name) {
  const Owned<drmModeObjectProperties, drmModeFreeObjectProperties> all(
      drmModeObjectGetProperties(fd, plane, DRM_MODE_OBJECT_PLANE));
  for (std::uint32_t i = 0; all && i < all->count_props; ++i) {
    const Owned<drmModePropertyRes, drmModeFreeProperty> one(drmModeGetProperty(fd, all->props[i]));
    if (one && name == one->name) return all->prop_values[i];
  }
  return 0;
}

/// Modifiers by format, from IN_FORMATS; empty if the plane has no such property.
std::map<std::uint32_t, std::vector<std::string>> modifiers_of(int fd, std::uint32_t plane) {
  std::map<std::uint32_t, std::vector<std::string>> result;
  const auto blob_id = static_cast<std::uint32_t>(property(fd, plane, "IN_FORMATS"));
  if (blob_id == 0) return result;
  const Owned<drmModePropertyBlobRes, drmModeFreePropertyBlob> blob(drmModeGetPropertyBlob(fd, blob_id));
  drmModeFormatModifierIterator pair{};
  while (blob && drmModeFormatModifierBlobIterNext(blob.get(), &pair)) {
    result[pair.fmt].push_back(Modifier::from_value(pair.mod).name());
  }
  return result;
}

Json plane_json(int fd, const drmModePlane& plane) {
  constexpr std::array kinds{"overlay", "primary", "cursor"};  // DRM_PLANE_TYPE_*
  const std::uint64_t kind = property(fd, plane.plane_id, "type");
  Json result{{"id", plane.plane_id}, {"kind", kind < kinds.size() ? kinds[kind] : "unknown"}};
  const auto modifiers = modifiers_of(fd, plane.plane_id);
  for (std::uint32_t i = 0; i < plane.count_formats; ++i) {
    Json format = format_json({plane.formats[i]});
    const auto found = modifiers.find(plane.formats[i]);
    format["modifiers"] = found == modifiers.end() ? Json::array() : Json(found->second);
    result["formats"].push_back(std::move(format));
  }
  return result;
}

/// Does not need to be the DRM master, so a program that shows something is not disturbed.
Json planes_json(const std::string& path) {
  Json result = Json::array();
  const Fd card = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!card || drmSetClientCap(card.get(), DRM_CLIENT_CAP_UNIVERSAL_PLANES, 1) != 0) return result;
  const Owned<drmModePlaneRes, drmModeFreePlaneResources> planes(drmModeGetPlaneResources(card.get()));
  for (std::uint32_t i = 0; planes && i < planes->count_planes; ++i) {
    const Owned<drmModePlane, drmModeFreePlane> plane(drmModeGetPlane(card.get(), planes->planes[i]));
    if (plane) result.push_back(plane_json(card.get(), *plane));
  }
  return result;
}

Json connector_json(const kms::Connector& connector) {
  constexpr std::array connections{"connected", "disconnected", "unknown"};  // kms::Connection
  Json result{{"name", connector.name}, {"connection", connections[static_cast<std::size_t>(connector.connection)]}};
  result["modes"] = Json::array();
  for (const auto& mode : connector.modes) {
    result["modes"].push_back({{"size", text(mode.size)},
                               {"hz", mode.refresh_mhz / 1000.0},
                               {"interlaced", mode.is_interlaced},
                               {"preferred", mode.is_preferred}});
  }
  return result;
}

Json look_at_card(const kms::Card& card) {
  Json result{{"path", card.path}, {"driver", card.driver}};
  result["connectors"] = Json::array();
  for (const auto& connector : card.connectors) result["connectors"].push_back(connector_json(connector));
  result["planes"] = planes_json(card.path);
  if (const auto opened = kms::Device::open(card.path); !opened) result["error"] = as_json(opened.error());
  return result;
}

// --- GPUs

#ifdef DMAFLOW_HAS_GBM
Json look_at_gbm(const std::string& path) {
  Json result{{"path", path}};
  const auto device = gbm::Device::open(path);
  if (!device) {
    result["error"] = as_json(device.error());
    return result;
  }
  result.update({{"driver", (*device)->driver()}, {"backend", (*device)->backend()}});
  result["formats"] = Json::array();
  const auto formats = (*device)->formats();
  for (const auto& use : or_none(formats)) {
    Json format = format_json(use.format);
    format["scanout"] = use.scanout;
    format["render"] = use.render;
    format["linear"] = use.linear;
    result["formats"].push_back(std::move(format));
  }
  return result;
}
#endif

#ifdef DMAFLOW_HAS_VULKAN
Json look_at_gpu(const vulkan::PhysicalDevice& seen) {
  Json result{{"name", seen.name}, {"driver", seen.driver}, {"node", seen.node}, {"software", seen.is_software}};
  result["formats"] = Json::array();
  if (seen.refusal) {
    result["error"] = as_json(*seen.refusal);
    return result;
  }
  const auto device = vulkan::Device::create({.node = seen.node, .name = seen.name});
  if (!device) {
    result["error"] = as_json(device.error());
    return result;
  }
  for (const FormatInfo& info : known_formats()) {
    Json modifiers = Json::array();
    for (const auto& one : (*device)->support(info.format, VK_IMAGE_USAGE_SAMPLED_BIT)) {
      modifiers.push_back({{"modifier", one.modifier.name()},
                           {"planes", one.plane_count},
                           {"importable", one.importable},
                           {"exportable", one.exportable},
                           {"dedicated", one.dedicated_only},
                           {"disjoint", one.disjoint},
                           {"max_size", text(one.max_size)}});
    }
    if (modifiers.empty()) continue;
    Json format = format_json(info.format);
    format["modifiers"] = std::move(modifiers);
    result["formats"].push_back(std::move(format));
  }
  return result;
}

void look_at_all_vulkan(Json& devices, Progress& progress) {
  const auto all = vulkan::list();
  if (!all) devices["vulkan_error"] = as_json(all.error());
  for (const auto& seen : all ? *all : std::vector<vulkan::PhysicalDevice>()) {
    if (!progress.next("looking at " + seen.name)) return;
    devices["vulkan"].push_back(look_at_gpu(seen));
  }
}
#endif

}  // namespace

Json look_at_devices(Progress& progress) {
  Json devices;
  devices["heaps"] = look_at_heaps();
  devices["udmabuf"] = look_at_udmabuf();
  look_at_v4l2(devices, progress);
  devices["cards"] = Json::array();
  if (progress.next("looking at displays")) {  // slow monitors answer within a second
    for (const auto& card : kms::list()) devices["cards"].push_back(look_at_card(card));
  }
  devices["gbm"] = Json::array();
#ifdef DMAFLOW_HAS_GBM
  for (const char* kind : {"card", "renderD"}) {
    for (const std::string& path : nodes("/dev/dri", kind)) {
      if (progress.next("looking at " + path)) devices["gbm"].push_back(look_at_gbm(path));
    }
  }
#endif
  devices["vulkan"] = Json::array();
#ifdef DMAFLOW_HAS_VULKAN
  if (progress.next("looking at Vulkan")) look_at_all_vulkan(devices, progress);
#endif
  return devices;
}
