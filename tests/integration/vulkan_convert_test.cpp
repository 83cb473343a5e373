// The GPU stage: what it makes of every format, compared with a reference computed here in double precision from the
// standards' formulas; its place between devices; its fences.
#include "fence_support.hpp"
#include "kms_support.hpp"
#include "screens.hpp"
#include "vulkan_support.hpp"

#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include <unistd.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using vulkan::Convert;
using vulkan::ConvertOptions;
using vulkan::Rotation;

constexpr PixelFormat code(const char (&text)[5]) { return PixelFormat::of(text[0], text[1], text[2], text[3]); }

/// Where chroma lies between luma, across and down, and whether the nearest sample counts or what lies between two.
struct ChromaAt {
  bool on_columns = true;  // every other column; else halfway between two
  bool on_rows = false;
  bool nearest = false;
};

/// Kr and Kb of the standards.
constexpr std::array<double, 2> weights_of(ColorInfo::Matrix matrix) {
  if (matrix == ColorInfo::Matrix::bt709) return {0.2126, 0.0722};
  if (matrix == ColorInfo::Matrix::bt2020) return {0.2627, 0.0593};
  return {0.299, 0.114};
}

/// What a reader of the standards would compute: samples from bytes, YUV to RGB, bilinear in between.
class Reference {
 public:
  Reference(const Layout& layout, std::span<const std::byte> bytes, const ColorInfo& color, ChromaAt chroma_at = {})
      : layout_(layout), bytes_(bytes), color_(color), chroma_at_(chroma_at), info_(*format_info(layout.format)) {}

  using Rgb = std::array<double, 3>;  // 0 to 1

  /// At a point of the source, in pixels; pixel (0, 0) has its middle at (0.5, 0.5).
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

  /// Sample codes, 0 to 255 or 0 to 1023. In noise P010's low six bits are not zero: a fraction of a code.
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
    const double step = info_.bits_per_component > 8 ? 4 : 1;  // of ten bits against eight
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

Stage start_stage(vulkan::Device& gpu, std::span<const Buffer> inputs, const ColorInfo& color,
                  const ConvertOptions& options = {}, std::uint32_t count = 2) {
  Stage stage{.convert = must(Convert::create(gpu, options), "create"), .outputs = {}};
  StreamConfig config;
  config.layout = inputs.front().layout();
  config.color = color;
  must(stage.convert->configure(config), "configure");
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

Frame convert_one(Convert& convert, Frame frame) {
  must(convert.accept(std::move(frame)), "accept");
  Frame result = must(convert.take(), "take");
  EXPECT_TRUE(result);
  return result;
}

/// The largest difference of each channel, in steps of 1/255, between an XRGB8888 frame and what @p expected gives for
/// each pixel.
Reference::Rgb largest_errors(const Frame& frame, const std::function<Reference::Rgb(int, int)>& expected) {
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

double largest_error(const Frame& frame, const std::function<Reference::Rgb(int, int)>& expected) {
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

constexpr PixelFormat yuv_formats[] = {formats::nv12, formats::nv21,   formats::nv16,   formats::yuyv,
                                       formats::uyvy, formats::yuv420, formats::yvu420, formats::p010};
constexpr PixelFormat rgb_formats[] = {formats::xrgb8888, formats::xbgr8888,    formats::argb8888,
                                       formats::rgb565,   formats::xrgb2101010, formats::r8};

TEST_F(VulkanConvert, EveryYuvFormatInEveryMatrixAndRangeIsWithinOneOfTheReference) {
  for (const PixelFormat format : yuv_formats) {
    const Buffer buffer = heap_buffer({64, 48}, format);
    fill_with_noise(buffer, 7);
    auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
    double largest = 0;
    for (const auto matrix : {ColorInfo::Matrix::bt601, ColorInfo::Matrix::bt709, ColorInfo::Matrix::bt2020}) {
      for (const auto range : {ColorInfo::Range::full, ColorInfo::Range::limited}) {
        const ColorInfo color = color_of(matrix, range);  // the frames' own, which may change from one to the next
        const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
        auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
        const Reference reference(buffer.layout(), access.object(0), color);
        largest =
            std::max(largest, largest_error(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }));
      }
    }
    std::printf("%s: at most %.0f of 255 off\n", format.name().c_str(), largest);
    EXPECT_LE(largest, 1) << format.name();
  }
}

TEST_F(VulkanConvert, EveryRgbFormatIsWithinOneOfTheReference) {
  for (const PixelFormat format : rgb_formats) {
    const double largest = error_of(heap_buffer({64, 48}, format), {});
    std::printf("%s: at most %.0f of 255 off\n", format.name().c_str(), largest);
    EXPECT_LE(largest, 1) << format.name();
  }
}

TEST_F(VulkanConvert, OddSizesAndOnePixelAndWideStrides) {
  const ColorInfo color = color_of(ColorInfo::Matrix::bt709, ColorInfo::Range::limited);
  for (const PixelFormat format : yuv_formats) {
    for (const Size size : {Size{1, 1}, Size{33, 17}}) {
      for (const std::uint32_t alignment : {1U, 256U}) {
        const Buffer buffer = heap_buffer(size, format, {.stride_alignment = alignment, .offset_alignment = 64});
        EXPECT_LE(error_of(buffer, color), 1)
            << format.name() << " " << size.width << "x" << size.height << " strides of " << alignment;
      }
    }
  }
}

TEST_F(VulkanConvert, ScalesUpAndDownBilinearly) {
  const ColorInfo color = color_of(ColorInfo::Matrix::bt601, ColorInfo::Range::limited);
  for (const PixelFormat format : {formats::nv12, formats::yuyv, formats::xrgb8888}) {
    for (const Size to : {Size{128, 96}, Size{100, 75}, Size{32, 24}, Size{7, 5}}) {
      const double largest = error_of(heap_buffer({64, 48}, format), color, {.size = to, .fit = vulkan::Fit::stretch});
      EXPECT_LE(largest, 1) << format.name() << " to " << to.width << "x" << to.height;
    }
  }
}

// Where the middle of a pixel of the turned picture lies on the picture as it was, from the meaning of the words:
// turned by 90 degrees counter-clockwise, what was at the right edge is at the top.
std::array<double, 2> turned_back(double x, double y, Size from, Rotation rotation) {
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

TEST_F(VulkanConvert, TurnsByQuartersCounterClockwise) {
  for (const PixelFormat format : {formats::nv12, formats::xrgb8888}) {
    const Buffer buffer = heap_buffer({40, 24}, format);
    fill_with_noise(buffer, 3);
    const ColorInfo color = color_of(ColorInfo::Matrix::bt709, ColorInfo::Range::full);
    for (const Rotation rotation : {Rotation::by_90, Rotation::by_180, Rotation::by_270}) {
      auto stage = start_stage(*gpu, std::span(&buffer, 1), color, {.rotation = rotation});
      const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
      const bool sideways = rotation != Rotation::by_180;
      EXPECT_EQ(result.buffer().layout().size, (sideways ? Size{24, 40} : Size{40, 24}));
      auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
      const Reference reference(buffer.layout(), access.object(0), color);
      EXPECT_LE(largest_error(result,
                              [&](int x, int y) {
                                const auto [sx, sy] = turned_back(x + 0.5, y + 0.5, {40, 24}, rotation);
                                return reference.at(sx, sy);
                              }),
                1)
          << format.name();
    }
  }
}

TEST_F(VulkanConvert, KeepsTheShapeAndLeavesTheRestBlack) {
  const Buffer buffer = heap_buffer({64, 32}, formats::xrgb8888);
  fill_with_noise(buffer, 4);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.size = Size{100, 100}});
  const Frame result = convert_one(*stage.convert, frame_of(buffer));
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const Reference reference(buffer.layout(), access.object(0), {});
  EXPECT_LE(largest_error(result,
                          [&](int x, int y) -> Reference::Rgb {
                            if (y < 25 || y >= 75) return {0, 0, 0};
                            return reference.at((x + 0.5) * 0.64, (y - 25 + 0.5) * 0.64);
                          }),
            1);
}

TEST_F(VulkanConvert, ShowsOnlyTheVisiblePartAndFollowsItFromFrameToFrame) {
  const Buffer buffer = heap_buffer({64, 64}, formats::xrgb8888);
  fill_with_noise(buffer, 5);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.size = Size{32, 32}});
  for (const Rect visible : {Rect{16, 8, 32, 32}, Rect{0, 32, 32, 32}}) {
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.visible = visible}));
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const Reference reference(buffer.layout(), access.object(0), {});
    EXPECT_LE(
        largest_error(result, [&](int x, int y) { return reference.at(x + visible.x + 0.5, y + visible.y + 0.5); }), 1);
  }
}

TEST_F(VulkanConvert, DrawsThePictureOnTopAndCutsOffWhatIsOutside) {
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  fill_with_noise(buffer, 6);
  vulkan::Picture picture{.size = {16, 8}, .rgba = {}, .x = 24, .y = -2};
  for (unsigned i = 0; i < 16 * 8; ++i) {
    for (const unsigned value : {200U, 100U, 50U, i * 2}) picture.rgba.push_back(static_cast<std::uint8_t>(value));
  }
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.overlay = picture});
  const Frame result = convert_one(*stage.convert, frame_of(buffer));
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const Reference reference(buffer.layout(), access.object(0), {});
  EXPECT_LE(largest_error(result,
                          [&](int x, int y) {
                            auto rgb = reference.at(x + 0.5, y + 0.5);
                            if (x < 24 || y >= 6) return rgb;
                            const double alpha = static_cast<double>((y + 2) * 16 + x - 24) * 2 / 255;
                            const Reference::Rgb over{200.0 / 255, 100.0 / 255, 50.0 / 255};
                            for (std::size_t c = 0; c < 3; ++c) rgb[c] = rgb[c] * (1 - alpha) + over[c] * alpha;
                            return rgb;
                          }),
            1);
}

TEST_F(VulkanConvert, SeveralBuffersInTurnWithTwoInFlightStayThemselves) {
  std::vector<Buffer> inputs;
  for (unsigned i = 0; i < 3; ++i) {
    inputs.push_back(heap_buffer({32, 32}, formats::nv12));
    fill_with_noise(inputs.back(), 20 + i);
  }
  const ColorInfo color = color_of(ColorInfo::Matrix::bt601, ColorInfo::Range::limited);
  auto stage = start_stage(*gpu, inputs, color, {}, 4);
  for (unsigned n = 0; n < 12; ++n) {
    const Buffer& buffer = inputs[n % 3];
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.sequence = n, .color = color}));
    EXPECT_EQ(result.info().sequence, n);
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const Reference reference(buffer.layout(), access.object(0), color);
    EXPECT_LE(largest_error(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }), 1) << n;
  }
  must(stage.convert->drain(Deadline::after(5s)));
  EXPECT_EQ(stage.convert->turnaround().count(), 12U);
}

// --- All planes as one image, by a sampler

/// The format that Vulkan has for these bytes, Cb and Cr changed where it has none with Cr first.
PixelFormat cb_first(PixelFormat format) {
  if (format == formats::nv21) return formats::nv12;
  if (format == code("NV61")) return formats::nv16;
  if (format == formats::yvu420) return formats::yuv420;
  if (format == code("YVYU")) return formats::yuyv;
  return format == code("VYUY") ? formats::uyvy : format;
}

/// Where the stage says that a sampler of this device puts chroma.
ChromaAt chroma_of_sampler(const vulkan::Device& gpu, PixelFormat format) {
  const auto all = gpu.support(cb_first(format), VK_IMAGE_USAGE_SAMPLED_BIT);
  const auto linear = std::ranges::find(all, Modifier::linear(), &vulkan::FormatSupport::modifier);
  if (linear == all.end()) return {};
  const auto has = [&](VkFormatFeatureFlags bit) { return (linear->features & bit) != 0; };
  const bool on = has(VK_FORMAT_FEATURE_COSITED_CHROMA_SAMPLES_BIT);
  const bool between = has(VK_FORMAT_FEATURE_MIDPOINT_CHROMA_SAMPLES_BIT);
  const bool nearest = !has(VK_FORMAT_FEATURE_SAMPLED_IMAGE_YCBCR_CONVERSION_LINEAR_FILTER_BIT);
  return {.on_columns = on && (!nearest || !between), .on_rows = on && !between, .nearest = nearest};
}

/// Set for a run of this program by itself: llvmpipe then does not interpolate 8-bit samples in 8 bits.
bool without_short_cut() {
  const char* flags = std::getenv("GALLIVM_PERF");
  return flags != nullptr && std::string_view(flags) == "no_aos_sampling";
}

/// How far red, green and blue may be off: 1 for rounding. How exactly a sampler interpolates is the device's choice.
/// No device computes in fewer bits than the samples have: a sample that lies between others is off by up to 1 of 255
/// for each of the two directions, times its factor in the matrix. @p step: of the weights where they are no halves,
/// and luma lies between others too; 0 where frames are not scaled. A wrong place of chroma, a wrong matrix or a wrong
/// range is off by more than 15 in some channel of noise.
Reference::Rgb tolerance(const ColorInfo& color, ChromaAt chroma_at, double step = 0) {
  if (chroma_at.nearest) return {1, 1, 1};
  const bool limited = color.range == ColorInfo::Range::limited;
  const double sample = 2 + step;
  const double luma = step > 0 ? sample * (limited ? 255.0 / 219 : 1) : 0;
  const double chroma = sample * (limited ? 255.0 / 224 : 1);
  const auto [kr, kb] = weights_of(color.matrix);
  const double red = 2 * (1 - kr) * chroma;
  const double blue = 2 * (1 - kb) * chroma;
  return {1 + luma + red, 1 + luma + (kr * red + kb * blue) / (1 - kr - kb), 1 + luma + blue};
}

/// The step of the weights by which the device's samplers interpolate, times 255.
double weight_step(const vulkan::Device& gpu) {
  const auto properties_of = reinterpret_cast<PFN_vkGetPhysicalDeviceProperties>(
      gpu.get_instance_proc_addr()(gpu.instance(), "vkGetPhysicalDeviceProperties"));
  VkPhysicalDeviceProperties properties{};
  properties_of(gpu.physical_device(), &properties);
  return 255.0 / static_cast<double>(1U << std::min(properties.limits.subTexelPrecisionBits, 16U));
}

/// What llvmpipe's linear images are: rows of 64 bytes' multiples, planes of four rows' multiples.
constexpr Constraints as_llvmpipe{.stride_alignment = 64, .offset_alignment = 256};
const ConvertOptions by_sampler{.sampling = vulkan::Sampling::sampler};

/// Why a sampler of this device cannot read the buffer; nothing where it can.
std::optional<Error> why_no_sampler(vulkan::Device& gpu, const Buffer& buffer) {
  const auto imported = must(Convert::create(gpu, by_sampler))->import(buffer);
  if (imported) return std::nullopt;
  EXPECT_FALSE(imported.error().device().empty()) << imported.error().message();
  EXPECT_FALSE(imported.error().detail().empty()) << imported.error().message();
  return imported.error();
}

bool mentions(const Error& error, std::string_view words) { return error.message().find(words) != std::string::npos; }

StreamConfig stream_of(const Layout& layout) {
  StreamConfig config;
  config.layout = layout;
  return config;
}

TEST_F(VulkanConvert, ASamplerReadsEveryYuvFormatInEveryMatrixAndRange) {
  std::string read;
  std::array<Reference::Rgb, 2> worst{};  // of 4:2:0 and of 4:2:2
  for (const PixelFormat format :
       {formats::nv12, formats::nv21, formats::nv16, code("NV61"), formats::yuyv, code("YVYU"), formats::uyvy,
        code("VYUY"), formats::yuv420, formats::yvu420, formats::p010}) {
    const Buffer buffer = heap_buffer({128, 16}, format);
    if (const auto why = why_no_sampler(*gpu, buffer)) {
      std::printf("%s: %s\n", format.name().c_str(), why->message().c_str());
      continue;
    }
    read += (read.empty() ? "" : " ") + format.name();
    fill_with_noise(buffer, 7);
    auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, by_sampler);
    EXPECT_EQ(stage.convert->sampling(), vulkan::Sampling::sampler);
    const ChromaAt chroma_at = chroma_of_sampler(*gpu, format);
    Reference::Rgb largest{};
    for (const auto matrix : {ColorInfo::Matrix::bt601, ColorInfo::Matrix::bt709, ColorInfo::Matrix::bt2020}) {
      for (const auto range : {ColorInfo::Range::full, ColorInfo::Range::limited}) {
        const ColorInfo color = color_of(matrix, range);  // the frames' own, which may change from one to the next
        const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
        auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
        const Reference reference(buffer.layout(), access.object(0), color, chroma_at);
        const auto errors = largest_errors(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); });
        const auto bounds = tolerance(color, chroma_at);
        auto& of_kind = worst[format_info(format)->planes[1].vertical_sub == 2 ? 0 : 1];
        for (std::size_t c = 0; c < 3; ++c) {
          EXPECT_LE(errors[c], bounds[c]) << format.name() << " " << name(matrix) << " " << name(range) << " " << c;
          largest[c] = std::max(largest[c], errors[c]);
          of_kind[c] = std::max(of_kind[c], errors[c]);
        }
      }
    }
    std::printf("%s: at most %.0f, %.0f, %.0f of 255 off in red, green, blue\n", format.name().c_str(), largest[0],
                largest[1], largest[2]);
    for (std::size_t c = 0; c < 3; ++c) {
      RecordProperty(format.name() + "_" + "RGB"[c], static_cast<int>(largest[c]));
    }
  }
  if (read.empty()) GTEST_SKIP() << "no sampler of this device reads YUV";
  if (!in_lab()) return;
  observe("lavapipe's sampler reads", read, "docs/gpu.md");
  for (const std::size_t i : {0U, 1U}) {
    const auto& [red, green, blue] = worst[i];
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%.0f, %.0f, %.0f", red, green, blue);
    observe(std::string("lavapipe's sampler is off by so many of 255 in red, green, blue, ") +
                (i == 0 ? "4:2:0" : "4:2:2") + (without_short_cut() ? ", without its short cut" : ""),
            std::string(text.data()), without_short_cut() ? "docs/architecture.md" : "docs/gpu.md");
  }
}

TEST_F(VulkanConvert, ASamplersPictureIsScaledTurnedCutAndDrawnOnLikeAnyOther) {
  const Size from{64, 48};
  const Buffer buffer = heap_buffer(from, formats::nv12, as_llvmpipe);
  if (const auto why = why_no_sampler(*gpu, buffer)) GTEST_SKIP() << why->message();
  fill_with_noise(buffer, 9);
  const ColorInfo color = color_of(ColorInfo::Matrix::bt709, ColorInfo::Range::limited);
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const ChromaAt chroma_at = chroma_of_sampler(*gpu, formats::nv12);
  const Reference reference(buffer.layout(), access.object(0), color, chroma_at);
  const double between_pixels = std::ranges::max(tolerance(color, chroma_at, weight_step(*gpu)));
  const double at_pixels = std::ranges::max(tolerance(color, chroma_at));
  const auto error_with = [&](const ConvertOptions& options, const Rect& visible, const auto& expected) {
    auto stage = start_stage(*gpu, std::span(&buffer, 1), color, options);
    return largest_error(convert_one(*stage.convert, frame_of(buffer, {.visible = visible, .color = color})), expected);
  };
  for (const Size to : {Size{128, 96}, Size{100, 75}, Size{32, 24}}) {
    ConvertOptions options = by_sampler;
    options.size = to;
    options.fit = vulkan::Fit::stretch;
    const double largest = error_with(options, {}, [&](int x, int y) {
      return reference.at((x + 0.5) * from.width / to.width, (y + 0.5) * from.height / to.height);
    });
    std::printf("to %ux%u: at most %.0f of 255 off\n", to.width, to.height, largest);
    EXPECT_LE(largest, between_pixels) << to.width;
  }
  for (const Rotation rotation : {Rotation::by_90, Rotation::by_180, Rotation::by_270}) {
    ConvertOptions options = by_sampler;
    options.rotation = rotation;
    EXPECT_LE(error_with(options, {},
                         [&](int x, int y) {
                           const auto [sx, sy] = turned_back(x + 0.5, y + 0.5, from, rotation);
                           return reference.at(sx, sy);
                         }),
              at_pixels);
  }
  ConvertOptions options = by_sampler;
  options.size = Size{32, 24};
  options.overlay = vulkan::Picture{.size = {4, 2}, .rgba = std::vector<std::uint8_t>(32, 255), .x = 3, .y = 5};
  EXPECT_LE(error_with(options, {8, 6, 32, 24},
                       [&](int x, int y) -> Reference::Rgb {
                         if (x >= 3 && x < 7 && y >= 5 && y < 7) return {1, 1, 1};
                         return reference.at(x + 8.5, y + 6.5);
                       }),
            at_pixels);
}

// What is off above is llvmpipe's short cut and nothing of ours: the run without it observes how much is left.
TEST_F(VulkanConvert, ASamplerWithoutItsShortCutKeepsTheBoundsToo) {
  if (!in_lab() || without_short_cut()) GTEST_SKIP() << "speaks of lavapipe, and runs this program again";
  std::array<char, 4096> self{};
  ASSERT_GT(::readlink("/proc/self/exe", self.data(), self.size() - 1), 0);
  const std::string command =
      "GALLIVM_PERF=no_aos_sampling '" + std::string(self.data()) +
      "' --gtest_filter='VulkanConvert.ASamplerReads*:VulkanConvert.ASamplersPicture*' --gtest_output= --gtest_brief=1";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST_F(VulkanConvert, ASamplerReadsTheSmallestPictureAndRefusesOddOnesThatPlanesRead) {
  const ColorInfo color = color_of(ColorInfo::Matrix::bt601, ColorInfo::Range::full);
  for (const Size size : {Size{2, 2}, Size{34, 18}}) {
    const Buffer buffer = heap_buffer(size, formats::nv12, as_llvmpipe);
    if (const auto why = why_no_sampler(*gpu, buffer)) GTEST_SKIP() << why->message();
    fill_with_noise(buffer, 7);
    auto stage = start_stage(*gpu, std::span(&buffer, 1), color, by_sampler);
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const ChromaAt chroma_at = chroma_of_sampler(*gpu, formats::nv12);
    const Reference reference(buffer.layout(), access.object(0), color, chroma_at);
    EXPECT_LE(largest_error(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }),
              std::ranges::max(tolerance(color, chroma_at)))
        << size.width;
  }
  const auto sampler = must(Convert::create(*gpu, by_sampler));
  const auto automatic = must(Convert::create(*gpu, {}));
  const auto check = [](Convert& convert, Size size, PixelFormat format) {
    return convert.check(stream_of(must(Layout::linear(format, size))));
  };
  for (const Size odd : {Size{1, 1}, Size{33, 18}, Size{34, 17}}) {
    const auto refused = check(*sampler, odd, formats::nv12);
    ASSERT_TRUE(fails_with(refused, EINVAL));
    EXPECT_TRUE(mentions(refused.error(), "is odd")) << refused.error().message();
    EXPECT_TRUE(check(*automatic, odd, formats::nv12));
  }
  EXPECT_EQ(check(*sampler, {34, 17}, formats::nv16).has_value(), check(*sampler, {34, 18}, formats::nv16).has_value())
      << "4:2:2 has chroma in every row";
}

/// What a stage that reads by a sampler has to say of linear memory of a format, by what the device says of it.
void expect_sampler_check(const vulkan::Device& gpu, Convert& sampler, PixelFormat format) {
  const auto all = gpu.support(format, VK_IMAGE_USAGE_SAMPLED_BIT);
  const auto linear =
      std::ranges::find_if(all, [](const auto& one) { return one.modifier.is_linear() && one.importable; });
  const auto checked = sampler.check(stream_of(must(Layout::linear(format, {64, 48}))));
  constexpr VkFormatFeatureFlags any_chroma =
      VK_FORMAT_FEATURE_MIDPOINT_CHROMA_SAMPLES_BIT | VK_FORMAT_FEATURE_COSITED_CHROMA_SAMPLES_BIT;
  if (linear == all.end()) {
    ASSERT_TRUE(fails_with(checked, ENOTSUP)) << format.name();
    EXPECT_TRUE(mentions(checked.error(), format.name() + " with modifier LINEAR cannot be imported"))
        << checked.error().message();
  } else if ((linear->features & any_chroma) == 0) {
    ASSERT_TRUE(fails_with(checked, ENOTSUP)) << format.name();
    EXPECT_TRUE(mentions(checked.error(), "no Y'CbCr conversion for")) << checked.error().message();
  } else {
    EXPECT_TRUE(checked) << checked.error().message();
  }
}

TEST_F(VulkanConvert, PlanesAreTakenWhereTheyCanBeAndEveryRefusalSaysWhy) {
  const LeakCheck leaks;
  const StreamConfig linear = stream_of(must(Layout::linear(formats::nv12, {64, 48})));
  const auto convert = must(Convert::create(*gpu, {}));
  must(convert->configure(linear));
  EXPECT_EQ(convert->sampling(), vulkan::Sampling::planes);

  StreamConfig tiled = linear;
  tiled.layout.modifier = Modifier::from_value(0x0100000000000002);  // Intel's Y tiles
  const auto nv12 = gpu->support(formats::nv12, VK_IMAGE_USAGE_SAMPLED_BIT);
  const auto is_tiled = [&](const auto& one) { return one.importable && one.modifier == tiled.layout.modifier; };
  if (std::ranges::none_of(nv12, is_tiled)) {
    const auto neither = convert->check(tiled);
    ASSERT_TRUE(fails_with(neither, ENOTSUP));
    EXPECT_TRUE(mentions(neither.error(), "plane by plane: the planes")) << neither.error().message();
    EXPECT_TRUE(mentions(neither.error(), "by a sampler: ")) << neither.error().message();
  }
  const auto planes = must(Convert::create(*gpu, {.sampling = vulkan::Sampling::planes}))->check(tiled);
  ASSERT_TRUE(fails_with(planes, ENOTSUP));
  EXPECT_TRUE(mentions(planes.error(), "no meaning one by one")) << planes.error().message();

  const auto sampler = must(Convert::create(*gpu, by_sampler));
  const auto no_format = sampler->check(stream_of(must(Layout::linear(code("NV24"), {64, 48}))));
  ASSERT_TRUE(fails_with(no_format, ENOTSUP));
  if (mentions(no_format.error(), "no samplerYcbcrConversion")) GTEST_SKIP() << no_format.error().message();
  EXPECT_TRUE(mentions(no_format.error(), "no VkFormat has the bytes of NV24")) << no_format.error().message();
  for (const PixelFormat format : {formats::nv12, code("P210"), code("YU24")}) {
    expect_sampler_check(*gpu, *sampler, format);
  }
  const auto strides = sampler->import(heap_buffer({100, 48}, formats::nv12, {.size_alignment = 65536}));
  if (in_lab()) observe("lavapipe's sampler reads NV12 in rows of 100 bytes", strides.has_value(), "docs/gpu.md");
  const auto has_own_strides = [](const auto& one) { return one.modifier.is_linear() && one.own_strides; };
  if (!strides && std::ranges::any_of(nv12, has_own_strides)) {
    EXPECT_EQ(strides.error().code(), EINVAL) << strides.error().message();
    EXPECT_TRUE(mentions(strides.error(), "rows of 100")) << strides.error().message();
    EXPECT_TRUE(mentions(strides.error(), "cannot follow")) << strides.error().message();
  }
}

/// The fixture's device once more, as a program would bring it. It stays the fixture's.
vulkan::Existing same_device(const vulkan::Device& gpu) {
  return {.instance = gpu.instance(),
          .physical_device = gpu.physical_device(),
          .device = gpu.handle(),
          .queue_family = gpu.queue_family(),
          .get_instance_proc_addr = gpu.get_instance_proc_addr(),
          .extensions = vulkan::required_extensions(),
          .storage_write_without_format = true,
          .sampler_ycbcr = true};
}

TEST_F(VulkanConvert, ADeviceWithoutTheFeatureHasNoSampler) {
  vulkan::Existing existing = same_device(*gpu);
  existing.sampler_ycbcr = false;
  const auto without = must(vulkan::Device::adopt(existing), "adopt");
  const StreamConfig linear = stream_of(must(Layout::linear(formats::nv12, {64, 48})));
  const auto refused = must(Convert::create(*without, by_sampler))->check(linear);
  ASSERT_TRUE(fails_with(refused, ENOTSUP));
  EXPECT_TRUE(mentions(refused.error(), "no samplerYcbcrConversion")) << refused.error().message();
  EXPECT_TRUE(must(Convert::create(*without, {}))->check(linear));
}

/// The driver's functions, of which one hides that images of single bytes can be arranged by modifiers.
PFN_vkGetInstanceProcAddr drivers_get = nullptr;
PFN_vkGetPhysicalDeviceFormatProperties2 drivers_properties = nullptr;

VKAPI_ATTR void VKAPI_CALL properties_without_r8(VkPhysicalDevice device, VkFormat format, VkFormatProperties2* out) {
  drivers_properties(device, format == VK_FORMAT_R8_UNORM ? VK_FORMAT_UNDEFINED : format, out);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_without_r8(VkInstance instance, const char* name) {
  const auto function = drivers_get(instance, name);
  if (std::string_view(name) != "vkGetPhysicalDeviceFormatProperties2") return function;
  drivers_properties = reinterpret_cast<PFN_vkGetPhysicalDeviceFormatProperties2>(function);
  return reinterpret_cast<PFN_vkVoidFunction>(properties_without_r8);
}

TEST_F(VulkanConvert, WherePlanesCannotBeReadTheSamplerIsTaken) {
  vulkan::Existing existing = same_device(*gpu);
  drivers_get = std::exchange(existing.get_instance_proc_addr, get_without_r8);
  const auto other = must(vulkan::Device::adopt(existing), "adopt");
  const Buffer buffer = heap_buffer({64, 16}, formats::nv12, as_llvmpipe);
  EXPECT_FALSE(other->import_plane(buffer, 0, VK_IMAGE_USAGE_SAMPLED_BIT)) << "nothing is hidden";
  if (const auto why = why_no_sampler(*other, buffer)) GTEST_SKIP() << why->message();
  fill_with_noise(buffer, 3);
  const ColorInfo color = color_of(ColorInfo::Matrix::bt601, ColorInfo::Range::limited);
  auto stage = start_stage(*other, std::span(&buffer, 1), color);
  EXPECT_EQ(stage.convert->sampling(), vulkan::Sampling::sampler);
  const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const ChromaAt chroma_at = chroma_of_sampler(*gpu, formats::nv12);
  const Reference reference(buffer.layout(), access.object(0), color, chroma_at);
  EXPECT_LE(largest_error(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }),
            std::ranges::max(tolerance(color, chroma_at)));
}

// --- Fences

/// Every byte of a buffer.
std::vector<std::byte> contents(const Buffer& buffer) {
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "contents");
  const auto bytes = access.object(0);
  return {bytes.begin(), bytes.end()};
}

/// Has the producer finish after a time that no test needs, so that a call which waits for it ends.
class Rescue {
 public:
  explicit Rescue(SwSync& producer)
      : thread_([this, &producer](const std::stop_token& stop) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any wake;
          wake.wait_for(lock, stop, 20s, [] { return false; });
          if (stop.stop_requested()) return;
          was_needed_ = true;
          producer.advance();
        }) {}
  /// Ends it, and says whether it had to come.
  bool end() {
    thread_.request_stop();
    thread_.join();
    return was_needed_;
  }

 private:
  std::atomic<bool> was_needed_{false};
  std::jthread thread_;
};

// Without the wait the stage would convert the zeros that are there before the producer is done.
TEST_F(VulkanConvert, AFrameIsNotReadBeforeItsFenceAndTheLoopGoesOn) {
  SwSync producer;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
  Rescue rescue(producer);
  must(stage.convert->accept(frame_of(buffer, {}, producer.fence(1))));
  const Frame early = must(stage.convert->take());
  ASSERT_FALSE(rescue.end()) << "it blocked";
  std::this_thread::sleep_for(100ms);
  const auto untouched = contents(stage.outputs[0]);
  EXPECT_TRUE(std::ranges::all_of(untouched, [](std::byte b) { return b == std::byte{0}; })) << "written to already";

  fill_with_noise(buffer, 8);  // the producer's work
  producer.advance();
  Frame result = early ? Frame() : must(stage.convert->take());
  const Frame& shown = early ? early : result;
  ASSERT_TRUE(shown);
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const Reference reference(buffer.layout(), access.object(0), {});
  EXPECT_LE(largest_error(shown, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }), 1);
}

TEST_F(VulkanConvert, AFrameWhoseFenceFailedIsLetGo) {
  SwSync producer;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  Frame frame = must(holds->lend(0, {}, producer.fence(1)));
  producer.fail();
  must(stage.convert->accept(std::move(frame)));
  EXPECT_FALSE(must(stage.convert->take()));
  EXPECT_EQ(holds->lent(), 0U);
  EXPECT_TRUE(stage.convert->ready());
}

TEST_F(VulkanConvert, TheFrameItReadGoesBackWithTheFenceOfTheReading) {
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  const Frame result = convert_one(*stage.convert, must(holds->lend(0, {})));
  auto back = holds->take_returned();
  ASSERT_TRUE(back);
  for (const Fence& fence : back->fences) EXPECT_TRUE(fence.wait(Deadline::after(5s)));
}

// While every place is taken, a newer frame may still come: none is taken in to grow old.
TEST_F(VulkanConvert, WithEveryPlaceTakenItIsNotReadyUntilOneIsFree) {
  const Buffer buffer = heap_buffer({512, 512}, formats::xrgb8888);
  const vulkan::ConvertOptions options{.in_flight = 1};
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, options);
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  EXPECT_TRUE(stage.convert->ready());
  EXPECT_EQ(stage.convert->waiting_fence(), -1);
  must(stage.convert->accept(must(holds->lend(0, {}))), "accept");
  Frame result = must(stage.convert->take(), "take");
  ASSERT_TRUE(result);
  EXPECT_FALSE(stage.convert->ready());
  const int end = stage.convert->waiting_fence();
  ASSERT_GE(end, 0);
  pollfd wait{.fd = end, .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&wait, 1, 10000), 1);
  must(stage.convert->dispatch(0), "dispatch");
  EXPECT_TRUE(stage.convert->ready());
  EXPECT_EQ(stage.convert->waiting_fence(), -1);
}

// --- In a pipeline

// A YUV camera on an XRGB screen: nothing copied, nothing imported after the start, and what is seen from outside the
// guest are the camera's bars.
TEST_F(VulkanConvert, AYuvCameraIsSeenOnAnRgbScreen) {
  if (!in_lab()) GTEST_SKIP() << "pictures are taken outside the lab's guest";
  const LeakCheck leaks;
  for (const std::string& driver : shared_screens()) {
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Plane* screen = must(must(card->output())->plane());
    auto convert = must(Convert::create(*gpu, {.size = Size{1280, 720}}));
    auto heap = system_heap();
    Pipeline pipeline;
    pipeline.offer(*heap);
    must(pipeline.connect(*camera, *screen, "screen", {.stages = {convert.get()}}));
    const auto plans = pipeline.prepare({.size = Size{1280, 720}, .formats = {formats::yuyv}});
    ASSERT_TRUE(plans) << plans.error().explain();
    ASSERT_EQ(plans->size(), 2U);
    EXPECT_EQ(plans->at(0).config.layout.format, formats::yuyv);
    EXPECT_EQ(plans->at(1).config.layout.size, (Size{1280, 720}));
    must(pipeline.start());
    const std::string name = DMAFLOW_BUILD_DIR "/gpu-" + driver + ".png";
    std::string shown = "no picture";
    const auto end = Deadline::after(60s);
    const CountCalls imports("ioctl", DRM_IOCTL_PRIME_FD_TO_HANDLE);
    while (pipeline.stats().streams[0].branches[0].presented < 8 && end.remaining() > 0s) {
      must(pipeline.step(Deadline::after(1s)));
    }
    EXPECT_EQ(imports.calls(), 0U);
    const std::string display = driver == "virtio_gpu" ? "virtio" : "bochs";  // its name outside
    ASSERT_EQ(std::system(("lab-screenshot " + name + " " + display).c_str()), 0);
    const std::string report = name + ".txt";
    ASSERT_EQ(std::system(("python3 " DMAFLOW_VIVID_SCREEN " " + name + " >" + report).c_str()), 0);
    std::ifstream file(report);
    std::getline(file, shown);
    EXPECT_TRUE(shown.starts_with("bars right, 1280x720, counter ")) << driver << ": " << shown;
    const StreamStats& stats = pipeline.stats().streams[0];
    EXPECT_GE(stats.branches[0].presented, 8U);
    EXPECT_EQ(stats.bytes_copied, 0U);
    EXPECT_GE(convert->turnaround().count(), 7U);
    std::printf("%s: %llu captured, %llu presented; the GPU's part %.1f ms, of %.1f ms in all\n", driver.c_str(),
                static_cast<unsigned long long>(stats.captured),
                static_cast<unsigned long long>(stats.branches[0].presented),
                static_cast<double>(convert->gpu_time().percentile(50).count()) / 1e6,
                static_cast<double>(stats.branches[0].latency.percentile(50).count()) / 1e6);
    must(pipeline.stop(Deadline::after(10s)));
  }
}

}  // namespace
}  // namespace dmaflow::test
