// The GPU stage when it reads all planes as one image by a sampler: its precision, and when it is not possible.
#include "convert_support.hpp"

#include <dmaflow/pipeline.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <span>
#include <utility>

#include <unistd.h>

namespace dmaflow::test {
namespace {

/// Vulkan's format for these bytes. If Vulkan has none with Cr first, the one with Cb first.
PixelFormat cb_first(PixelFormat format) {
  if (format == formats::nv21) return formats::nv12;
  if (format == code("NV61")) return formats::nv16;
  if (format == formats::yvu420) return formats::yuv420;
  if (format == code("YVYU")) return formats::yuyv;
  return format == code("VYUY") ? formats::uyvy : format;
}

/// The position of chroma samples in a sampler of this device, according to the stage.
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

/// Set when this program runs itself again: llvmpipe then does not interpolate 8-bit samples in 8 bits.
bool without_short_cut() {
  const char* flags = std::getenv("GALLIVM_PERF");
  return flags != nullptr && std::string_view(flags) == "no_aos_sampling";
}

/// The allowed error of red, green and blue: 1 for rounding, and the error of the sampler's interpolation, whose
/// precision the device chooses. No device computes in fewer bits than the samples have, so an interpolated sample is
/// off by up to 1 of 255 for each of the two directions, times its factor in the matrix. @p step: the step of the
/// weights if they are not halves and luma is interpolated too; 0 if frames are not scaled. A wrong position of chroma,
/// a wrong matrix or a wrong range is off by more than 15 in some channel of noise.
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

/// The step of the weights with which the device's samplers interpolate, times 255.
double weight_step(const vulkan::Device& gpu) {
  const auto properties_of = reinterpret_cast<PFN_vkGetPhysicalDeviceProperties>(
      gpu.get_instance_proc_addr()(gpu.instance(), "vkGetPhysicalDeviceProperties"));
  VkPhysicalDeviceProperties properties{};
  properties_of(gpu.physical_device(), &properties);
  return 255.0 / static_cast<double>(1U << std::min(properties.limits.subTexelPrecisionBits, 16U));
}

/// The layout of llvmpipe's linear images: strides are multiples of 64 bytes, and planes have a multiple of four rows.
constexpr Constraints as_llvmpipe{.stride_alignment = 64, .offset_alignment = 256};
const ConvertOptions by_sampler{.sampling = vulkan::Sampling::sampler};

/// Why a sampler of this device cannot read the buffer; nullopt if it can.
std::optional<Error> why_no_sampler(vulkan::Device& gpu, const Buffer& buffer) {
  const auto imported = must(Convert::create(gpu, by_sampler))->import(buffer);
  if (imported) return std::nullopt;
  EXPECT_FALSE(imported.error().device().empty()) << imported.error().message();
  EXPECT_FALSE(imported.error().detail().empty()) << imported.error().message();
  return imported.error();
}

StreamConfig stream_of(const Layout& layout) {
  StreamConfig config;
  config.layout = layout;
  return config;
}

TEST_F(VulkanConvert, ASamplerReadsEveryYuvFormatInEveryMatrixAndRange) {
  std::string read;
  std::array<Reference::Rgb, 2> worst{};  // for 4:2:0 and for 4:2:2
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
        const ColorInfo color = color_of(matrix, range);  // of the frame, so it may change with every frame
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

// The errors above come from llvmpipe's short cut and not from the library: the run without it observes the remaining
// error.
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
    return convert.check_input(stream_of(must(Layout::linear(format, size))));
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

/// Checks a stage that reads by a sampler: what it must report about linear memory of a format, given the device's
/// support.
void expect_sampler_check(const vulkan::Device& gpu, Convert& sampler, PixelFormat format) {
  const auto all = gpu.support(format, VK_IMAGE_USAGE_SAMPLED_BIT);
  const auto linear =
      std::ranges::find_if(all, [](const auto& one) { return one.modifier.is_linear() && one.importable; });
  const auto checked = sampler.check_input(stream_of(must(Layout::linear(format, {64, 48}))));
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
  must(convert->set_input(linear));
  EXPECT_EQ(convert->sampling(), vulkan::Sampling::planes);

  StreamConfig tiled = linear;
  tiled.layout.modifier = Modifier::from_value(0x0100000000000002);  // Intel's Y tiles
  const auto nv12 = gpu->support(formats::nv12, VK_IMAGE_USAGE_SAMPLED_BIT);
  const auto is_tiled = [&](const auto& one) { return one.importable && one.modifier == tiled.layout.modifier; };
  if (std::ranges::none_of(nv12, is_tiled)) {
    const auto neither = convert->check_input(tiled);
    ASSERT_TRUE(fails_with(neither, ENOTSUP));
    EXPECT_TRUE(mentions(neither.error(), "plane by plane: the planes")) << neither.error().message();
    EXPECT_TRUE(mentions(neither.error(), "by a sampler: ")) << neither.error().message();
  }
  const auto planes = must(Convert::create(*gpu, {.sampling = vulkan::Sampling::planes}))->check_input(tiled);
  ASSERT_TRUE(fails_with(planes, ENOTSUP));
  EXPECT_TRUE(mentions(planes.error(), "no meaning one by one")) << planes.error().message();

  const auto sampler = must(Convert::create(*gpu, by_sampler));
  const auto no_format = sampler->check_input(stream_of(must(Layout::linear(code("NV24"), {64, 48}))));
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

/// The fixture's device again, as a program would pass its own. The fixture keeps ownership.
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
  const auto refused = must(Convert::create(*without, by_sampler))->check_input(linear);
  ASSERT_TRUE(fails_with(refused, ENOTSUP));
  EXPECT_TRUE(mentions(refused.error(), "no samplerYcbcrConversion")) << refused.error().message();
  EXPECT_TRUE(must(Convert::create(*without, {}))->check_input(linear));
}

/// The driver's functions; one is replaced to hide that single-byte images support modifiers.
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

}  // namespace
}  // namespace dmaflow::test
