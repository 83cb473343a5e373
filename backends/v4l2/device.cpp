#include "device.hpp"

#include "none_usable.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

namespace dmaflow::v4l2 {
namespace {

/// The path of a descriptor, or "fd 5".
std::string path_of(int fd) {
  char target[256];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(link.c_str(), target, sizeof target);
  if (length > 0 && target[0] == '/') return {target, static_cast<std::size_t>(length)};
  return "fd " + std::to_string(fd);
}

/// The group that owns a device node; "video" if it cannot be determined.
std::string group_of(const std::string& path) {
  struct stat status{};
  group entry{};
  group* found = nullptr;
  char text[1024];
  if (::stat(path.c_str(), &status) == 0 && ::getgrgid_r(status.st_gid, &entry, text, sizeof text, &found) == 0 &&
      found != nullptr) {
    return found->gr_name;
  }
  return "video";
}

Error open_error(int code, const std::string& path) {
  Error error = Error::os(code, "open", path);
  if (code == EACCES || code == EPERM) {
    const std::string group = group_of(path);
    error.detail(
        "you lack the right to open this device: it belongs to the group `%s`; add yourself to it (sudo usermod -aG %s "
        "$USER) and log in again, or log in at the machine's own seat, whose user gets the right from systemd-logind",
        group.c_str(), group.c_str());
  }
  if (code == ENOENT) error.detail("no such device node; v4l2::list() names those of this machine");
  if (code == EBUSY) error.detail("another program has it open, and the driver allows only one");
  if (code == ENXIO || code == ENODEV)
    error.detail("the node is there, but no device behind it: is it unplugged, or its driver not loaded?");
  return error;
}

constexpr detail::Search cameras{
    .what = "camera",
    .nodes = "/dev/video*",
    .advice = "plug one in, or load a virtual one (sudo modprobe vivid), or name one by its path"};
constexpr detail::Search outputs{.what = "video output", .nodes = "/dev/video*", .advice = cameras.advice};

/// True if another program owns the queue: it would refuse the stream later. A request for 0 buffers changes nothing.
bool is_busy(const Device& device) noexcept {
  v4l2_requestbuffers none{};
  none.type = device.buffer_type();
  none.memory = V4L2_MEMORY_MMAP;
  return device.try_call(DMAFLOW_V4L2_OP(VIDIOC_REQBUFS), &none) == -EBUSY;
}

/// @p error: why the node could not be opened as the wanted kind of device.
detail::Unusable unusable(const std::string& node, const Error& error) {
  // Devices of the other direction, codecs, radios and nodes without a device are not candidates.
  const bool is_other = error.operation() == "VIDIOC_QUERYCAP" || error.code() == ENXIO || error.code() == ENODEV ||
                        error.code() == ENOENT;
  std::string why(error.detail());
  if (why.starts_with("it is ")) why.erase(0, 6);
  if (!is_other || why.empty()) {
    why = std::string(error.operation()) + ": " + std::string(error.code_name()) + (why.empty() ? "" : ": ") + why;
  }
  return {.node = node, .why = std::move(why), .code = is_other ? 0 : error.code()};
}

}  // namespace

int query(int fd, DeviceInfo& info) noexcept {
  v4l2_capability caps{};
  const int result = sys::ioctl(fd, VIDIOC_QUERYCAP, &caps);
  if (result < 0) return result;
  // device_caps describes this node, capabilities the whole device; drivers before 3.4 have only the latter
  const std::uint32_t bits = (caps.capabilities & V4L2_CAP_DEVICE_CAPS) != 0 ? caps.device_caps : caps.capabilities;
  info.driver = text(caps.driver);
  info.card = text(caps.card);
  info.bus = text(caps.bus_info);
  info.capture = (bits & (V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_VIDEO_CAPTURE_MPLANE)) != 0;
  info.output = (bits & (V4L2_CAP_VIDEO_OUTPUT | V4L2_CAP_VIDEO_OUTPUT_MPLANE)) != 0;
  const bool single = (bits & (V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_VIDEO_OUTPUT)) != 0;
  info.multiplanar = !single && (bits & (V4L2_CAP_VIDEO_CAPTURE_MPLANE | V4L2_CAP_VIDEO_OUTPUT_MPLANE)) != 0;
  info.streaming = (bits & V4L2_CAP_STREAMING) != 0;
  info.needs_media_controller = (bits & V4L2_CAP_IO_MC) != 0;
  return 0;
}

Result<Device> Device::open_first(std::span<const std::string> nodes, Direction direction) {
  std::vector<detail::Unusable> looked_at;
  std::optional<Device> second_best;
  for (const std::string& node : nodes) {
    auto device = open(node, direction);
    if (!device) {
      looked_at.push_back(unusable(node, device.error()));
    } else if (is_busy(*device)) {
      looked_at.push_back(unusable(node, device->error(EBUSY, DMAFLOW_V4L2_OP(VIDIOC_REQBUFS))));
    } else if (!device->info().needs_media_controller) {
      return device;
    } else if (!second_best) {
      second_best = std::move(*device);
    }
  }
  if (second_best) return std::move(*second_best);
  return std::unexpected(detail::none_usable(direction == Direction::capture ? cameras : outputs, looked_at));
}

Result<Device> Device::open(std::string_view path, Direction direction) {
  if (path.empty()) return open_first(video_nodes(), direction);
  std::string name(path);
  const int fd = sys::open(name.c_str(), O_RDWR | O_NONBLOCK);
  if (fd < 0) return std::unexpected(open_error(-fd, name));
  return identify(Fd::adopt(fd), std::move(name), direction);
}

Result<Device> Device::adopt(Fd fd, Direction direction) {
  const int flags = sys::fcntl(fd.get(), F_GETFL, 0);
  if (flags < 0) return std::unexpected(Error::os(-flags, "fcntl", "adopted descriptor").detail("it is not open"));
  std::string path = path_of(fd.get());
  if ((flags & O_NONBLOCK) == 0) {
    const int result = sys::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
    if (result < 0) return std::unexpected(Error::os(-result, "fcntl", path).detail("cannot set O_NONBLOCK"));
  }
  return identify(std::move(fd), std::move(path), direction);
}

Result<Device> Device::identify(Fd fd, std::string path, Direction direction) {
  Device device;
  device.fd_ = std::move(fd);
  device.direction_ = direction;
  device.info_.path = path;
  const int result = query(device.fd_.get(), device.info_);
  if (result == -ENOTTY || result == -EINVAL) {
    return std::unexpected(Error::os(ENOTTY, "VIDIOC_QUERYCAP", path).detail("it is not a V4L2 device"));
  }
  if (result < 0) return std::unexpected(Error::os(-result, "VIDIOC_QUERYCAP", path));
  const DeviceInfo& info = device.info_;
  device.name_ = path + " (" + info.driver + ")";

  const bool wanted = direction == Direction::capture ? info.capture : info.output;
  if (!wanted || (info.capture && info.output)) {
    const char* kind = info.capture && info.output ? "a memory-to-memory device (a codec or converter)"
                       : info.capture              ? "a capture device: open it as v4l2::Camera"
                       : info.output               ? "a video output device: open it as v4l2::Output"
                                                   : "neither a video capture nor a video output device";
    return std::unexpected(Error::os(EINVAL, "VIDIOC_QUERYCAP", device.name_).detail("it is %s", kind));
  }
  if (!info.streaming) {
    return std::unexpected(Error::os(ENOTSUP, "VIDIOC_QUERYCAP", device.name_)
                               .detail("it has no streaming I/O, only read() and write(), which copy"));
  }
  return device;
}

std::uint32_t Device::selection_type() const noexcept {
  return direction_ == Direction::capture ? V4L2_BUF_TYPE_VIDEO_CAPTURE : V4L2_BUF_TYPE_VIDEO_OUTPUT;
}

Error Device::error(int code, const char* operation) const noexcept {
  Error error = Error::os(code, operation, name_);
  if (code == EBUSY) {
    error.detail(
        "it is in use: another program, or another object of this one, streams from it or holds its buffers; close "
        "that one (fuser -v %s names the program)",
        info_.path.c_str());
  }
  if (code == ENODEV) error.detail("the device is gone: unplugged, or its driver unloaded");
  return error;
}

}  // namespace dmaflow::v4l2
