// YUV4MPEG2 ("y4m"): the formats it supports, its header, and the conversion of pixels into its order.
//
// A file is one line that describes the stream, then for each frame the line "FRAME" and the planes Y, Cb, Cr one after
// another, rows without padding. Samples of more than 8 bits are 16-bit little-endian words with the value in the low
// bits. The names of the colour spaces, and XCOLORRANGE, are those that FFmpeg reads (libavformat/yuv4mpegdec.c).
#pragma once

#include <dmaflow/device.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace dmaflow::y4m {

/// Where a component's samples are in a buffer.
struct Component {
  std::uint8_t plane = 0;
  std::uint8_t offset = 0;  ///< bytes from the start of a row to its first sample
  std::uint8_t step = 1;    ///< bytes from one sample to the next
};

/// How a pixel format becomes a y4m stream.
struct Mapping {
  PixelFormat format;
  const char* colour_space = "";  ///< after the header's C
  std::uint8_t component_count = 3;
  std::array<Component, 3> components{};  ///< Y, Cb, Cr
  std::uint8_t horizontal_sub = 1;        ///< of chroma
  std::uint8_t vertical_sub = 1;
  std::uint8_t sample_bytes = 1;
  std::uint8_t shift = 0;  ///< of samples of two bytes: bits below the value
};

/// nullptr if y4m does not support @p format.
[[nodiscard]] const Mapping* mapping_of(PixelFormat format) noexcept;
/// "NV12 NV21 ...": all formats that it supports.
[[nodiscard]] std::string format_names();

/// The first line. If the interval is not stated, it is written as 30 frames a second.
[[nodiscard]] std::string header(const Mapping& mapping, Size size, Interval interval, ColorInfo::Range range);

/// The number of samples of a component of a picture, horizontally and vertically.
[[nodiscard]] Size component_size(const Mapping& mapping, std::size_t component, Size picture) noexcept;

/// Copies a row of a component. @p row: the plane's row, from its start. @p first: the first sample to copy. @p out:
/// its size is the number of bytes to write.
void copy_row(const Mapping& mapping, std::size_t component, std::span<const std::byte> row, std::size_t first,
              std::span<std::byte> out) noexcept;

}  // namespace dmaflow::y4m
