#include "y4m.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace dmaflow::y4m {
namespace {

constexpr PixelFormat fourcc(const char (&text)[5]) noexcept {
  return PixelFormat::of(text[0], text[1], text[2], text[3]);
}

constexpr Mapping mono(PixelFormat format, const char* colour_space, std::uint8_t bytes) noexcept {
  return {.format = format,
          .colour_space = colour_space,
          .component_count = 1,
          .components = {Component{.step = bytes}},
          .sample_bytes = bytes};
}

/// @p cb, @p cr: the planes of Cb and Cr.
constexpr Mapping planar(PixelFormat format, const char* colour_space, std::uint8_t horizontal_sub,
                         std::uint8_t vertical_sub, std::uint8_t cb, std::uint8_t cr, std::uint8_t bytes = 1,
                         std::uint8_t shift = 0) noexcept {
  return {.format = format,
          .colour_space = colour_space,
          .components = {Component{.plane = 0, .step = bytes}, Component{.plane = cb, .step = bytes},
                         Component{.plane = cr, .step = bytes}},
          .horizontal_sub = horizontal_sub,
          .vertical_sub = vertical_sub,
          .sample_bytes = bytes,
          .shift = shift};
}

/// Chroma in pairs in plane 1; @p cb, @p cr: the index of Cb and Cr in a pair, 0 or 1.
constexpr Mapping pairs(PixelFormat format, const char* colour_space, std::uint8_t horizontal_sub,
                        std::uint8_t vertical_sub, std::uint8_t cb, std::uint8_t cr, std::uint8_t bytes = 1,
                        std::uint8_t shift = 0) noexcept {
  const auto pair = static_cast<std::uint8_t>(2 * bytes);
  return {.format = format,
          .colour_space = colour_space,
          .components = {Component{.plane = 0, .step = bytes},
                         Component{.plane = 1, .offset = static_cast<std::uint8_t>(cb * bytes), .step = pair},
                         Component{.plane = 1, .offset = static_cast<std::uint8_t>(cr * bytes), .step = pair}},
          .horizontal_sub = horizontal_sub,
          .vertical_sub = vertical_sub,
          .sample_bytes = bytes,
          .shift = shift};
}

/// Two pixels in four samples; @p y, @p cb, @p cr: the index of each component's first sample.
constexpr Mapping packed422(PixelFormat format, std::uint8_t y, std::uint8_t cb, std::uint8_t cr) noexcept {
  return {.format = format,
          .colour_space = "422",
          .components = {Component{.offset = y, .step = 2}, Component{.offset = cb, .step = 4},
                         Component{.offset = cr, .step = 4}},
          .horizontal_sub = 2};
}

/// All components of a pixel in @p step bytes; @p y, @p cb, @p cr: the index of each.
constexpr Mapping packed444(PixelFormat format, std::uint8_t step, std::uint8_t y, std::uint8_t cb,
                            std::uint8_t cr) noexcept {
  return {.format = format,
          .colour_space = "444",
          .components = {Component{.offset = y, .step = step}, Component{.offset = cb, .step = step},
                         Component{.offset = cr, .step = step}}};
}

// 4:2:0 is written as 420mpeg2: chroma on every other column, halfway between two rows, as in cameras and decoders
// (V4L2's default, MPEG-2, H.264) and as vulkan::Convert assumes. The bytes are in memory order; DRM's names describe
// the bits of a little-endian word (drm_fourcc.h).
constexpr Mapping mappings[] = {
    planar(fourcc("YU12"), "420mpeg2", 2, 2, 1, 2),
    planar(fourcc("YV12"), "420mpeg2", 2, 2, 2, 1),
    pairs(fourcc("NV12"), "420mpeg2", 2, 2, 0, 1),
    pairs(fourcc("NV21"), "420mpeg2", 2, 2, 1, 0),
    planar(fourcc("YU11"), "411", 4, 1, 1, 2),
    planar(fourcc("YV11"), "411", 4, 1, 2, 1),
    planar(fourcc("YU16"), "422", 2, 1, 1, 2),
    planar(fourcc("YV16"), "422", 2, 1, 2, 1),
    pairs(fourcc("NV16"), "422", 2, 1, 0, 1),
    pairs(fourcc("NV61"), "422", 2, 1, 1, 0),
    packed422(fourcc("YUYV"), 0, 1, 3),
    packed422(fourcc("YVYU"), 0, 3, 1),
    packed422(fourcc("UYVY"), 1, 0, 2),
    packed422(fourcc("VYUY"), 1, 2, 0),
    planar(fourcc("YU24"), "444", 1, 1, 1, 2),
    planar(fourcc("YV24"), "444", 1, 1, 2, 1),
    pairs(fourcc("NV24"), "444", 1, 1, 0, 1),
    pairs(fourcc("NV42"), "444", 1, 1, 1, 0),
    packed444(fourcc("XYUV"), 4, 2, 1, 0),
    packed444(fourcc("XVUY"), 4, 0, 1, 2),
    packed444(fourcc("VU24"), 3, 0, 1, 2),
    pairs(fourcc("P010"), "420p10", 2, 2, 0, 1, 2, 6),
    pairs(fourcc("P012"), "420p12", 2, 2, 0, 1, 2, 4),
    pairs(fourcc("P016"), "420p16", 2, 2, 0, 1, 2),
    pairs(fourcc("P210"), "422p10", 2, 1, 0, 1, 2, 6),
    planar(fourcc("Q410"), "444p10", 1, 1, 1, 2, 2, 6),
    planar(fourcc("Q401"), "444p10", 1, 1, 2, 1, 2, 6),
    mono(fourcc("R8  "), "mono", 1),
    mono(fourcc("R10 "), "mono10", 2),
    mono(fourcc("R12 "), "mono12", 2),
    mono(fourcc("R16 "), "mono16", 2),
};

}  // namespace

const Mapping* mapping_of(PixelFormat format) noexcept {
  const auto* found = std::ranges::find(mappings, format, &Mapping::format);
  return found == std::end(mappings) ? nullptr : found;
}

std::string format_names() {
  std::string names;
  for (const Mapping& mapping : mappings) names += (names.empty() ? "" : " ") + mapping.format.name();
  return names;
}

std::string header(const Mapping& mapping, Size size, Interval interval, ColorInfo::Range range) {
  if (interval.numerator == 0 || interval.denominator == 0) interval = {.numerator = 1, .denominator = 30};
  const std::uint32_t common = std::gcd(interval.numerator, interval.denominator);
  std::string text = "YUV4MPEG2 W" + std::to_string(size.width) + " H" + std::to_string(size.height);
  text += " F" + std::to_string(interval.denominator / common) + ":" + std::to_string(interval.numerator / common);
  text += std::string(" Ip A0:0 C") + mapping.colour_space;
  if (range == ColorInfo::Range::full) text += " XCOLORRANGE=FULL";
  if (range == ColorInfo::Range::limited) text += " XCOLORRANGE=LIMITED";
  return text + "\n";
}

Size component_size(const Mapping& mapping, std::size_t component, Size picture) noexcept {
  if (component == 0) return picture;
  return {.width = (picture.width + mapping.horizontal_sub - 1) / mapping.horizontal_sub,
          .height = (picture.height + mapping.vertical_sub - 1) / mapping.vertical_sub};
}

void copy_row(const Mapping& mapping, std::size_t component, std::span<const std::byte> row, std::size_t first,
              std::span<std::byte> out) noexcept {
  const Component& where = mapping.components[component];
  const std::byte* in = row.data() + where.offset + first * where.step;
  if (where.step == mapping.sample_bytes && mapping.shift == 0) {
    std::memcpy(out.data(), in, out.size());
    return;
  }
  if (mapping.sample_bytes == 1) {
    for (std::byte& sample : out) {
      sample = *in;
      in += where.step;
    }
    return;
  }
  for (std::size_t i = 0; i < out.size(); i += 2, in += where.step) {
    const auto word = std::to_integer<unsigned>(in[0]) | std::to_integer<unsigned>(in[1]) << 8U;
    const unsigned value = word >> mapping.shift;
    out[i] = static_cast<std::byte>(value & 0xffU);
    out[i + 1] = static_cast<std::byte>(value >> 8U);
  }
}

}  // namespace dmaflow::y4m
