#include "ports.hpp"

#include "interval.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace dmaflow::v4l2 {
namespace {

/// The problem that the status bits of an input report, in words; empty if none. Colour and flip bits are not problems.
std::string_view problem_of(std::uint32_t status) noexcept {
  struct Bit {
    std::uint32_t mask;
    const char* words;
  };
  static constexpr Bit bits[] = {{V4L2_IN_ST_NO_POWER, "no power"},
                                 {V4L2_IN_ST_NO_SIGNAL, "no signal"},
                                 {V4L2_IN_ST_NO_SYNC, "no sync"},
                                 {V4L2_IN_ST_NO_H_LOCK, "no lock"},
                                 {V4L2_IN_ST_NO_CARRIER, "no carrier"}};
  for (const Bit& bit : bits) {
    if ((status & bit.mask) != 0) return bit.words;
  }
  return {};
}

std::optional<Port> input(const Device& device, std::uint32_t index) {
  v4l2_input in{};
  in.index = index;
  if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUMINPUT), &in) < 0) return std::nullopt;
  Port port;
  port.index = index;
  port.name = text(in.name);
  port.has_dv_timings = (in.capabilities & V4L2_IN_CAP_DV_TIMINGS) != 0;
  port.has_standards = (in.capabilities & V4L2_IN_CAP_STD) != 0;
  port.problem = problem_of(in.status);
  return port;
}

std::optional<Port> output(const Device& device, std::uint32_t index) {
  v4l2_output out{};
  out.index = index;
  if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUMOUTPUT), &out) < 0) return std::nullopt;
  Port port;
  port.index = index;
  port.name = text(out.name);
  port.has_dv_timings = (out.capabilities & V4L2_OUT_CAP_DV_TIMINGS) != 0;
  port.has_standards = (out.capabilities & V4L2_OUT_CAP_STD) != 0;
  return port;
}

}  // namespace

bool begins_with(std::string_view text, std::string_view beginning) noexcept {
  return text.size() >= beginning.size() &&
         std::equal(beginning.begin(), beginning.end(), text.begin(),
                    [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
}

std::vector<Port> ports(const Device& device) {
  std::vector<Port> result;
  const std::optional<std::uint32_t> current = current_port(device);
  constexpr std::uint32_t most = 64;  // a limit for drivers that never return EINVAL
  for (std::uint32_t index = 0; index < most; ++index) {
    auto port = device.direction() == Direction::capture ? input(device, index) : output(device, index);
    if (!port) break;
    port->is_current = current == index;
    result.push_back(std::move(*port));
  }
  return result;
}

bool has_problem(const Device& device, std::uint32_t index) noexcept {
  v4l2_input in{};
  in.index = index;
  return device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUMINPUT), &in) == 0 && !problem_of(in.status).empty();
}

Result<Port> find_port(const Device& device, std::string_view name) {
  const std::vector<Port> all = ports(device);
  std::uint32_t number = 0;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool is_number = problem == std::errc{} && end == name.data() + name.size();
  for (const Port& port : all) {
    if (is_number ? port.index == number : begins_with(port.name, name)) return port;
  }
  std::string list;
  for (const Port& port : all)
    list += (list.empty() ? "" : ", ") + std::to_string(port.index) + " \"" + port.name + "\"";
  const bool capture = device.direction() == Direction::capture;
  return std::unexpected(device.error(EINVAL, capture ? "VIDIOC_S_INPUT" : "VIDIOC_S_OUTPUT")
                             .detail("no %s \"%.*s\"; it has: %s", capture ? "input" : "output",
                                     static_cast<int>(name.size()), name.data(),
                                     list.empty() ? "none to choose from" : list.c_str()));
}

std::optional<std::uint32_t> current_port(const Device& device) noexcept {
  int index = 0;
  const int result = device.direction() == Direction::capture
                         ? device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_INPUT), &index)
                         : device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_OUTPUT), &index);
  if (result < 0) return std::nullopt;
  return static_cast<std::uint32_t>(index);
}

Result<void> set_port(const Device& device, std::uint32_t index) noexcept {
  int value = static_cast<int>(index);
  return device.direction() == Direction::capture ? device.call(DMAFLOW_V4L2_OP(VIDIOC_S_INPUT), &value)
                                                  : device.call(DMAFLOW_V4L2_OP(VIDIOC_S_OUTPUT), &value);
}

Result<Port> go_to_port(const Device& device, std::string_view name) {
  auto port = find_port(device, name);
  if (!port || port->is_current) return port;
  if (auto set = set_port(device, port->index); !set) return std::unexpected(set.error());
  port->is_current = true;
  return port;
}

Timings describe(const v4l2_bt_timings& bt) noexcept {
  Timings timings;
  timings.size = {bt.width, bt.height};
  timings.interlaced = bt.interlaced != 0;
  timings.pixel_clock = bt.pixelclock;
  const std::uint64_t total = std::uint64_t{V4L2_DV_BT_FRAME_WIDTH(&bt)} * V4L2_DV_BT_FRAME_HEIGHT(&bt);
  timings.interval = reduced(total, bt.pixelclock);
  return timings;
}

Result<v4l2_dv_timings> detect_timings(const Device& device) noexcept {
  v4l2_dv_timings timings{};
  const int result = device.try_call(DMAFLOW_V4L2_OP(VIDIOC_QUERY_DV_TIMINGS), &timings);
  if (result == 0) return timings;
  Error error = device.error(-result, "VIDIOC_QUERY_DV_TIMINGS");
  if (result == -ENOLINK) error.detail("no signal on this input");
  if (result == -ENOLCK) error.detail("there is a signal, but it is not stable");
  if (result == -ERANGE) error.detail("the signal is beyond what the device can receive");
  if (result == -ENODATA || result == -ENOTTY) error.detail("this input has no digital video timings");
  return std::unexpected(error);
}

bool is_no_signal(const Error& error) noexcept { return error.code() == ENOLINK || error.code() == ENOLCK; }

std::optional<v4l2_dv_timings> current_timings(const Device& device) noexcept {
  v4l2_dv_timings timings{};
  if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_DV_TIMINGS), &timings) < 0) return std::nullopt;
  return timings;
}

Result<void> set_timings(const Device& device, const v4l2_dv_timings& timings) noexcept {
  v4l2_dv_timings copy = timings;
  return device.call(DMAFLOW_V4L2_OP(VIDIOC_S_DV_TIMINGS), &copy);
}

std::vector<v4l2_dv_timings> list_timings(const Device& device) {
  std::vector<v4l2_dv_timings> list;
  constexpr std::uint32_t most = 1024;
  for (std::uint32_t index = 0; index < most; ++index) {
    v4l2_enum_dv_timings entry{};
    entry.index = index;
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUM_DV_TIMINGS), &entry) < 0) break;
    if (entry.timings.type == V4L2_DV_BT_656_1120) list.push_back(entry.timings);
  }
  return list;
}

std::optional<v4l2_dv_timings> choose_timings(const std::vector<v4l2_dv_timings>& list, Size size,
                                              std::optional<Interval> wanted) {
  std::optional<v4l2_dv_timings> best;
  Interval best_interval;
  for (const v4l2_dv_timings& entry : list) {
    const Timings timings = describe(entry.bt);
    if (timings.size != size || timings.interlaced) continue;
    if (wanted && !same_rate(timings.interval, *wanted)) continue;
    const bool nearer =
        wanted && best &&
        std::abs(rate(timings.interval) - rate(*wanted)) < std::abs(rate(best_interval) - rate(*wanted));
    if (!best || (wanted ? nearer : better_rate(timings.interval, best_interval))) {
      best = entry;
      best_interval = timings.interval;
    }
  }
  return best;
}

void PortState::remember(const Device& device) {
  const std::optional<std::uint32_t> port = current_port(device);
  if (knows(port)) return;
  v4l2_std_id standard = 0;
  if (const auto timings = current_timings(device)) {
    settings_.push_back({.port = port, .timings = timings, .standard = {}});
  } else if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_STD), &standard) == 0) {
    settings_.push_back({.port = port, .timings = {}, .standard = standard});
  }
}

bool PortState::knows(std::optional<std::uint32_t> port) const noexcept {
  return std::any_of(settings_.begin(), settings_.end(), [&](const Remembered& r) { return r.port == port; });
}

void PortState::merge(const PortState& later) {
  for (const Remembered& entry : later.settings_) {
    if (!knows(entry.port)) settings_.push_back(entry);
  }
}

void PortState::restore(const Device& device) const noexcept {
  const auto go_to = [&](std::optional<std::uint32_t> port) {
    if (port && current_port(device) != port) (void)set_port(device, *port);
  };
  for (const Remembered& remembered : settings_) {
    go_to(remembered.port);
    v4l2_std_id standard = remembered.standard.value_or(0);
    if (standard != 0) (void)device.try_call(DMAFLOW_V4L2_OP(VIDIOC_S_STD), &standard);
    if (!remembered.timings) continue;
    const auto now = current_timings(device);
    if (now && describe(now->bt) != describe(remembered.timings->bt)) (void)set_timings(device, *remembered.timings);
  }
  go_to(port_);
}

}  // namespace dmaflow::v4l2
