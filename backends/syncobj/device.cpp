// The DRM file: opened or adopted, asked for its capabilities, closed with the last timeline.
#include "access_help.hpp"
#include "syncobj.hpp"
#include "sys/sys.hpp"

#include <array>
#include <cerrno>

#include <fcntl.h>

namespace dmaflow {
namespace {

/// "virtio_gpu", or an Error if the file is not a DRM device.
Result<std::string> driver_of(int fd, const std::string& name) {
  std::array<char, 64> text{};
  drm_version version{};
  version.name = text.data();
  version.name_len = text.size() - 1;
  if (const int result = sys::ioctl(fd, DRM_IOCTL_VERSION, &version); result < 0) {
    Error error = Error::os(-result, "DRM_IOCTL_VERSION", name);
    if (result == -ENOTTY || result == -EINVAL) {
      error = Error::os(ENOTTY, "DRM_IOCTL_VERSION", name).detail("not a DRM device: give a /dev/dri/renderD* node");
    }
    return std::unexpected(error);
  }
  return std::string(text.data());
}

bool has(int fd, std::uint64_t capability) noexcept {
  drm_get_cap asked{.capability = capability, .value = 0};
  return sys::ioctl(fd, DRM_IOCTL_GET_CAP, &asked) == 0 && asked.value != 0;
}

/// Takes the file if it can do what is needed.
Result<std::shared_ptr<detail::SyncobjFile>> looked_at(Fd& fd, const std::string& name) {
  const auto driver = driver_of(fd.get(), name);
  if (!driver) return std::unexpected(driver.error());
  const std::string full_name = name + " (" + *driver + ")";
  if (!has(fd.get(), DRM_CAP_SYNCOBJ)) {
    return std::unexpected(
        Error::os(EOPNOTSUPP, "DRM_CAP_SYNCOBJ", full_name)
            .detail("this driver has no syncobjs; use the node of another DRM device, such as a GPU's: "
                    "timelines need not be on the device whose work they order"));
  }
  const bool timelines = has(fd.get(), DRM_CAP_SYNCOBJ_TIMELINE);
  auto file = std::make_shared<detail::SyncobjFile>(std::move(fd), full_name);
  file->timelines = timelines;
  return file;
}

}  // namespace

namespace detail {

SyncobjFile::~SyncobjFile() {
  if (scratch == 0) return;
  drm_syncobj_destroy destroy{.handle = scratch, .pad = 0};
  sys::ioctl(fd.get(), DRM_IOCTL_SYNCOBJ_DESTROY, &destroy);  // the file may be shared, and then outlives us
}

Error SyncobjFile::error(int negative_errno, const char* operation, std::uint64_t point) const noexcept {
  Error error = Error::os(-negative_errno, operation, name);
  const auto value = static_cast<unsigned long long>(point);
  if (negative_errno == -EOPNOTSUPP && !timelines) {
    error.detail("this driver has binary syncobjs only: use point 0, or a device with DRM_CAP_SYNCOBJ_TIMELINE");
  } else if (negative_errno == -ENOENT) {
    error.detail("the handle is gone: somebody who shares the DRM file has destroyed it");
  } else if (point != 0) {
    error.detail("point %llu", value);
  }
  return error;
}

}  // namespace detail

Result<SyncobjDevice> SyncobjDevice::open(const std::string& path) {
  const int number = sys::open(path.c_str(), O_RDWR);
  if (number < 0) {
    Error error = Error::os(-number, "open", path);
    if (number == -EACCES || number == -EPERM) {
      error.detail("%s", detail::access_help(path, R"(SUBSYSTEM=="drm", KERNEL=="renderD*")").c_str());
    } else if (number == -ENOENT) {
      error.detail("/dev/dri has a renderD* or card* node for each GPU and display");
    }
    return std::unexpected(error);
  }
  Fd fd = Fd::adopt(number);
  auto file = looked_at(fd, path);
  if (!file) return std::unexpected(file.error());
  return SyncobjDevice(std::move(*file));
}

Result<SyncobjDevice> SyncobjDevice::adopt(Fd& fd) {
  auto file = looked_at(fd, "descriptor " + std::to_string(fd.get()));
  if (!file) return std::unexpected(file.error());
  return SyncobjDevice(std::move(*file));
}

Result<SyncobjDevice> SyncobjDevice::dup_of(int fd) {
  auto copy = Fd::dup_of(fd);
  if (!copy) return std::unexpected(copy.error());
  auto file = looked_at(*copy, "descriptor " + std::to_string(fd));
  if (!file) return std::unexpected(file.error());
  return SyncobjDevice(std::move(*file));
}

bool SyncobjDevice::has_timelines() const noexcept { return file_ && file_->timelines; }
std::string_view SyncobjDevice::name() const noexcept { return file_ ? std::string_view(file_->name) : ""; }
int SyncobjDevice::fd() const noexcept { return file_ ? file_->fd.get() : -1; }

}  // namespace dmaflow
