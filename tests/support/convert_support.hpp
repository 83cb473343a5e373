// Shared by the tests of the GPU stage: a reference computed in double precision from the standards' formulas, and a
// stage outside any pipeline.
#pragma once

#include "vulkan_support.hpp"

#include <dmaflow/vulkan_convert.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace dmaflow::test {

using namespace std::chrono_literals;
using vulkan::Convert;
using vulkan::ConvertOptions;
using vulkan::Rotation;

constexpr PixelFormat code(const char (&text)[5]) { return PixelFormat::of(text[0], text[1], text[2], text[3]); }

/// Where chroma samples lie between luma samples, horizontally and vertically, and whether the nearest sample is used
/// or neighbouring samples are interpolated.
struct ChromaAt {
  bool on_columns = true;  // at every other column; else halfway between two
  bool on_rows = false;
  bool nearest = false;
};

/// Kr and Kb of the standards.
constexpr std::array<double, 2> weights_of(ColorInfo::Matrix matrix) {
  if (matrix == ColorInfo::Matrix::bt709) return {0.2126, 0.0722};
  if (matrix == ColorInfo::Matrix::bt2020) return {0.2627, 0.0593};
  return {0.299, 0.114};
}

/// Converts as the standards define it: reads samples from bytes, interpolates bilinearly and converts YUV to RGB.
class Reference {
 public:
  Reference(const Layout& layout, std::span<const std::byte> bytes, const ColorInfo& color, ChromaAt chroma_at = {})
      : layout_(layout), bytes_(bytes), color_(color), chroma_at_(chroma_at), info_(*format_info(layout.format)) {}

  using Rgb = std::array<double, 3>;  // 0 to 1

  /// The colour at a point of the source, in pixels; the centre of pixel (0, 0) is at (0.5, 0.5).
  [[nodiscard]] Rgb at(double x, double y) const {
    if (!info_.is_yuv) {
      Rgb result{};
      for (std::size_t c = 0; c < 3; ++c) {
        result[c] = between(x, y, layout_.size.width, layout_.size.height, [&](int i, int j) { return rgb(i, j)[c]; });
        if (color_.range == ColorInfo::Range::limited) result[c] = std::clamp((result[c] * 255 - 16) / 219, 0.0, 1.0);
      }
      return result;
    }
    const double luma =
        between(x, y, layout_.size.width, layout_.size.height, [&](int i, int j) { return this->luma(i, j); });
    const auto [across, down] = subsampling();
    double cx = chroma_at_.on_columns ? (x - 0.5) / across + 0.5 : x / across;
    double cy = chroma_at_.on_rows ? (y - 0.5) / down + 0.5 : y / down;
    if (chroma_at_.nearest) {
      cx = std::floor(cx) + 0.5;
      cy = std::floor(cy) + 0.5;
    }
    const std::uint32_t width = (layout_.size.width + across - 1) / across;
    const std::uint32_t height = (layout_.size.height + down - 1) / down;
    const double cb = between(cx, cy, width, height, [&](int i, int j) { return chroma(i, j, 0); });
    const double cr = between(cx, cy, width, height, [&](int i, int j) { return chroma(i, j, 1); });
    return to_rgb(luma, cb, cr);
  }

 private:
  template <typename Sample>
  static double between(double x, double y, std::uint32_t width, std::uint32_t height, Sample sample) {
    const double left = std::floor(x - 0.5);
    const double top = std::floor(y - 0.5);
    const double wx = x - 0.5 - left;
    const double wy = y - 0.5 - top;
    const auto get = [&](double i, double j) {
      return sample(std::clamp(static_cast<int>(i), 0, static_cast<int>(width) - 1),
                    std::clamp(static_cast<int>(j), 0, static_cast<int>(height) - 1));
    };
    const double above = get(left, top) * (1 - wx) + get(left + 1, top) * wx;
    const double below = get(left, top + 1) * (1 - wx) + get(left + 1, top + 1) * wx;
    return above * (1 - wy) + below * wy;
  }
  [[nodiscard]] std::size_t row(std::uint32_t plane, int y) const {
    return layout_.planes[plane].offset + static_cast<std::size_t>(y) * layout_.planes[plane].stride;
  }
  [[nodiscard]] double byte(std::size_t at) const { return std::to_integer<unsigned>(bytes_[at]); }
  [[nodiscard]] std::uint32_t word(std::size_t at, std::size_t size) const {
    std::uint32_t value = 0;
    std::memcpy(&value, &bytes_[at], size);
    return value;
  }
  [[nodiscard]] std::array<std::uint32_t, 2> subsampling() const {
    if (info_.plane_count == 1) return {2, 1};
    return {info_.planes[1].horizontal_sub, info_.planes[1].vertical_sub};
  }

  /// Sample codes, 0 to 255 or 0 to 1023. In noise, the low six bits of P010 are not zero: they are a fraction of a
  /// code.
  [[nodiscard]] double luma(int x, int y) const {
    const auto i = static_cast<std::size_t>(x);
    if (info_.plane_count == 1) {
      const bool luma_first = layout_.format == formats::yuyv || layout_.format == code("YVYU");
      return byte(row(0, y) + 2 * i + (luma_first ? 0 : 1));
    }
    if (info_.bits_per_component > 8) return word(row(0, y) + 2 * i, 2) / 64.0;
    return byte(row(0, y) + i);
  }
  [[nodiscard]] double chroma(int x, int y, std::size_t which) const {
    const auto i = static_cast<std::size_t>(x);
    const PixelFormat format = layout_.format;
    if (info_.plane_count == 1) {
      const bool luma_first = format == formats::yuyv || format == code("YVYU");
      const bool cr_first = format == code("YVYU") || format == code("VYUY");
      return byte(row(0, y) + 4 * i + 2 * (which ^ (cr_first ? 1U : 0U)) + (luma_first ? 1 : 0));
    }
    const bool swapped = format == formats::nv21 || format == code("NV61") || format == formats::yvu420;
    const std::size_t place = which ^ (swapped ? 1U : 0U);
    if (info_.plane_count == 3) return byte(row(static_cast<std::uint32_t>(1 + place), y) + i);
    if (info_.bits_per_component > 8) return word(row(1, y) + 4 * i + 2 * place, 2) / 64.0;
    return byte(row(1, y) + 2 * i + place);
  }
  [[nodiscard]] Rgb rgb(int x, int y) const {
    const auto i = static_cast<std::size_t>(x);
    const PixelFormat format = layout_.format;
    if (format == formats::r8) {
      const double grey = byte(row(0, y) + i) / 255;
      return {grey, grey, grey};
    }
    if (format == formats::rgb565) {
      const std::uint32_t v = word(row(0, y) + 2 * i, 2);
      return {(v >> 11U) / 31.0, ((v >> 5U) & 63U) / 63.0, (v & 31U) / 31.0};
    }
    const std::size_t size = info_.bits_per_pixel / 8U;
    const std::uint32_t v = word(row(0, y) + size * i, size);
    if (format == formats::xrgb2101010) {
      return {((v >> 20U) & 1023U) / 1023.0, ((v >> 10U) & 1023U) / 1023.0, (v & 1023U) / 1023.0};
    }
    const Rgb low_first{(v & 255U) / 255.0, ((v >> 8U) & 255U) / 255.0, ((v >> 16U) & 255U) / 255.0};
    const bool blue_low = format == formats::xrgb8888 || format == formats::argb8888 || format == formats::rgb888;
    return blue_low ? Rgb{low_first[2], low_first[1], low_first[0]} : low_first;
  }
  [[nodiscard]] Rgb to_rgb(double y, double cb, double cr) const {
    const double step = info_.bits_per_component > 8 ? 4 : 1;  // ten-bit codes per eight-bit code
    const bool limited = color_.range == ColorInfo::Range::limited;
    const double luma = limited ? (y - 16 * step) / (219 * step) : y / (256 * step - 1);
    const double pb = (cb - 128 * step) / (limited ? 224 * step : 256 * step - 1);
    const double pr = (cr - 128 * step) / (limited ? 224 * step : 256 * step - 1);
    const auto [kr, kb] = weights_of(color_.matrix);
    const double red = luma + 2 * (1 - kr) * pr;
    const double blue = luma + 2 * (1 - kb) * pb;
    const double green = (luma - kr * red - kb * blue) / (1 - kr - kb);
    return {std::clamp(red, 0.0, 1.0), std::clamp(green, 0.0, 1.0), std::clamp(blue, 0.0, 1.0)};
  }

  Layout layout_;
  std::span<const std::byte> bytes_;
  ColorInfo color_;
  ChromaAt chroma_at_;
  FormatInfo info_;
};

constexpr ColorInfo color_of(ColorInfo::Matrix matrix, ColorInfo::Range range) {
  ColorInfo color;
  color.matrix = matrix;
  color.range = range;
  return color;
}

/// A stage with one input and its outputs, outside any pipeline.
struct Stage {
  std::unique_ptr<Convert> convert;
  std::vector<Buffer> outputs;
};

inline Stage start_stage(vulkan::Device& gpu, std::span<const Buffer> inputs, const ColorInfo& color,
                         const ConvertOptions& options = {}, std::uint32_t count = 2) {
  Stage stage{.convert = must(Convert::create(gpu, options), "create"), .outputs = {}};
  StreamConfig config;
  config.layout = inputs.front().layout();
  config.color = color;
  must(stage.convert->set_input(config), "set_input");
  const auto offers = must(stage.convert->offers({}), "offers");
  const auto linear = std::ranges::find_if(offers, [](const auto& o) { return o.layout.modifier.is_linear(); });
  if (linear == offers.end()) std::abort();
  must(stage.convert->set_output(*linear), "set_output");
  const StreamConfig& output = stage.convert->output();
  stage.outputs = must(
      system_heap()->allocate({.size = output.layout.size, .format = output.layout.format, .count = count}), "outputs");
  for (const Buffer& buffer : inputs) must(stage.convert->import(buffer), "import");
  for (const Buffer& buffer : stage.outputs) must(stage.convert->try_output(buffer), "try_output");
  must(stage.convert->start(inputs, stage.outputs), "start");
  return stage;
}

inline Frame convert_one(Convert& convert, Frame frame) {
  must(convert.accept(std::move(frame)), "accept");
  Frame result = must(convert.take(), "take");
  EXPECT_TRUE(result);
  return result;
}

/// The largest difference of each channel, in steps of 1/255, between an XRGB8888 frame and the colour that @p expected
/// returns for each pixel.
inline Reference::Rgb largest_errors(const Frame& frame, const std::function<Reference::Rgb(int, int)>& expected) {
  EXPECT_TRUE(frame.ready().wait(Deadline::after(20s)));
  auto access = must(CpuAccess::begin(frame.buffer(), Access::read, Deadline::after(5s)), "read");
  const Layout& layout = frame.buffer().layout();
  EXPECT_EQ(layout.format, formats::xrgb8888);
  Reference::Rgb largest{};
  for (std::uint32_t y = 0; y < layout.size.height; ++y) {
    for (std::uint32_t x = 0; x < layout.size.width; ++x) {
      const std::byte* pixel = &access.plane(0)[y * layout.planes[0].stride + 4 * x];
      const auto rgb = expected(static_cast<int>(x), static_cast<int>(y));
      for (std::size_t c = 0; c < 3; ++c) {
        const double is = std::to_integer<unsigned>(pixel[2 - c]);
        largest[c] = std::max(largest[c], std::abs(is - std::round(rgb[c] * 255)));
      }
    }
  }
  return largest;
}

inline double largest_error(const Frame& frame, const std::function<Reference::Rgb(int, int)>& expected) {
  return std::ranges::max(largest_errors(frame, expected));
}

class VulkanConvert : public VulkanTest {
 protected:
  /// Converts noise of this format and compares it with the reference, pixel by pixel.
  double error_of(const Buffer& buffer, const ColorInfo& color, const ConvertOptions& options = {}) {
    fill_with_noise(buffer, 7);
    auto stage = start_stage(*gpu, std::span(&buffer, 1), color, options);
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const Reference reference(buffer.layout(), access.object(0), color);
    const Size to = result.buffer().layout().size;
    const Size from = buffer.layout().size;
    return largest_error(result, [&](int x, int y) {
      return reference.at((x + 0.5) * from.width / to.width, (y + 0.5) * from.height / to.height);
    });
  }
};
/// Maps the centre of a pixel of the rotated picture to its place in the original picture. This follows from the
/// definition: after a rotation by 90 degrees counter-clockwise, the former right edge is at the top.
inline std::array<double, 2> turned_back(double x, double y, Size from, Rotation rotation) {
  switch (rotation) {
    case Rotation::by_90:
      return {from.width - y, x};
    case Rotation::by_180:
      return {from.width - x, from.height - y};
    case Rotation::by_270:
      return {y, from.height - x};
    default:
      return {x, y};
  }
}

}  // namespace dmaflow::test
