// The ways to get a gbm_device: a node by its path, the first that works, or one that someone else made.
#include "impl.hpp"

#include "access_help.hpp"
#include "errno_name.hpp"
#include "sys/drm_ioctl.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <drm.h>
#include <fcntl.h>
#include <gbm.h>

namespace dmaflow::gbm {
namespace {

/// "cardN", then "renderDN", each in order.
std::vector<std::string> node_paths(const std::string& directory) {
  std::vector<std::string> paths;
  for (const std::string_view kind : {"card", "renderD"}) {
    std::vector<std::pair<unsigned long, std::string>> found;
    std::error_code error;
    std::filesystem::directory_iterator entry(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      if (!name.starts_with(kind) || name.find_first_not_of("0123456789", kind.size()) != std::string::npos) continue;
      found.emplace_back(std::strtoul(name.c_str() + kind.size(), nullptr, 10), entry->path().string());
    }
    std::ranges::sort(found);
    for (auto& [number, path] : found) paths.push_back(std::move(path));
  }
  return paths;
}

Error open_refused(int error, const std::string& path, const Options& options) {
  Error result = Error::os(-error, "open", path);
  if (error == -ENOENT) {
    std::string nodes;
    for (const std::string& node : node_paths(options.directory)) nodes.append(nodes.empty() ? "" : ", ").append(node);
    result.detail("no such node; this machine has %s", nodes.empty() ? "none" : nodes.c_str());
  } else if (error == -EACCES || error == -EPERM) {
    const bool is_render = path.find("renderD") != std::string::npos;
    const char* const match =
        is_render ? R"(SUBSYSTEM=="drm", KERNEL=="renderD*")" : R"(SUBSYSTEM=="drm", KERNEL=="card*")";
    result.detail("%s", detail::access_help(path, match).c_str());
  }
  return result;
}

/// A program that opens a primary node without a master becomes its master, even if it does not want to. Only a master
/// may authenticate others; everyone else gets EACCES, also on render nodes, which have no master. Magic 0 is never
/// valid, so nothing is changed.
Result<void> give_up_mastership(const GbmFile& file) {
  drm_auth request{.magic = 0};
  if (sys::drm_ioctl(file.fd, DRM_IOCTL_AUTH_MAGIC, &request) == -EACCES) return {};
  const int result = sys::ioctl_value(file.fd, DRM_IOCTL_DROP_MASTER, 0);
  if (result == 0 || result == -EINVAL) return {};  // EINVAL: it is not master after all
  return std::unexpected(file.error(-EBUSY, "DRM_IOCTL_DROP_MASTER")
                             .detail("opening the node made this program its master, and that cannot be given up "
                                     "(errno %d): no display program could use it",
                                     -result));
}

Result<void> look_at(GbmFile& file, const std::string& path) {
  if (const int result = driver_of(file.fd, file.driver); result < 0) {
    Error error = Error::os(-result, "DRM_IOCTL_VERSION", path);
    if (result == -ENOTTY) error.detail("not a DRM device: use /dev/dri/cardN or renderDN");
    return std::unexpected(error);
  }
  file.name = path + " (" + file.driver + ")";
  return {};
}

/// Whether it can really allocate memory: render nodes of display drivers can be opened, but then cannot allocate.
Result<void> try_it(Device& device) {
  Request request;
  request.size = {64, 64};
  request.format = formats::xrgb8888;
  request.modifiers = {Modifier::linear(), Modifier::implicit()};
  const auto made = device.allocator().allocate(request);
  if (!made) return std::unexpected(made.error());
  return {};
}

Result<std::unique_ptr<Device>> open_first(const Options& options) {
  const auto nodes = node_paths(options.directory);
  if (nodes.empty()) {
    return std::unexpected(Error::os(ENOENT, "open", options.directory).detail("no DRM node (cardN, renderDN) there"));
  }
  std::string reasons;
  for (const std::string& path : nodes) {
    auto device = Device::open(path, options);
    Result<void> works = device ? try_it(**device) : std::unexpected(device.error());
    if (works) return device;
    const Error& why = works.error();
    reasons.append(reasons.empty() ? "" : "; ").append(path).append(": ").append(why.operation());
    const char* name = dmaflow::detail::errno_name(why.code());
    reasons.append(" ").append(name != nullptr ? name : std::to_string(why.code()));
  }
  return std::unexpected(Error::os(ENODEV, "open", options.directory).detail("no node works: %s", reasons.c_str()));
}

}  // namespace

int driver_of(int fd, std::string& driver) {
  std::array<char, 64> name{};
  drm_version version{};
  version.name = name.data();
  version.name_len = name.size() - 1;
  const int result = sys::drm_ioctl(fd, DRM_IOCTL_VERSION, &version);
  if (result == 0) driver = name.data();
  // Files other than DRM devices have other ioctls with these numbers, or none.
  return result == -EINVAL ? -ENOTTY : result;
}

Result<std::unique_ptr<Device>> Device::open(const std::string& path, const Options& options) {
  if (path.empty()) return open_first(options);
  Fd fd = Fd::adopt(sys::open(path.c_str(), O_RDWR));
  if (!fd) return std::unexpected(open_refused(fd.get(), path, options));
  auto impl = std::make_unique<Impl>();
  GbmFile& file = impl->file;
  file.fd = fd.get();
  if (auto looked = look_at(file, path); !looked) return std::unexpected(looked.error());
  if (auto given_up = give_up_mastership(file); !given_up) return std::unexpected(given_up.error());
  errno = 0;
  file.device = gbm_create_device(fd.get());
  if (file.device == nullptr) {
    const int code = errno;
    return std::unexpected(
        file.error(code != 0 ? -code : -ENODEV, "gbm_create_device").detail("libgbm has no driver for this device"));
  }
  file.gem = GemRegistry::create(fd.get());
  impl->owned = std::move(fd);
  return std::unique_ptr<Device>(new Device(std::move(impl)));
}

Result<std::unique_ptr<Device>> Device::adopt(gbm_device* device, std::shared_ptr<GemRegistry> gem) {
  if (device == nullptr || gem == nullptr) {
    return std::unexpected(Error::os(EINVAL, "adopt", "gbm_device")
                               .detail(device == nullptr ? "no gbm_device" : "no registry of its DRM file's handles"));
  }
  auto impl = std::make_unique<Impl>();
  GbmFile& file = impl->file;
  file.fd = gbm_device_get_fd(device);
  if (auto looked = look_at(file, "adopted gbm_device"); !looked) return std::unexpected(looked.error());
  file.device = device;
  file.gem = std::move(gem);
  return std::unique_ptr<Device>(new Device(std::move(impl)));
}

}  // namespace dmaflow::gbm
