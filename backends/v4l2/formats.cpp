#include "formats.hpp"

#include "interval.hpp"
#include "ports.hpp"
#include "stream_format.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace dmaflow::v4l2 {
namespace {

constexpr std::uint32_t most_entries = 1024;  // a limit for drivers whose lists never end

/// A stream that may be offered, before it is known whether its rate fits.
struct Candidate {
  Format format;
  Size size;
};

Result<StreamFormat> probe(const Device& device, const Format& format, Size size) {
  Layout layout;
  layout.size = size;
  layout.format = format.format;
  layout.modifier = format.modifier;
  if (const FormatInfo* info = format_info(format.format)) layout.plane_count = info->plane_count;
  return StreamFormat::probe(device, layout, format);
}

/// Whether TRY_FMT accepts the format and size. @p why: set to the first error other than EINVAL.
bool gives(const Device& device, const Format& format, Size size, std::optional<Error>& why) {
  const auto answer = probe(device, format, size);
  if (!answer && answer.error().code() != EINVAL && !why) why = answer.error();
  return answer && answer->size == size && answer->has_full_frames();
}

/// The best interval of a stream, or nullopt if the wanted rate is not available.
std::optional<Interval> choose_interval(const Device& device, std::uint32_t code, Size size,
                                        std::optional<Interval> wanted) {
  const std::vector<IntervalRange> ranges = list_intervals(device, code, size);
  if (ranges.empty()) {
    const Interval now = current_interval(device);
    if (!wanted) return now;
    if (now == Interval{} || same_rate(now, *wanted)) return now == Interval{} ? *wanted : now;
    return std::nullopt;
  }
  std::optional<Interval> best;
  for (const IntervalRange& range : ranges) {
    if (wanted) {
      if (same_rate(range.shortest, *wanted)) return range.shortest;
      if (same_rate(range.longest, *wanted)) return range.longest;
      if (rate(range.shortest) > rate(*wanted) && rate(range.longest) < rate(*wanted)) return wanted;
      continue;
    }
    for (const Interval interval : {range.shortest, range.longest}) {
      if (!best || better_rate(interval, *best)) best = interval;
    }
  }
  return wanted ? std::nullopt : best;
}

/// The sizes to offer for a format.
std::vector<Size> sizes_for(const Device& device, const Format& format, const StreamRequest& request, Size current,
                            bool native_only, std::optional<Error>& why) {
  const std::vector<SizeRange> ranges = list_sizes(device, format.code);
  std::vector<Size> result;
  const auto add = [&](Size size) {
    if (std::find(result.begin(), result.end(), size) == result.end()) result.push_back(size);
  };
  if (request.size) {
    const Size wanted = *request.size;
    const bool listed = std::any_of(ranges.begin(), ranges.end(), [&](const SizeRange& range) {
      return range.contains(wanted) && (range.is_discrete() || !native_only);
    });
    const bool unlisted = ranges.empty() && (!native_only || wanted == current);
    if ((listed || unlisted || wanted == current) && gives(device, format, wanted, why)) add(wanted);
    return result;
  }
  for (const SizeRange& range : ranges) {
    if (range.is_discrete() && range.min.width <= max_dimension && range.min.height <= max_dimension) add(range.min);
  }
  std::stable_sort(result.begin(), result.end(), [](Size a, Size b) {
    return std::uint64_t{a.width} * a.height > std::uint64_t{b.width} * b.height;
  });
  if (const auto found = std::find(result.begin(), result.end(), current); found != result.end()) {
    std::rotate(result.begin(), found, found + 1);
  } else if (gives(device, format, current, why)) {
    result.insert(result.begin(), current);
  }
  return result;
}

bool same_meaning(const Format& a, const Format& b) noexcept {
  return a.format == b.format && a.modifier == b.modifier && a.separate_objects == b.separate_objects;
}

/// Of codes that mean the same ("XR24", and the deprecated "BGR4"), keeps the one that to_v4l2() returns, else the
/// first.
std::vector<Format> without_twins(const std::vector<Format>& all) {
  std::vector<Format> result;
  for (const Format& format : all) {
    const auto twin =
        std::find_if(result.begin(), result.end(), [&](const Format& f) { return same_meaning(f, format); });
    if (twin == result.end()) {
      result.push_back(format);
    } else if (to_v4l2(format.format, format.modifier, format.separate_objects) == format.code) {
      *twin = format;
    }
  }
  return result;
}

/// The device's formats that the request accepts, in the order to offer them.
std::vector<Format> formats_for(const Device& device, const StreamRequest& request) {
  std::vector<Format> all = without_twins(list_formats(device));
  std::vector<Format> result;
  if (!request.formats.empty()) {
    for (const PixelFormat wanted : request.formats) {
      std::copy_if(all.begin(), all.end(), std::back_inserter(result),
                   [&](const Format& format) { return format.format == wanted; });
    }
    return result;
  }
  std::stable_sort(all.begin(), all.end(), [](const Format& a, const Format& b) {
    return std::pair(!a.known, a.compressed) < std::pair(!b.known, b.compressed);
  });
  // Unknown codes are offered only if there are no others: nobody could use them without asking for them.
  const bool any_known = !all.empty() && all.front().known;
  std::copy_if(all.begin(), all.end(), std::back_inserter(result),
               [&](const Format& format) { return format.known || !any_known; });
  return result;
}

StreamConfig to_config(const Candidate& candidate, Interval interval) {
  StreamConfig config;
  config.layout.size = candidate.size;
  config.layout.format = candidate.format.format;
  config.layout.modifier = candidate.format.modifier;
  const FormatInfo* info = format_info(candidate.format.format);
  config.layout.plane_count = info != nullptr ? info->plane_count : 1;
  for (std::uint32_t i = 0; i < config.layout.plane_count; ++i) {
    config.layout.planes[i].object = candidate.format.separate_objects ? i : 0;
  }
  config.constraints.separate_objects = candidate.format.separate_objects && config.layout.plane_count > 1;
  config.interval = interval;
  return config;
}

}  // namespace

std::vector<Format> list_formats(const Device& device) {
  std::vector<Format> result;
  for (std::uint32_t index = 0; index < most_entries; ++index) {
    v4l2_fmtdesc entry{};
    entry.index = index;
    entry.type = device.buffer_type();
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUM_FMT), &entry) < 0) break;
    const V4l2Meaning meaning = from_v4l2(entry.pixelformat);
    Format format;
    format.code = entry.pixelformat;
    format.format = meaning.format;
    format.modifier = meaning.modifier;
    format.separate_objects = meaning.separate_objects;
    format.known = meaning.known;
    format.compressed = (entry.flags & V4L2_FMT_FLAG_COMPRESSED) != 0;
    const char* text = reinterpret_cast<const char*>(entry.description);
    format.description.assign(text, strnlen(text, sizeof entry.description));
    result.push_back(std::move(format));
  }
  return result;
}

Result<Format> code_for(const Device& device, const StreamConfig& config) {
  const Layout& layout = config.layout;
  for (Format& format : without_twins(list_formats(device))) {
    if (format.format == layout.format && format.modifier == layout.modifier &&
        format.separate_objects == config.constraints.separate_objects) {
      return std::move(format);
    }
  }
  return std::unexpected(
      device.error(EINVAL, "VIDIOC_ENUM_FMT")
          .detail("it has no %s %s%s. It has: %s", layout.format.code().c_str(), layout.modifier.name().c_str(),
                  config.constraints.separate_objects ? " with separate planes" : "", what_it_has(device).c_str()));
}

std::vector<SizeRange> list_sizes(const Device& device, std::uint32_t code) {
  std::vector<SizeRange> result;
  for (std::uint32_t index = 0; index < most_entries; ++index) {
    v4l2_frmsizeenum entry{};
    entry.index = index;
    entry.pixel_format = code;
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUM_FRAMESIZES), &entry) < 0) break;
    if (entry.type == V4L2_FRMSIZE_TYPE_DISCRETE) {
      const Size size{entry.discrete.width, entry.discrete.height};
      result.push_back({.min = size, .max = size, .step = {1, 1}});
      continue;
    }
    const auto& s = entry.stepwise;
    result.push_back({.min = {s.min_width, s.min_height},
                      .max = {s.max_width, s.max_height},
                      .step = {std::max(s.step_width, 1U), std::max(s.step_height, 1U)}});
    break;  // a grid is one entry
  }
  return result;
}

std::vector<IntervalRange> list_intervals(const Device& device, std::uint32_t code, Size size) {
  std::vector<IntervalRange> result;
  for (std::uint32_t index = 0; index < most_entries; ++index) {
    v4l2_frmivalenum entry{};
    entry.index = index;
    entry.pixel_format = code;
    entry.width = size.width;
    entry.height = size.height;
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUM_FRAMEINTERVALS), &entry) < 0) break;
    const bool discrete = entry.type == V4L2_FRMIVAL_TYPE_DISCRETE;
    const v4l2_fract shortest = discrete ? entry.discrete : entry.stepwise.min;
    const v4l2_fract longest = discrete ? entry.discrete : entry.stepwise.max;
    result.push_back({.shortest = reduced(shortest.numerator, shortest.denominator),
                      .longest = reduced(longest.numerator, longest.denominator)});
    if (!discrete) break;
  }
  return result;
}

Interval current_interval(const Device& device) noexcept {
  v4l2_streamparm parm{};
  parm.type = device.buffer_type();
  if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_PARM), &parm) == 0) {
    const v4l2_fract time =
        device.direction() == Direction::capture ? parm.parm.capture.timeperframe : parm.parm.output.timeperframe;
    if (time.numerator != 0 && time.denominator != 0) return reduced(time.numerator, time.denominator);
  }
  const auto timings = current_timings(device);
  return timings ? describe(timings->bt).interval : Interval{};
}

Interval set_interval(const Device& device, Interval wanted) noexcept {
  if (wanted.numerator != 0 && wanted.denominator != 0) {
    v4l2_streamparm parm{};
    parm.type = device.buffer_type();
    const v4l2_fract time{wanted.numerator, wanted.denominator};
    if (device.direction() == Direction::capture) {
      parm.parm.capture.timeperframe = time;
    } else {
      parm.parm.output.timeperframe = time;
    }
    // Devices without a choice answer ENOTTY, EINVAL, or the rate they have. All are ignored: the rate is read next.
    (void)device.try_call(DMAFLOW_V4L2_OP(VIDIOC_S_PARM), &parm);
  }
  return current_interval(device);
}

std::vector<StreamConfig> matching(const Device& device, const StreamRequest& request, bool native_only,
                                   std::optional<Error>& why) {
  const auto now = StreamFormat::get(device);
  const Size current = now ? now->size : Size{};
  std::vector<std::pair<std::size_t, StreamConfig>> found;  // with the rank of the size
  std::vector<Size> order;
  for (const Format& format : formats_for(device, request)) {
    for (const Size size : sizes_for(device, format, request, current, native_only, why)) {
      const auto interval = choose_interval(device, format.code, size, request.interval);
      if (!interval) continue;
      auto place = std::find(order.begin(), order.end(), size);
      if (place == order.end()) place = order.insert(order.end(), size);
      found.emplace_back(static_cast<std::size_t>(place - order.begin()), to_config({format, size}, *interval));
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<StreamConfig> result;
  result.reserve(found.size());
  for (const auto& entry : found) result.push_back(entry.second);
  return result;
}

std::string what_it_has(const Device& device) {
  const std::vector<Format> formats = list_formats(device);
  if (formats.empty()) return "no formats";
  std::string text = "formats";
  constexpr std::size_t enough = 130;
  const auto add = [&](const std::string& code) {
    if (text.size() > enough) return;
    text += " " + code.substr(0, code.find_last_not_of(' ') + 1);
    if (text.size() > enough) text += " ...";
  };
  // Common formats first: an error has space for only a few.
  for (const FormatInfo& info : known_formats()) {
    if (std::any_of(formats.begin(), formats.end(),
                    [&](const Format& f) { return f.known && f.format == info.format; })) {
      add(info.format.code());
    }
  }
  for (const Format& format : formats) {
    if (!format.known) add(PixelFormat{format.code}.code());
  }
  text += "; sizes";
  const auto sizes = list_sizes(device, formats.front().code);
  for (const SizeRange& range : sizes) {
    const auto name = [](Size size) { return std::to_string(size.width) + "x" + std::to_string(size.height); };
    if (!range.is_discrete()) {
      text += " " + name(range.min) + " to " + name(range.max) + " in steps of " + name(range.step);
      continue;
    }
    text += " " + name(range.min);
    double slowest = 0;
    double fastest = 0;
    for (const IntervalRange& interval : list_intervals(device, formats.front().code, range.min)) {
      fastest = std::max(fastest, rate(interval.shortest));
      slowest = slowest == 0 ? rate(interval.longest) : std::min(slowest, rate(interval.longest));
    }
    char rates[48];
    std::snprintf(rates, sizeof rates, " (%g-%g/s)", slowest, fastest);
    if (fastest > 0) text += rates;
  }
  if (sizes.empty()) text += " not listed";
  return text;
}

}  // namespace dmaflow::v4l2
