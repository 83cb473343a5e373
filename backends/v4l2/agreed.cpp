#include "agreed.hpp"

#include "formats.hpp"
#include "interval.hpp"
#include "ports.hpp"
#include "selection.hpp"

#include <cerrno>
#include <string>
#include <string_view>

namespace dmaflow::v4l2 {
namespace {

bool same_lines(const StreamFormat& a, const StreamFormat& b) noexcept {
  return a.planes == b.planes && a.bytes_per_line == b.bytes_per_line;
}

std::string lines_of(const StreamFormat& format) {
  std::string text;
  for (std::uint32_t i = 0; i < format.planes; ++i) {
    text += (i == 0 ? ", stride " : "/") + std::to_string(format.bytes_per_line[i]);
  }
  return text;
}

std::string bytes_of(const StreamFormat& format) {
  std::string text;
  for (std::uint32_t i = 0; i < format.planes; ++i) {
    text += (i == 0 ? ", " : "/") + std::to_string(format.size_image[i]);
  }
  return text + " bytes";
}

std::string color_of(const ColorInfo& color) {
  std::string text = ", colour";
  for (const std::string_view part :
       {name(color.matrix), name(color.range), name(color.transfer), name(color.primaries)}) {
    text.append(" ").append(part);
  }
  return text;
}

std::string text_of(const Rect& rect) {
  return std::to_string(rect.width) + "x" + std::to_string(rect.height) + " at " + std::to_string(rect.x) + "," +
         std::to_string(rect.y);
}

/// The size and format of @p one, and its other settings that differ from those of @p other.
std::string describe(const Agreed& one, const Agreed& other, const Device& device) {
  const StreamFormat& a = one.format;
  const StreamFormat& b = other.format;
  std::string text =
      std::to_string(a.size.width) + "x" + std::to_string(a.size.height) + " " + from_v4l2(a.code).format.name();
  if (a.planes != b.planes) text += " in " + std::to_string(a.planes) + " buffers";
  const bool same_picture = a.size == b.size && a.code == b.code;
  if (same_picture && !same_lines(a, b)) text += lines_of(a);
  if (same_picture && same_lines(a, b) && a.size_image != b.size_image) text += bytes_of(a);
  if (a.field != b.field) text += ", field " + std::to_string(a.field);
  if (same_picture && a.color(device) != b.color(device)) text += color_of(a.color(device));
  if (one.port && other.port && one.port != other.port) text += ", port " + std::to_string(*one.port);
  return text;
}

bool is_same(const Agreed& a, const Agreed& b, const Device& device) noexcept {
  return a.format.code == b.format.code && a.format.size == b.format.size && a.format.field == b.format.field &&
         same_lines(a.format, b.format) && a.format.size_image == b.format.size_image &&
         a.format.color(device) == b.format.color(device) && (!a.port || !b.port || a.port == b.port);
}

Error changed(const Device& device, const char* operation, const std::string& now, const std::string& agreed) {
  return device.error(EBUSY, operation)
      .detail("another program set the device to %s; agreed was %s: prepare again", now.c_str(), agreed.c_str());
}

/// The queue must have no slots.
Result<void> set_again(const Device& device, const Agreed& agreed) noexcept {
  if (agreed.port && current_port(device) != agreed.port) {
    if (auto set = set_port(device, *agreed.port); !set) return set;
  }
  v4l2_format raw = agreed.format.raw;
  return device.call(DMAFLOW_V4L2_OP(VIDIOC_S_FMT), &raw);
}

}  // namespace

Result<Agreed> Agreed::read(const Device& device) noexcept {
  auto format = StreamFormat::get(device);
  if (!format) return std::unexpected(format.error());
  Agreed now;
  now.format = *format;
  now.port = current_port(device);
  return now;
}

void Agreed::read_rectangles(const Device& device) noexcept {
  const auto read = [&](std::uint32_t target) {
    const auto rect = selection(device, target);
    return rect ? std::optional(*rect) : std::nullopt;
  };
  crop = read(V4L2_SEL_TGT_CROP);
  compose = read(V4L2_SEL_TGT_COMPOSE);
}

Result<void> Agreed::check(const Device& device) const {
  const auto now = read(device);
  if (!now) return std::unexpected(now.error());
  if (is_same(*now, *this, device)) return {};
  return std::unexpected(changed(device, "VIDIOC_G_FMT", describe(*now, *this, device), describe(*this, *now, device)));
}

Result<void> Agreed::restore_rectangles(const Device& device) const {
  struct Wanted {
    std::uint32_t target;
    const std::optional<Rect>& rect;
    const char* name;
  };
  // In this order: the compose rectangle depends on the crop rectangle.
  const Wanted both[] = {{V4L2_SEL_TGT_CROP, crop, "crop "}, {V4L2_SEL_TGT_COMPOSE, compose, "compose "}};
  for (const bool again : {true, false}) {
    bool differs = false;
    for (const Wanted& wanted : both) {
      if (!wanted.rect) continue;
      const auto now = selection(device, wanted.target);
      if (!now) return std::unexpected(now.error());
      if (*now == *wanted.rect) continue;
      differs = true;
      if (!again) {
        return std::unexpected(
            changed(device, "VIDIOC_S_SELECTION", wanted.name + text_of(*now), wanted.name + text_of(*wanted.rect)));
      }
      (void)set_selection(device, wanted.target, *wanted.rect);  // refused or adjusted: the next read shows it
    }
    if (!differs) break;
  }
  return {};
}

Result<std::uint32_t> request_as_agreed(const Device& device, Queue& queue, const Agreed& agreed, std::uint32_t memory,
                                        std::uint32_t count) {
  auto slots = queue.request(memory, count);
  if (!slots) return slots;
  auto checked = agreed.check(device);
  if (checked) return slots;
  if (auto closed = queue.close(); !closed) return std::unexpected(closed.error());
  if (checked.error().code() != EBUSY) return std::unexpected(checked.error());  // could not be read: unplugged, ...
  if (auto set = set_again(device, agreed); !set) {
    // EBUSY: another program has slots now, and the device keeps that program's settings.
    return std::unexpected(set.error().code() == EBUSY ? checked.error() : set.error());
  }
  slots = queue.request(memory, count);
  if (!slots) return slots;
  checked = agreed.check(device);
  if (checked) return slots;
  (void)queue.close();
  return std::unexpected(checked.error());
}

Interval restore_interval(const Device& device, Interval agreed) noexcept {
  const Interval now = current_interval(device);
  if (now == Interval{}) return agreed;  // not reported
  if (agreed == Interval{} || now == agreed || same_rate(now, agreed)) return now;
  return set_interval(device, agreed);
}

}  // namespace dmaflow::v4l2
