// Device: an open video node of one direction. All ioctls on it go through this class.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/v4l2.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <linux/videodev2.h>

namespace dmaflow::v4l2 {

/// An ioctl with its name, for errors.
struct Operation {
  unsigned long request;
  const char* name;
};
#define DMAFLOW_V4L2_OP(request) (::dmaflow::v4l2::Operation{request, #request})

/// A string field of a V4L2 structure; it ends at a zero or at the end of the field.
template <std::size_t N>
std::string text(const __u8 (&field)[N]) {
  const char* begin = reinterpret_cast<const char*>(field);
  return {begin, strnlen(begin, N)};
}

enum class Direction : std::uint8_t { capture, output };

/// Owns the descriptor. Moved only before use.
class Device {
 public:
  /// @p path: empty = the first suitable device.
  static Result<Device> open(std::string_view path, Direction direction);
  /// The first of @p nodes that has the direction and is not in use; those that need the media controller come last.
  /// Errors: those of Camera::open() with an empty path.
  static Result<Device> open_first(std::span<const std::string> nodes, Direction direction);
  static Result<Device> adopt(Fd fd, Direction direction);

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const DeviceInfo& info() const noexcept { return info_; }
  [[nodiscard]] Direction direction() const noexcept { return direction_; }
  [[nodiscard]] bool multiplanar() const noexcept { return info_.multiplanar; }
  /// V4L2_BUF_TYPE_* of its queue.
  [[nodiscard]] std::uint32_t buffer_type() const noexcept {
    if (direction_ == Direction::capture) {
      return multiplanar() ? V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE : V4L2_BUF_TYPE_VIDEO_CAPTURE;
    }
    return multiplanar() ? V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE : V4L2_BUF_TYPE_VIDEO_OUTPUT;
  }
  /// V4L2_BUF_TYPE_* for the selection API; older kernels accept only the single-planar types there.
  [[nodiscard]] std::uint32_t selection_type() const noexcept;

  /// Makes the ioctl; the error says what each errno means on any V4L2 device.
  template <typename T>
  Result<void> call(Operation operation, T* argument) const noexcept {
    const int result = try_call(operation, argument);
    if (result < 0) return std::unexpected(error(-result, operation));
    return {};
  }
  /// Makes the ioctl: 0 or more, or -errno.
  int try_call(Operation operation, void* argument) const noexcept {
    return sys::ioctl(fd_.get(), operation.request, argument);
  }
  [[nodiscard]] Error error(int code, Operation operation) const noexcept { return error(code, operation.name); }
  [[nodiscard]] Error error(int code, const char* operation) const noexcept;

 private:
  Device() = default;
  static Result<Device> identify(Fd fd, std::string path, Direction direction);

  Fd fd_;
  Direction direction_ = Direction::capture;
  DeviceInfo info_;
  std::string name_;  // "/dev/video0 (vivid)"
};

/// The nodes /dev/videoN, by number.
std::vector<std::string> video_nodes();

/// Fills @p info from QUERYCAP. Returns 0 or -errno.
int query(int fd, DeviceInfo& info) noexcept;

}  // namespace dmaflow::v4l2
