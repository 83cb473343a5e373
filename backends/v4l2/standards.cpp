#include "standards.hpp"

#include "interval.hpp"
#include "ports.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::v4l2 {
namespace {

Error standard_error(const Device& device, int code, const char* operation) {
  Error error = device.error(code, operation);
  if (code == ENODATA || code == ENOTTY) error.detail("this port has no TV standards");
  if (code == ENOLINK) error.detail("no signal on this input");
  return error;
}

/// The listed standard equal to @p set, else the first one in it: drivers report what they detect as a set of
/// standards.
Result<Standard> first_of(const Device& device, v4l2_std_id set, const char* operation) {
  const std::vector<Standard> all = list_standards(device);
  auto found = std::find_if(all.begin(), all.end(), [&](const Standard& standard) { return standard.id == set; });
  if (found == all.end()) {
    found = std::find_if(all.begin(), all.end(), [&](const Standard& standard) { return (standard.id & set) != 0; });
  }
  if (found == all.end()) return std::unexpected(standard_error(device, ENODATA, operation));
  return *found;
}

}  // namespace

std::vector<Standard> list_standards(const Device& device) {
  std::vector<Standard> list;
  constexpr std::uint32_t most = 256;  // a limit for drivers that never return EINVAL
  for (std::uint32_t index = 0; index < most; ++index) {
    v4l2_standard entry{};
    entry.index = index;
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_ENUMSTD), &entry) < 0) break;
    list.push_back({.id = entry.id,
                    .name = text(entry.name),
                    .interval = reduced(entry.frameperiod.numerator, entry.frameperiod.denominator),
                    .lines = entry.framelines});
  }
  return list;
}

Result<Standard> find_standard(const Device& device, std::string_view name) {
  const std::vector<Standard> all = list_standards(device);
  if (all.empty()) return std::unexpected(standard_error(device, ENODATA, "VIDIOC_S_STD"));
  std::string names;
  for (const Standard& standard : all) {
    if (!name.empty() && begins_with(standard.name, name)) return standard;
    names += (names.empty() ? "" : ", ") + standard.name;
  }
  return std::unexpected(
      device.error(EINVAL, "VIDIOC_S_STD")
          .detail("no standard \"%.*s\"; it has: %s", static_cast<int>(name.size()), name.data(), names.c_str()));
}

Result<Standard> current_standard(const Device& device) {
  v4l2_std_id id = 0;
  const int result = device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_STD), &id);
  if (result < 0) return std::unexpected(standard_error(device, -result, "VIDIOC_G_STD"));
  return first_of(device, id, "VIDIOC_G_STD");
}

Result<Standard> detect_standard(const Device& device) {
  v4l2_std_id id = 0;
  const int result = device.try_call(DMAFLOW_V4L2_OP(VIDIOC_QUERYSTD), &id);
  if (result < 0) return std::unexpected(standard_error(device, -result, "VIDIOC_QUERYSTD"));
  if (id == V4L2_STD_UNKNOWN) return std::unexpected(standard_error(device, ENOLINK, "VIDIOC_QUERYSTD"));
  return first_of(device, id, "VIDIOC_QUERYSTD");
}

Result<void> set_standard(const Device& device, std::uint64_t id) noexcept {
  v4l2_std_id copy = id;
  return device.call(DMAFLOW_V4L2_OP(VIDIOC_S_STD), &copy);
}

}  // namespace dmaflow::v4l2
