#include "choose.hpp"

#include "formats.hpp"
#include "interval.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::v4l2 {
namespace {

/// Sets the timings unless they are already set.
Result<void> apply(const Device& device, const v4l2_dv_timings& timings) noexcept {
  const auto now = current_timings(device);
  if (now && describe(now->bt) == describe(timings.bt)) return {};
  return set_timings(device, timings);
}

bool meets(const Timings& timings, const StreamRequest& request) noexcept {
  return (!request.size || timings.size == *request.size) &&
         (!request.interval || same_rate(timings.interval, *request.interval));
}

/// On an output connector, we choose the timings.
Result<void> set_output_timings(const Device& device, const StreamRequest& request) {
  if (!request.size) return {};
  const auto wanted = choose_timings(list_timings(device), *request.size, request.interval);
  return wanted ? apply(device, *wanted) : Result<void>{};
}

/// On an input, the signal decides: timings of the wanted size are kept only if the device then detects them.
Result<void> follow_signal(const Device& device, const StreamRequest& request) {
  auto detected = detect_timings(device);
  if (!detected) return std::unexpected(detected.error());
  if (!meets(describe(detected->bt), request)) {
    const Size size = request.size.value_or(describe(detected->bt).size);
    const auto wanted = choose_timings(list_timings(device), size, request.interval);
    if (wanted && set_timings(device, *wanted)) {
      const auto now = detect_timings(device);
      if (now && describe(now->bt) == describe(wanted->bt)) return {};
    }
  }
  return apply(device, *detected);
}

/// The current port's streams, after its timings were set. @p why: the reason if there are none.
std::vector<StreamConfig> on_this_port(const Device& device, const StreamRequest& request, bool has_timings,
                                       bool native_only, PortState& state, std::optional<Error>& why) {
  if (has_timings) {
    state.remember(device);
    auto set =
        device.direction() == Direction::capture ? follow_signal(device, request) : set_output_timings(device, request);
    if (!set) {
      why = set.error();
      return {};
    }
  }
  return matching(device, request, native_only, why);
}

Error nothing_fits(const Device& device, const StreamRequest& request, const std::vector<Port>& ports) {
  std::string wish;
  for (const PixelFormat format : request.formats) wish += format.code() + " ";
  if (request.size) wish += std::to_string(request.size->width) + "x" + std::to_string(request.size->height) + " ";
  if (request.interval) {
    char text[32];
    std::snprintf(text, sizeof text, "at %.4g/s ", rate(*request.interval));
    wish += text;
  }
  std::string where;
  for (const Port& port : ports) {
    if (port.is_current) where = " on " + port.name;
  }
  std::string others;
  for (const Port& port : ports) {
    if (!port.is_current) others += (others.empty() ? "; other inputs: " : ", ") + port.name;
  }
  return device.error(EINVAL, "VIDIOC_ENUM_FMT")
      .detail("no %sthere. It has%s: %s%s", wish.c_str(), where.c_str(), what_it_has(device).c_str(), others.c_str());
}

}  // namespace

Result<std::vector<StreamConfig>> choose(const Device& device, const StreamRequest& request, Search search,
                                         PortState& state) {
  if (request.size && (request.size->width == 0 || request.size->height == 0 || request.size->width > max_dimension ||
                       request.size->height > max_dimension)) {
    return std::unexpected(device.error(EINVAL, "offers")
                               .detail("%ux%u is no size: each side is 1 to %u pixels", request.size->width,
                                       request.size->height, max_dimension));
  }
  const std::vector<Port> all = ports(device);
  const auto current = std::find_if(all.begin(), all.end(), [](const Port& port) { return port.is_current; });
  const bool has_timings = current != all.end() && current->has_dv_timings;
  PortState before(device);
  std::optional<Error> why;
  auto configs = on_this_port(device, request, has_timings && search != Search::as_is, false, before, why);
  if (configs.empty() && search == Search::all_ports && request.size) {
    for (const Port& port : all) {
      if (port.is_current || !port.problem.empty() || !set_port(device, port.index)) continue;
      std::optional<Error> ignored;
      configs = on_this_port(device, request, port.has_dv_timings, true, before, ignored);
      if (!configs.empty()) break;
    }
  }
  if (configs.empty()) {
    before.restore(device);
    return std::unexpected(why ? *why : nothing_fits(device, request, all));
  }
  state.merge(before);
  return configs;
}

}  // namespace dmaflow::v4l2
