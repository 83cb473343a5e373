#include "device.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include <fcntl.h>

namespace dmaflow::v4l2 {

bool SizeRange::contains(Size size) const noexcept {
  if (size.width < min.width || size.width > max.width || size.height < min.height || size.height > max.height)
    return false;
  return (size.width - min.width) % std::max(step.width, 1U) == 0 &&
         (size.height - min.height) % std::max(step.height, 1U) == 0;
}

std::vector<std::string> video_nodes() {
  std::vector<std::pair<int, std::string>> nodes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev", error)) {
    const std::string name = entry.path().filename();
    int number = 0;
    if (!name.starts_with("video")) continue;
    const auto [end, problem] = std::from_chars(name.data() + 5, name.data() + name.size(), number);
    if (problem == std::errc{} && end == name.data() + name.size()) nodes.emplace_back(number, entry.path());
  }
  std::sort(nodes.begin(), nodes.end());
  std::vector<std::string> result;
  result.reserve(nodes.size());
  for (auto& [number, path] : nodes) result.push_back(std::move(path));
  return result;
}

std::vector<DeviceInfo> list() {
  std::vector<DeviceInfo> result;
  for (const std::string& path : video_nodes()) {
    const Fd fd = Fd::adopt(std::max(sys::open(path.c_str(), O_RDWR | O_NONBLOCK), -1));
    DeviceInfo info;
    info.path = path;
    if (!fd || query(fd.get(), info) < 0) continue;
    if (info.capture != info.output) result.push_back(std::move(info));  // both: memory-to-memory, which is neither
  }
  return result;
}

}  // namespace dmaflow::v4l2
