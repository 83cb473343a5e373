// The cards of this machine.
#include "drm_ioctl.hpp"
#include "impl.hpp"

#include "sys/sys.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include <drm.h>
#include <fcntl.h>

namespace dmaflow::kms {
namespace {

Card read_card(const std::string& path) {
  Card card{.path = path, .driver = {}, .connectors = {}, .error = {}};
  const Fd fd = Fd::adopt(sys::open(path.c_str(), O_RDWR | O_NONBLOCK));
  if (!fd) {
    card.error = Error::os(-fd.get(), "open", path);
    return card;
  }
  DrmFile file;
  file.fd = fd.get();
  file.name = path;
  card.driver = driver_of(fd.get());
  // Otherwise primary planes are hidden, and with them most displays.
  drm_set_client_cap planes{.capability = DRM_CLIENT_CAP_UNIVERSAL_PLANES, .value = 1};
  if (drm_ioctl(fd.get(), DRM_IOCTL_SET_CLIENT_CAP, &planes) < 0) return card;
  auto objects = read_objects(file);
  if (!objects) {
    if (objects.error().code() != ENODEV && objects.error().code() != EOPNOTSUPP) card.error = objects.error();
    return card;
  }
  for (const ConnectorObject& connector : objects->connectors) card.connectors.push_back(describe(connector));
  return card;
}

}  // namespace

std::string driver_of(int fd) {
  std::array<char, 64> name{};
  drm_version version{};
  version.name = name.data();
  version.name_len = name.size() - 1;
  return drm_ioctl(fd, DRM_IOCTL_VERSION, &version) < 0 ? std::string() : std::string(name.data());
}

std::vector<std::string> card_paths() {
  std::vector<std::pair<unsigned long, std::string>> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/dri", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("card") || name.find_first_not_of("0123456789", 4) != std::string::npos) continue;
    found.emplace_back(std::strtoul(name.c_str() + 4, nullptr, 10), entry.path().string());
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> paths;
  for (auto& [number, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::vector<Card> list() {
  std::vector<Card> cards;
  for (const std::string& path : card_paths()) cards.push_back(read_card(path));
  return cards;
}

}  // namespace dmaflow::kms
