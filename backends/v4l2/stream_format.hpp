// StreamFormat: a v4l2_format, single- or multi-planar, read as a StreamConfig and made from one.
//
// bytesperline and sizeimage come from the driver. Only if the planes of a format share one buffer is the rest
// computed: the planes follow one another, and the strides of the others follow from the first (videodev2.h says
// nothing; Documentation/userspace-api/media/v4l/pixfmt-yuv-planar.rst does).
#pragma once

#include "device.hpp"

#include <dmaflow/device.hpp>

#include <array>
#include <cstdint>

namespace dmaflow::v4l2 {

struct StreamFormat {
  v4l2_format raw{};
  std::uint32_t code = 0;
  Size size;
  std::uint32_t field = 0;
  std::uint32_t planes = 1;  ///< buffers per frame, V4L2's "planes"
  std::array<std::uint32_t, max_planes> bytes_per_line{};
  std::array<std::uint32_t, max_planes> size_image{};
  /// Which plane of the layout begins in each V4L2 plane.
  std::array<std::uint32_t, max_planes> first_plane{};

  /// G_FMT. Errors: EINVAL (the driver's answer makes no sense).
  static Result<StreamFormat> get(const Device& device) noexcept;
  /// S_FMT with @p code, the size of @p layout, and those of its strides that are not 0.
  static Result<StreamFormat> set(const Device& device, const Layout& layout, const Format& code) noexcept;
  /// TRY_FMT: what set() would return.
  static Result<StreamFormat> probe(const Device& device, const Layout& layout, const Format& code) noexcept;
  /// Reads a driver's answer.
  static Result<StreamFormat> read(const v4l2_format& raw, const Device& device) noexcept;

  /// Layout, constraints and colour, as the driver set them.
  [[nodiscard]] Result<StreamConfig> config(const Device& device) const noexcept;
  /// Colour, as the driver describes it.
  [[nodiscard]] ColorInfo color(const Device& device) const noexcept;
  /// Checks that a buffer has the layout of @p config and is as large as the driver needs. EINVAL with both numbers.
  [[nodiscard]] Result<void> check(const Buffer& buffer, const StreamConfig& config,
                                   const Device& device) const noexcept;
  /// False if a buffer holds one field, or two fields one after the other: a display cannot show such a buffer.
  [[nodiscard]] bool has_full_frames() const noexcept {
    return field == V4L2_FIELD_NONE || field == V4L2_FIELD_ANY || field == V4L2_FIELD_INTERLACED ||
           field == V4L2_FIELD_INTERLACED_TB || field == V4L2_FIELD_INTERLACED_BT;
  }
  /// The object of a buffer that holds V4L2 plane @p plane.
  [[nodiscard]] std::uint32_t object_of(const Buffer& buffer, std::uint32_t plane) const noexcept {
    return buffer.layout().planes[first_plane[plane]].object;
  }
};

}  // namespace dmaflow::v4l2
