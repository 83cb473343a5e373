#include <dmaflow/layout.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace dmaflow {
namespace {

constexpr std::uint32_t max32 = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint64_t max64 = std::numeric_limits<std::uint64_t>::max();

Layout linear(PixelFormat format, Size size, const Constraints& constraints = {}) {
  auto layout = Layout::linear(format, size, constraints);
  if (!layout) ADD_FAILURE() << layout.error().message();
  return layout.value_or(Layout{});
}

std::string refusal(const Result<void>& result) { return result ? "" : std::string(result.error().detail()); }

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// --- parse_size -----------------------------------------------------------------------------------------------------

TEST(ParseSize, TakesTwoNumbers) {
  EXPECT_EQ(parse_size("1280x720"), (Size{1280, 720}));
  EXPECT_EQ(parse_size("1280X720"), (Size{1280, 720}));
  EXPECT_EQ(parse_size("1x1"), (Size{1, 1}));
  EXPECT_EQ(parse_size("16384x16384"), (Size{16384, 16384}));
}

TEST(ParseSize, RefusesEverythingElseAndSaysHowToWriteIt) {
  for (const char* text :
       {"",          "x",          "1280",       "1280x",    "x720",    "0x0",          "0x720",
        "1280x0",    "-1x5",       "5x-1",       "+5x5",     "99999x1", "1x16385",      "1280x720 ",
        " 1280x720", "1280 x 720", "1280x720x3", "1280*720", "0x10x5",  "4294967297x1", "99999999999999999999x1",
        "1e3x5",     "1280.5x720"}) {
    const auto size = parse_size(text);
    ASSERT_FALSE(size) << text;
    EXPECT_EQ(size.error().code(), EINVAL);
    EXPECT_TRUE(has(std::string(size.error().detail()), "1280x720")) << size.error().message();
  }
  EXPECT_FALSE(parse_size(std::string(100'000, '1'))) << "a long one is cut in the message";
}

// --- linear ---------------------------------------------------------------------------------------------------------

TEST(Linear, PlanesFollowOneAnother) {
  const Layout layout = linear(formats::nv12, {1280, 720});
  EXPECT_EQ(layout.plane_count, 2U);
  EXPECT_EQ(layout.planes[0], (PlaneLayout{.object = 0, .offset = 0, .stride = 1280}));
  EXPECT_EQ(layout.planes[1], (PlaneLayout{.object = 0, .offset = 1280 * 720, .stride = 1280}));
  EXPECT_EQ(layout.object_count(), 1U);
  EXPECT_EQ(layout.object_sizes()[0], 1280U * 720U * 3U / 2U);
  EXPECT_EQ(layout.pixel_bytes(), 1280U * 720U * 3U / 2U);
  EXPECT_TRUE(layout.modifier.is_linear());
}

TEST(Linear, SubsampledSizesAreRoundedUp) {
  const Layout layout = linear(formats::yuv420, {1279, 719}, {.separate_objects = true});
  EXPECT_EQ(layout.row_bytes(0), 1279U);
  EXPECT_EQ(layout.row_bytes(1), 640U);
  EXPECT_EQ(layout.rows(0), 719U);
  EXPECT_EQ(layout.rows(1), 360U);
  EXPECT_EQ(layout.planes[2].stride, 640U);
  const Layout pairs = linear(formats::yuyv, {5, 3});
  EXPECT_EQ(pairs.row_bytes(0), 12U) << "three pairs of pixels";
  const Layout single = linear(formats::nv12, {1, 1});
  EXPECT_EQ(single.row_bytes(1), 2U);
  EXPECT_EQ(single.rows(1), 1U);
}

/// Some rows of the kernel's table (drivers/gpu/drm/drm_fourcc.c), copied by hand: every format that has several planes
/// and blocks, and similar ones without blocks.
struct KernelFormat {
  const char* name;
  std::array<std::uint64_t, 3> char_per_block;
  std::array<std::uint64_t, 3> block_w;
  std::uint64_t hsub;
};
constexpr KernelFormat kernel_formats[] = {
    {"NV15", {5, 5}, {4, 2}, 2},
    {"NV20", {5, 5}, {4, 2}, 2},
    {"NV30", {5, 5}, {4, 2}, 1},
    {"P030", {4, 8}, {3, 3}, 2},
    {"P010", {2, 4}, {1, 1}, 2},
    {"P210", {2, 4}, {1, 1}, 2},
    {"NV12", {1, 2}, {1, 1}, 2},
    {"Q410", {2, 2, 2}, {1, 1, 1}, 1},
    {"YUV420", {1, 1, 1}, {1, 1, 1}, 2},
    {"NV24", {1, 2}, {1, 1}, 1},
    {"YUV410", {1, 1, 1}, {1, 1, 1}, 4},
    {"XRGB2101010", {4}, {1}, 1},
    {"Y410", {4}, {1}, 1},
    {"VUY888", {3}, {1}, 1},
};
constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) { return (value + by - 1) / by; }
/// drm_format_info_min_pitch().
std::uint64_t min_pitch(const KernelFormat& format, std::size_t plane, std::uint64_t width) {
  const std::uint64_t samples = plane == 0 ? width : divide_up(width, format.hsub);
  return divide_up(samples * format.char_per_block[plane], format.block_w[plane]);
}

TEST(Linear, TheSmallestStrideIsTheKernelsAtEveryWidth) {
  for (const KernelFormat& kernel : kernel_formats) {
    const PixelFormat format = *PixelFormat::parse(kernel.name);
    for (std::uint32_t width = 1; width < 1400; ++width) {
      Layout layout = linear(format, {width, 4}, {.separate_objects = true});
      std::array<std::uint64_t, max_planes> sizes{};
      for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
        const std::uint64_t pitch = min_pitch(kernel, i, width);
        ASSERT_EQ(layout.row_bytes(i), pitch) << kernel.name << " plane " << i << " width " << width;
        ASSERT_EQ(layout.planes[i].stride, pitch) << kernel.name << " plane " << i << " width " << width;
        sizes[i] = pitch * layout.rows(i);
      }
      ASSERT_TRUE(layout.validate(sizes)) << kernel.name << " width " << width;
      for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
        --layout.planes[i].stride;
        ASSERT_FALSE(layout.validate(sizes)) << kernel.name << " plane " << i << " width " << width;
        ++layout.planes[i].stride;
      }
    }
  }
}

TEST(Linear, PackedTenBitRowsEndWithTheirLastSample) {
  const PixelFormat nv15 = *PixelFormat::parse("NV15");
  const PixelFormat p030 = *PixelFormat::parse("P030");
  EXPECT_EQ(linear(nv15, {1280, 720}).row_bytes(0), 1600U);
  EXPECT_EQ(linear(nv15, {1280, 720}).row_bytes(1), 1600U);
  EXPECT_EQ(linear(nv15, {1366, 768}).planes[0].stride, 1708U) << "1707.5 bytes of pixels";
  EXPECT_EQ(linear(nv15, {1366, 768}).planes[1].stride, 1708U);
  EXPECT_EQ(linear(nv15, {5, 2}).row_bytes(0), 7U) << "50 bits";
  EXPECT_EQ(linear(p030, {1280, 720}).row_bytes(0), 1707U) << "426 blocks of three samples, and 20 bits";
}

/// The kernel's table lists YUYV with two bytes per pixel, but the chroma of the last pixel ends with the pair.
TEST(Linear, PixelsThatShareTheirChromaComeInWholePairs) {
  for (const char* name : {"YUYV", "YVYU", "UYVY", "VYUY"}) {
    EXPECT_EQ(linear(*PixelFormat::parse(name), {1365, 4}).planes[0].stride, 2732U) << name;
  }
  for (const char* name : {"Y210", "Y212", "Y216"}) {
    EXPECT_EQ(linear(*PixelFormat::parse(name), {1365, 4}).planes[0].stride, 5464U) << name;
  }
}

/// V4L2's single-buffer formats state only the stride of luma; that of chroma follows from it (Documentation:
/// bytesperline).
TEST(Linear, PlanesOfOneObjectKeepV4l2sProportion) {
  const Layout layout = linear(formats::yuv420, {656, 480}, {.stride_alignment = 64});
  EXPECT_EQ(layout.planes[0].stride, 768U);
  EXPECT_EQ(layout.planes[1].stride, 384U);
  const Layout odd = linear(formats::nv12, {5, 4});
  EXPECT_EQ(odd.planes[0].stride, 6U);
  EXPECT_EQ(odd.planes[1].stride, 6U);
  const Layout full = linear(*PixelFormat::parse("NV24"), {100, 4}, {.stride_alignment = 64});
  EXPECT_EQ(full.planes[0].stride, 128U);
  EXPECT_EQ(full.planes[1].stride, 256U);
}

TEST(Linear, SeparateObjectsAreEachAsTightAsTheyCan) {
  Constraints constraints{.stride_alignment = 64, .offset_alignment = 4096, .size_alignment = 4096};
  constraints.separate_objects = true;
  const Layout layout = linear(formats::yuv420, {656, 480}, constraints);
  EXPECT_EQ(layout.object_count(), 3U);
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(layout.planes[i].object, i);
    EXPECT_EQ(layout.planes[i].offset, 0U);
  }
  EXPECT_EQ(layout.planes[0].stride, 704U);
  EXPECT_EQ(layout.planes[1].stride, 384U);
  const auto sizes = layout.object_sizes(constraints);
  EXPECT_EQ(sizes[0], 339'968U);  // 704 * 480 = 337920
  EXPECT_EQ(sizes[1], 94'208U);   // 384 * 240 = 92160
  EXPECT_EQ(sizes[3], 0U);
}

TEST(Linear, ACamerasSizesAreMinimums) {
  Constraints constraints;
  constraints.min_stride[0] = 8192;
  constraints.min_object_size[0] = 10'000'000;
  const Layout layout = linear(formats::xrgb8888, {1280, 720}, constraints);
  EXPECT_EQ(layout.planes[0].stride, 8192U);
  EXPECT_EQ(layout.object_sizes(constraints)[0], 10'000'000U);
  EXPECT_EQ(layout.object_sizes()[0], 8192U * 720U);
}

TEST(Linear, RefusesWhatItCannotLayOut) {
  for (const Size size : {Size{0, 720}, Size{1280, 0}, Size{16385, 1}, Size{1, 16385}, Size{max32, max32}}) {
    const auto layout = Layout::linear(formats::xrgb8888, size);
    ASSERT_FALSE(layout);
    EXPECT_EQ(layout.error().code(), EINVAL);
    EXPECT_TRUE(has(std::string(layout.error().detail()), std::to_string(size.width))) << layout.error().message();
  }
  EXPECT_FALSE(Layout::linear(formats::mjpeg, {640, 480}));
  EXPECT_FALSE(Layout::linear(PixelFormat::of('Z', 'Z', 'Z', 'Z'), {640, 480}));
  EXPECT_FALSE(Layout::linear(formats::xrgb8888, {640, 480}, {.stride_alignment = 3}));
  EXPECT_FALSE(Layout::linear(formats::xrgb8888, {640, 480}, {.offset_alignment = 12}));
}

TEST(Linear, RefusesWhatDoesNotFit32Bits) {
  EXPECT_FALSE(Layout::linear(formats::nv12, {640, 480}, {.stride_alignment = 1U << 31U})) << "the second offset";
  Constraints stride;
  stride.min_stride[0] = max32;
  EXPECT_FALSE(Layout::linear(formats::xrgb8888, {640, 480}, {.stride_alignment = 2, .min_stride = stride.min_stride}));
  EXPECT_FALSE(Layout::linear(formats::nv12, {640, 480}, stride));
  EXPECT_TRUE(Layout::linear(formats::xrgb8888, {640, 480}, stride)) << "one plane at offset 0 fits";
}

TEST(Linear, TheLargestLayoutOfEveryFormatIsValidOrRefused) {
  for (const FormatInfo& info : known_formats()) {
    if (info.is_opaque) continue;
    const auto layout = Layout::linear(info.format, {max_dimension, max_dimension});
    ASSERT_TRUE(layout) << info.name;
    const auto sizes = layout->object_sizes();
    EXPECT_TRUE(layout->validate(sizes)) << info.name;
    EXPECT_GE(sizes[0], layout->pixel_bytes()) << info.name;
  }
}

// --- an independent model -------------------------------------------------------------------------------------------

/// The position of the last byte of a plane's last pixel, counted sample by sample.
std::uint64_t last_byte(const Layout& layout, std::uint32_t index) {
  const FormatInfo& info = *format_info(layout.format);
  const PlaneInfo& plane = info.planes[index];
  const std::uint64_t last_sample_x = (layout.size.width - 1) / plane.horizontal_sub;
  const std::uint64_t last_sample_y = (layout.size.height - 1) / plane.vertical_sub;
  const std::uint64_t last_block = last_sample_x / plane.block_width;
  // Packed samples have the same number of bits. Pixels that share their chroma need the whole block.
  const std::uint64_t used = info.plane_count == 1 ? plane.block_width : last_sample_x % plane.block_width + 1;
  const std::uint64_t bytes_in_block = (used * plane.block_bytes * 8 / plane.block_width + 7) / 8;
  return layout.planes[index].offset + last_sample_y * layout.planes[index].stride + last_block * plane.block_bytes +
         bytes_in_block - 1;
}

template <typename T>
T pick(std::mt19937& random, std::initializer_list<T> values) {
  return *(values.begin() + random() % values.size());
}

std::uint32_t random_below(std::mt19937& random, std::uint32_t limit) {
  return static_cast<std::uint32_t>(random() % limit);
}

PixelFormat random_raw_format(std::mt19937& random) {
  while (true) {
    const FormatInfo& info = known_formats()[random() % known_formats().size()];
    if (!info.is_opaque) return info.format;
  }
}

Constraints random_constraints(std::mt19937& random) {
  Constraints constraints;
  constraints.stride_alignment = pick(random, {0U, 1U, 2U, 64U, 256U, 4096U});
  constraints.offset_alignment = pick(random, {0U, 1U, 16U, 4096U, 65536U});
  constraints.size_alignment = pick(random, {0U, 1U, 4096U, 4100U, 65536U});
  constraints.separate_objects = random() % 2 == 0;
  for (auto& stride : constraints.min_stride) stride = pick(random, {0U, 0U, 100U, 5000U, 40'001U});
  for (auto& size : constraints.min_object_size) size = pick<std::uint64_t>(random, {0, 0, 4096, 3'000'001});
  return constraints;
}

TEST(LayoutModel, RandomLinearLayoutsKeepEveryConstraint) {
  std::mt19937 random(20240229);  // NOLINT: the same cases on every run
  for (int round = 0; round < 20'000; ++round) {
    const PixelFormat format = random_raw_format(random);
    const Size size{random_below(random, 5000) + 1, random_below(random, 3000) + 1};
    const Constraints constraints = random_constraints(random);
    const auto made = Layout::linear(format, size, constraints);
    ASSERT_TRUE(made) << made.error().message();
    const Layout& layout = *made;
    const auto sizes = layout.object_sizes(constraints);
    const auto divides = [](std::uint64_t alignment, std::uint64_t value) {
      return alignment == 0 || value % alignment == 0;
    };

    std::uint64_t previous_end = 0;
    for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
      const PlaneLayout& plane = layout.planes[i];
      ASSERT_TRUE(divides(constraints.stride_alignment, plane.stride)) << layout.describe();
      ASSERT_TRUE(divides(constraints.offset_alignment, plane.offset)) << layout.describe();
      ASSERT_GE(plane.stride, constraints.min_stride[i]) << layout.describe();
      ASSERT_EQ(plane.object, constraints.separate_objects ? i : 0) << layout.describe();
      ASSERT_LT(last_byte(layout, i), sizes[plane.object]) << layout.describe();
      if (!constraints.separate_objects) {
        ASSERT_GE(plane.offset, previous_end) << "planes overlap: " << layout.describe();
        previous_end = last_byte(layout, i) + 1;
      }
    }
    for (std::uint32_t i = 0; i < layout.object_count(); ++i) {
      ASSERT_TRUE(divides(constraints.size_alignment, sizes[i])) << layout.describe();
      ASSERT_GE(sizes[i], constraints.min_object_size[i]) << layout.describe();
    }
    ASSERT_TRUE(layout.validate({sizes.data(), layout.object_count()})) << layout.describe();
  }
}

/// A layout as an attacker or a broken driver might send it.
Layout random_nonsense(std::mt19937& random) {
  Layout layout;
  layout.size = {pick(random, {0U, 1U, 2U, 3U, 640U, 16384U, 16385U, max32}),
                 pick(random, {0U, 1U, 2U, 3U, 480U, 16384U, max32})};
  layout.format = random() % 16 == 0 ? PixelFormat{static_cast<std::uint32_t>(random())} : random_raw_format(random);
  if (random() % 16 == 0) layout.format = formats::mjpeg;
  layout.modifier =
      pick(random, {Modifier::linear(), Modifier::linear(), Modifier::implicit(), Modifier::from_value(1ULL << 56U)});
  const FormatInfo* info = format_info(layout.format);
  layout.plane_count = random() % 8 == 0 || info == nullptr ? random_below(random, 7) : info->plane_count;
  for (PlaneLayout& plane : layout.planes) {
    plane.object = pick(random, {0U, 0U, 0U, 1U, 2U, 3U, 4U, max32});
    plane.offset = pick(random, {0U, 0U, 1U, 4096U, 1U << 31U, max32});
    plane.stride = pick(random, {0U, 1U, 640U, 2560U, 65536U, 131'072U, max32});
  }
  layout.opaque_bytes = pick<std::uint64_t>(random, {0, 0, 1, 4096, 1ULL << 40U, max64});
  return layout;
}

TEST(LayoutModel, ValidateNeverAcceptsAByteOutside) {
  std::mt19937 random(7);  // NOLINT: the same cases on every run
  int accepted = 0;
  for (int round = 0; round < 300'000; ++round) {
    const Layout layout = random_nonsense(random);
    std::vector<std::uint64_t> sizes(random() % 5);
    for (auto& size : sizes)
      size = pick<std::uint64_t>(random, {0, 1, 4096, 307'200, 1'228'800, 1ULL << 32U, 1ULL << 50U, max64});
    const auto result = layout.validate(sizes);
    (void)layout.describe();  // must survive anything
    (void)layout.pixel_bytes();
    (void)layout.object_sizes();
    if (!result) {
      ASSERT_FALSE(result.error().detail().empty());
      continue;
    }
    ++accepted;
    ASSERT_GE(layout.plane_count, 1U);
    ASSERT_LE(layout.plane_count, max_planes);
    const FormatInfo* info = format_info(layout.format);
    for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
      ASSERT_LT(layout.planes[i].object, sizes.size());
      const std::uint64_t size = sizes[layout.planes[i].object];
      ASSERT_LT(layout.planes[i].offset, size);
      if (i == 0) {
        ASSERT_LE(layout.opaque_bytes, size - layout.planes[i].offset);
      }
      if (info == nullptr || info->is_opaque || layout.modifier.is_vendor()) continue;
      ASSERT_LT(last_byte(layout, i), size) << layout.describe();
      ASSERT_GE(layout.planes[i].stride, layout.row_bytes(i)) << layout.describe();
    }
  }
  EXPECT_GT(accepted, 1000) << "the nonsense must contain some sense, or nothing was tested";
}

// --- validate -------------------------------------------------------------------------------------------------------

TEST(Validate, TheLastByteDecides) {
  const Layout layout = linear(formats::xrgb8888, {100, 10}, {.stride_alignment = 512});
  const std::uint64_t needed = 9 * 512 + 400;  // the last row needs only its pixels
  EXPECT_TRUE(layout.validate(std::array{needed}));
  const auto short_by_one = layout.validate(std::array{needed - 1});
  ASSERT_FALSE(short_by_one);
  EXPECT_EQ(short_by_one.error().code(), EINVAL);
  EXPECT_TRUE(has(refusal(short_by_one), "plane 0")) << refusal(short_by_one);
  EXPECT_TRUE(has(refusal(short_by_one), "5008")) << refusal(short_by_one);
  EXPECT_TRUE(has(refusal(short_by_one), "5007")) << refusal(short_by_one);
}

TEST(Validate, EveryPlaneIsChecked) {
  const std::uint64_t size = 640 * 480 * 3 / 2;
  for (std::uint32_t i = 0; i < 3; ++i) {
    Layout layout = linear(formats::yuv420, {640, 480});
    ASSERT_TRUE(layout.validate(std::array{size}));
    layout.planes[i].offset = static_cast<std::uint32_t>(size);
    const std::string said = refusal(layout.validate(std::array{size}));
    EXPECT_TRUE(has(said, "plane " + std::to_string(i))) << said;
  }
}

TEST(Validate, AnOverflowIn32BitsIsSeen) {
  Layout layout = linear(formats::xrgb8888, {16, 16384});
  layout.planes[0].stride = 1U << 18U;  // 2^18 * 2^14 = 2^32: zero in 32 bits
  EXPECT_FALSE(layout.validate(std::array<std::uint64_t, 1>{1U << 20U}));
  EXPECT_TRUE(layout.validate(std::array<std::uint64_t, 1>{1ULL << 32U}));
}

TEST(Validate, AStrideMustHoldARow) {
  Layout layout = linear(formats::xrgb8888, {640, 480});
  layout.planes[0].stride = 2559;
  const std::string said = refusal(layout.validate(std::array{max64}));
  EXPECT_TRUE(has(said, "plane 0") && has(said, "2559") && has(said, "2560")) << said;
}

TEST(Validate, ObjectsMustExist) {
  Layout layout = linear(formats::nv12, {640, 480}, {.separate_objects = true});
  EXPECT_TRUE(layout.validate(std::array<std::uint64_t, 2>{307'200, 153'600}));
  const std::string said = refusal(layout.validate(std::array<std::uint64_t, 1>{307'200}));
  EXPECT_TRUE(has(said, "plane 1") && has(said, "dma-buf 1")) << said;
  EXPECT_FALSE(layout.validate({}));
}

TEST(Validate, PlaneCountsMustBeTheFormats) {
  Layout layout = linear(formats::nv12, {640, 480});
  for (const std::uint32_t count : {0U, 1U, 3U, 5U, max32}) {
    layout.plane_count = count;
    const std::string said = refusal(layout.validate(std::array{max64}));
    EXPECT_TRUE(has(said, std::to_string(count))) << said;
  }
}

TEST(Validate, ImplicitIsCheckedLikeLinear) {
  Layout layout = linear(formats::xrgb8888, {640, 480});
  layout.modifier = Modifier::implicit();
  EXPECT_TRUE(layout.validate(std::array<std::uint64_t, 1>{640 * 480 * 4}));
  EXPECT_FALSE(layout.validate(std::array<std::uint64_t, 1>{640 * 480 * 4 - 1}));
}

TEST(Validate, VendorModifiersMayHaveMorePlanesButNoOffsetOutside) {
  Layout layout = linear(formats::xrgb8888, {640, 480});
  layout.modifier = Modifier::from_value(1ULL << 56U | 4);
  layout.plane_count = 2;  // compression data
  layout.planes[1] = {.object = 0, .offset = 1'228'800, .stride = 64};
  EXPECT_TRUE(layout.validate(std::array<std::uint64_t, 1>{1'228'801}));
  const std::string said = refusal(layout.validate(std::array<std::uint64_t, 1>{1'228'800}));
  EXPECT_TRUE(has(said, "plane 1") && has(said, "1228800")) << said;
  layout.plane_count = 5;
  EXPECT_FALSE(layout.validate(std::array{max64}));
}

TEST(Validate, SizesHaveLimits) {
  Layout layout = linear(formats::xrgb8888, {640, 480});
  for (const Size size : {Size{0, 480}, Size{640, 0}, Size{16385, 480}, Size{640, 16385}}) {
    layout.size = size;
    EXPECT_FALSE(layout.validate(std::array{max64}));
  }
}

// --- opaque ---------------------------------------------------------------------------------------------------------

TEST(Opaque, IsBytes) {
  const auto layout = Layout::opaque(formats::mjpeg, {1280, 720}, 1'000'000);
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->plane_count, 1U);
  EXPECT_EQ(layout->object_sizes()[0], 1'000'000U);
  EXPECT_EQ(layout->pixel_bytes(), 1'000'000U);
  EXPECT_EQ(layout->row_bytes(0), 0U);
  EXPECT_TRUE(layout->validate(std::array<std::uint64_t, 1>{1'000'000}));
  EXPECT_FALSE(layout->validate(std::array<std::uint64_t, 1>{999'999}));
}

TEST(Opaque, RefusesNothing) {
  EXPECT_FALSE(Layout::opaque(formats::mjpeg, {1280, 720}, 0));
  EXPECT_FALSE(Layout::opaque(formats::mjpeg, {0, 720}, 100));
}

TEST(Opaque, CapacityBeyondTheAddressSpaceIsRefusedNotWrapped) {
  auto layout = Layout::opaque(formats::h264, {1280, 720}, max64);
  ASSERT_TRUE(layout);
  layout->planes[0].offset = 4096;
  EXPECT_FALSE(layout->validate(std::array<std::uint64_t, 1>{4096 + 100}));
  EXPECT_EQ(layout->object_sizes({.size_alignment = 4096})[0], max64) << "the highest number, never a small one";
}

// --- words ----------------------------------------------------------------------------------------------------------

TEST(Layout, DescribesItself) {
  EXPECT_EQ(linear(formats::xrgb8888, {1280, 720}).describe(), "1280x720 XRGB8888 LINEAR stride 5120");
  EXPECT_EQ(linear(formats::nv12, {640, 480}).describe(), "640x480 NV12 LINEAR stride 640,640 offset 0,307200");
  EXPECT_EQ(linear(formats::nv12, {640, 480}, {.separate_objects = true}).describe(),
            "640x480 NV12 LINEAR stride 640,640 offset 0,0 object 0,1");
  EXPECT_EQ(Layout::opaque(formats::mjpeg, {640, 480}, 5000)->describe(), "640x480 MJPEG up to 5000 bytes");
}

TEST(Layout, OutOfRangePlanesHaveNothing) {
  const Layout layout = linear(formats::nv12, {640, 480});
  for (const std::uint32_t plane : {2U, 4U, max32}) {
    EXPECT_EQ(layout.row_bytes(plane), 0U);
    EXPECT_EQ(layout.rows(plane), 0U);
  }
}

}  // namespace
}  // namespace dmaflow
