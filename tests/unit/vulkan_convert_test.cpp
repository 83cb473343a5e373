// The arithmetic of a conversion on the GPU, tested without one: matrices against the figures of the standards, the
// position in the source of each pixel of the target, and how each format is read.
#include "../../backends/vulkan/convert_math.hpp"

#include "support.hpp"

#include <array>
#include <cmath>
#include <string>

namespace {

using namespace dmaflow;
using namespace dmaflow::vulkan;
using Matrix = ColorInfo::Matrix;
using Range = ColorInfo::Range;

constexpr PixelFormat code(const char (&text)[5]) { return PixelFormat::of(text[0], text[1], text[2], text[3]); }

ColorInfo color(Matrix matrix, Range range) {
  ColorInfo info;
  info.matrix = matrix;
  info.range = range;
  return info;
}

using Triple = std::array<double, 3>;

/// A sample given in the format's own codes, as the GPU reads it: eight bits as n / 255, more bits in the upper bits of
/// 16.
Triple rgb_of(PixelFormat format, const ColorInfo& info, const Triple& codes) {
  const auto matrix = color_matrix(format, {1920, 1080}, info);
  const bool is_wide = format_info(format)->bits_per_component > 8;
  Triple result{};
  for (std::size_t row = 0; row < 3; ++row) {
    result[row] = matrix[row][3];
    for (std::size_t i = 0; i < 3; ++i)
      result[row] += matrix[row][i] * (is_wide ? codes[i] * 64 / 65535 : codes[i] / 255);
  }
  return result;
}

void expect_near(const Triple& is, const Triple& wanted, double tolerance, const std::string& what) {
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(is[i], wanted[i], tolerance) << what << ", channel " << i;
}

// --- Colour

// The well-known figures of every textbook: of luma, of Cr to red, of Cb and Cr to green, of Cb to blue.
TEST(VulkanColour, EightBitMatricesAreThoseOfTheStandards) {
  struct Row {
    Matrix matrix;
    Range range;
    std::array<double, 5> figures;
  };
  const Row rows[] = {
      {Matrix::bt601, Range::limited, {1.164384, 1.596027, -0.391762, -0.812968, 2.017232}},
      {Matrix::bt709, Range::limited, {1.164384, 1.792741, -0.213249, -0.532909, 2.112402}},
      {Matrix::bt2020, Range::limited, {1.164384, 1.678674, -0.187326, -0.650424, 2.141772}},
      {Matrix::bt601, Range::full, {1, 1.402, -0.344136, -0.714136, 1.772}},
      {Matrix::bt709, Range::full, {1, 1.5748, -0.187324, -0.468124, 1.8556}},
      {Matrix::bt2020, Range::full, {1, 1.4746, -0.164553, -0.571353, 1.8814}},
  };
  for (const Row& row : rows) {
    const auto matrix = color_matrix(formats::nv12, {64, 48}, color(row.matrix, row.range));
    const auto& [luma, cr_red, cb_green, cr_green, cb_blue] = row.figures;
    const std::array<Triple, 3> wanted{{{luma, 0, cr_red}, {luma, cb_green, cr_green}, {luma, cb_blue, 0}}};
    for (std::size_t i = 0; i < 3; ++i) {
      expect_near({matrix[i][0], matrix[i][1], matrix[i][2]}, wanted[i], 2e-6,
                  "matrix " + std::to_string(static_cast<int>(row.matrix)) + ", row " + std::to_string(i));
    }
  }
}

// 100% colour bars, in the codes that the standards list for them (rounded: hence the tolerance).
TEST(VulkanColour, TheBarsOfEachStandardAreTheirColours) {
  struct Bar {
    Triple codes;
    Triple rgb;
  };
  const Bar bt601[] = {{{235, 128, 128}, {1, 1, 1}}, {{16, 128, 128}, {0, 0, 0}}, {{81, 90, 240}, {1, 0, 0}},
                       {{145, 54, 34}, {0, 1, 0}},   {{41, 240, 110}, {0, 0, 1}}, {{210, 16, 146}, {1, 1, 0}},
                       {{170, 166, 16}, {0, 1, 1}},  {{106, 202, 222}, {1, 0, 1}}};
  const Bar bt709[] = {{{235, 128, 128}, {1, 1, 1}}, {{16, 128, 128}, {0, 0, 0}}, {{63, 102, 240}, {1, 0, 0}},
                       {{173, 42, 26}, {0, 1, 0}},   {{32, 240, 118}, {0, 0, 1}}, {{219, 16, 138}, {1, 1, 0}},
                       {{188, 154, 16}, {0, 1, 1}},  {{78, 214, 230}, {1, 0, 1}}};
  const Bar bt2020[] = {{{940, 512, 512}, {1, 1, 1}},
                        {{64, 512, 512}, {0, 0, 0}},
                        {{294, 387, 960}, {1, 0, 0}},
                        {{658, 189, 100}, {0, 1, 0}},
                        {{116, 960, 476}, {0, 0, 1}}};
  for (const Bar& bar : bt601) {
    expect_near(rgb_of(formats::nv12, color(Matrix::bt601, Range::limited), bar.codes), bar.rgb, 0.008, "BT.601");
  }
  for (const Bar& bar : bt709) {
    expect_near(rgb_of(formats::yuyv, color(Matrix::bt709, Range::limited), bar.codes), bar.rgb, 0.008, "BT.709");
  }
  for (const Bar& bar : bt2020) {
    expect_near(rgb_of(formats::p010, color(Matrix::bt2020, Range::limited), bar.codes), bar.rgb, 0.002, "BT.2020");
  }
}

TEST(VulkanColour, TenBitsInFullRangeReachFromBlackToWhite) {
  for (const Matrix matrix : {Matrix::bt601, Matrix::bt709, Matrix::bt2020}) {
    const ColorInfo info = color(matrix, Range::full);
    expect_near(rgb_of(formats::p010, info, {0, 512, 512}), {0, 0, 0}, 1e-9, "black");
    expect_near(rgb_of(formats::p010, info, {1023, 512, 512}), {1, 1, 1}, 1e-9, "white");
  }
  // Cr at its highest: 511 of 1023 above the centre, times 2 (1 - Kr).
  const Triple red = rgb_of(formats::p010, color(Matrix::bt709, Range::full), {512, 512, 1023});
  EXPECT_NEAR(red[0], 512.0 / 1023 + 1.5748 * 511 / 1023, 1e-6);
}

TEST(VulkanColour, RgbStaysAsItIsAndLimitedRgbIsSpread) {
  expect_near(rgb_of(formats::xrgb8888, {}, {0, 128, 255}), {0, 128.0 / 255, 1}, 1e-9, "full");
  expect_near(rgb_of(formats::xrgb8888, color(Matrix::unspecified, Range::limited), {16, 125.5, 235}), {0, 0.5, 1},
              1e-9, "limited");
}

TEST(VulkanColour, WhatNobodySaidIsFilledInBySizeAndKind) {
  const auto known = [](PixelFormat format, Size size, const ColorInfo& info = {}) {
    return with_defaults(info, format, size);
  };
  EXPECT_EQ(known(formats::nv12, {720, 576}).matrix, Matrix::bt601);
  EXPECT_EQ(known(formats::nv12, {1280, 720}).matrix, Matrix::bt709);
  EXPECT_EQ(known(formats::nv12, {4000, 719}).matrix, Matrix::bt601) << "lines count, not columns";
  EXPECT_EQ(known(formats::nv12, {64, 48}).range, Range::limited);
  EXPECT_EQ(known(formats::xrgb8888, {64, 48}).range, Range::full);
  EXPECT_EQ(known(formats::nv12, {64, 48}, color(Matrix::identity, Range::full)).matrix, Matrix::bt601)
      << "what is YUV is not RGB, whatever was said";
  const ColorInfo said = color(Matrix::bt2020, Range::full);
  EXPECT_EQ(known(formats::nv12, {64, 48}, said), said);
}

// --- Placement

/// The position in the source of a point of the target.
std::array<double, 2> on_source(const Placement& placement, double x, double y) {
  Parameters p;
  place(placement, p);
  return {double{p.origin[0]} + x * double{p.steps[0]} + y * double{p.steps[2]},
          double{p.origin[1]} + x * double{p.steps[1]} + y * double{p.steps[3]}};
}

TEST(VulkanPlacement, KeepsTheShapeInTheMiddle) {
  struct Row {
    Size source;
    Size target;
    Rotation rotation;
    Rect inside;
  };
  const Row rows[] = {
      {{1280, 720}, {1280, 720}, Rotation::none, {0, 0, 1280, 720}},
      {{1920, 1080}, {1024, 768}, Rotation::none, {0, 96, 1024, 576}},   // bars above and below
      {{640, 480}, {1920, 1080}, Rotation::none, {240, 0, 1440, 1080}},  // bars at the sides
      {{1280, 720}, {720, 1280}, Rotation::by_90, {0, 0, 720, 1280}},    // it fits when rotated
      {{1280, 720}, {1280, 720}, Rotation::by_270, {437, 0, 405, 720}},
      {{1280, 720}, {640, 360}, Rotation::by_180, {0, 0, 640, 360}},
      {{1, 1}, {100, 50}, Rotation::none, {25, 0, 50, 50}},
      {{1, 1}, {1, 1}, Rotation::by_90, {0, 0, 1, 1}},
      {{33, 17}, {7, 5}, Rotation::none, {0, 0, 7, 4}},
      {{1000, 1}, {10, 10}, Rotation::none, {0, 4, 10, 1}},  // never less than one pixel
      {{1, 4096}, {3, 3}, Rotation::none, {1, 0, 1, 3}},
  };
  for (const Row& row : rows) {
    const Placement placement{
        .visible = {0, 0, row.source.width, row.source.height}, .target = row.target, .rotation = row.rotation};
    const Rect inside = inside_of(placement);
    EXPECT_EQ(inside, row.inside) << row.source.width << "x" << row.source.height << " on " << row.target.width << "x"
                                  << row.target.height << ": " << inside.x << "," << inside.y << " " << inside.width
                                  << "x" << inside.height;
    Placement stretched = placement;
    stretched.fit = Fit::stretch;
    EXPECT_EQ(inside_of(stretched), (Rect{0, 0, row.target.width, row.target.height}));
  }
}

// After a rotation by 90 degrees counter-clockwise, the former right edge is at the top: so the target's top left
// corner shows the source's top right corner, and so on.
TEST(VulkanPlacement, CornersMeetCorners) {
  struct Row {
    Rotation rotation;
    std::array<double, 2> first;  // at the target's top left: a corner of the visible part, 0 or 1 in each direction
    std::array<double, 2> last;   // the same at its bottom right
  };
  const Row rows[] = {{Rotation::none, {0, 0}, {1, 1}},
                      {Rotation::by_90, {1, 0}, {0, 1}},
                      {Rotation::by_180, {1, 1}, {0, 0}},
                      {Rotation::by_270, {0, 1}, {1, 0}}};
  const Rect whole_and_part[] = {{0, 0, 640, 360}, {17, 8, 321, 123}, {5, 7, 1, 1}};
  for (const Rect visible : whole_and_part) {
    for (const Row& row : rows) {
      for (const Size target : {Size{640, 360}, Size{101, 333}, Size{1, 1}}) {
        for (const Fit fit : {Fit::contain, Fit::stretch}) {
          const Placement placement{.visible = visible, .target = target, .fit = fit, .rotation = row.rotation};
          const Rect inside = inside_of(placement);
          const auto first = on_source(placement, inside.x, inside.y);
          const auto last =
              on_source(placement, inside.x + double{1} * inside.width, inside.y + double{1} * inside.height);
          const auto wanted = [&](const std::array<double, 2>& corner) {
            return std::array{visible.x + corner[0] * visible.width, visible.y + corner[1] * visible.height};
          };
          for (std::size_t i = 0; i < 2; ++i) {
            EXPECT_NEAR(first[i], wanted(row.first)[i], 1e-2) << target.width << "x" << target.height;
            EXPECT_NEAR(last[i], wanted(row.last)[i], 1e-2) << target.width << "x" << target.height;
          }
        }
      }
    }
  }
}

TEST(VulkanPlacement, TheShaderIsToldTheVisiblePartAndTheTargets) {
  Parameters p;
  place({.visible = {16, 8, 32, 24}, .target = {64, 64}}, p);
  EXPECT_EQ(p.low, (std::array{16, 8}));
  EXPECT_EQ(p.high, (std::array{48, 32}));
  EXPECT_EQ(p.inside, (std::array{0, 8, 64, 56}));
  EXPECT_EQ(p.steps, (std::array{0.5F, 0.0F, 0.0F, 0.5F}));
  EXPECT_EQ(p.origin, (std::array{16.0F, 4.0F}));  // the eight rows above the picture are four rows of the source
}

TEST(VulkanPlacement, ScalesOnlyWhereSizesDiffer) {
  const Rect visible{0, 0, 64, 48};
  EXPECT_FALSE(scales({.visible = visible, .target = {64, 48}}));
  EXPECT_FALSE(scales({.visible = visible, .target = {48, 64}, .rotation = Rotation::by_90}));
  EXPECT_FALSE(scales({.visible = visible, .target = {64, 100}})) << "in the middle, pixel for pixel";
  EXPECT_TRUE(scales({.visible = visible, .target = {64, 100}, .fit = Fit::stretch}));
  EXPECT_TRUE(scales({.visible = visible, .target = {128, 96}}));
  EXPECT_TRUE(scales({.visible = visible, .target = {64, 48}, .rotation = Rotation::by_90}));
  EXPECT_FALSE(scales({.visible = {0, 0, 1, 1}, .target = {1, 1}, .rotation = Rotation::by_270}));
}

TEST(VulkanPlacement, TurnedSizes) {
  EXPECT_EQ(turned({3, 5}, Rotation::none), (Size{3, 5}));
  EXPECT_EQ(turned({3, 5}, Rotation::by_90), (Size{5, 3}));
  EXPECT_EQ(turned({3, 5}, Rotation::by_180), (Size{3, 5}));
  EXPECT_EQ(turned({3, 5}, Rotation::by_270), (Size{5, 3}));
}

// --- Formats

TEST(VulkanSource, EachYuvFormatIsReadAsItLies) {
  struct Row {
    const char (&name)[5];
    SourceKind kind;
    std::uint32_t planes;
    std::array<std::uint32_t, 3> order_of_planes;
    Order chroma_or_pair;  // of the second plane, or of the only one
    std::uint32_t across, down;
  };
  constexpr auto semi = SourceKind::semi_planar;
  constexpr auto planar = SourceKind::planar;
  constexpr auto packed = SourceKind::packed;
  constexpr std::array<std::uint32_t, 3> in_turn{0, 1, 2};
  constexpr std::array<std::uint32_t, 3> crossed{0, 2, 1};
  constexpr Order straight{0, 1, 2, 3};
  constexpr Order swapped{1, 0, 2, 3};
  const Row rows[] = {
      {"NV12", semi, 2, in_turn, straight, 2, 2},       {"NV21", semi, 2, in_turn, swapped, 2, 2},
      {"NV16", semi, 2, in_turn, straight, 2, 1},       {"NV61", semi, 2, in_turn, swapped, 2, 1},
      {"NV24", semi, 2, in_turn, straight, 1, 1},       {"NV42", semi, 2, in_turn, swapped, 1, 1},
      {"P010", semi, 2, in_turn, straight, 2, 2},       {"P210", semi, 2, in_turn, straight, 2, 1},
      {"YU12", planar, 3, in_turn, straight, 2, 2},     {"YV12", planar, 3, crossed, straight, 2, 2},
      {"YU16", planar, 3, in_turn, straight, 2, 1},     {"YU24", planar, 3, in_turn, straight, 1, 1},
      {"YUYV", packed, 1, in_turn, {0, 1, 2, 3}, 2, 1}, {"YVYU", packed, 1, in_turn, {0, 3, 2, 1}, 2, 1},
      {"UYVY", packed, 1, in_turn, {1, 0, 3, 2}, 2, 1}, {"VYUY", packed, 1, in_turn, {1, 2, 3, 0}, 2, 1},
  };
  for (const Row& row : rows) {
    const auto source = source_format(code(row.name));
    ASSERT_TRUE(source) << row.name;
    EXPECT_EQ(source->kind, row.kind) << row.name;
    EXPECT_EQ(source->plane_count, row.planes) << row.name;
    EXPECT_EQ(source->planes, row.order_of_planes) << row.name;
    EXPECT_EQ(source->orders[row.kind == packed ? 0 : 1], row.chroma_or_pair) << row.name;
    EXPECT_EQ(source->chroma_across, row.across) << row.name;
    EXPECT_EQ(source->chroma_down, row.down) << row.name;
  }
}

TEST(VulkanSource, RgbIsOneImageAndWhatHasNoAlphaIsOpaque) {
  for (const PixelFormat format : {formats::xrgb8888, formats::xbgr8888, formats::rgb565, formats::xrgb2101010}) {
    const auto source = source_format(format);
    ASSERT_TRUE(source) << format.name();
    EXPECT_EQ(source->kind, SourceKind::rgb) << format.name();
    EXPECT_EQ(source->plane_count, 1U) << format.name();
    EXPECT_EQ(source->orders[0], (Order{0, 1, 2, 4})) << format.name();
  }
  EXPECT_EQ(source_format(formats::argb8888)->orders[0], (Order{0, 1, 2, 3}));
  EXPECT_EQ(source_format(formats::r8)->orders[0], (Order{0, 0, 0, 4})) << "grey";
}

TEST(VulkanSource, WhatTheShaderCannotReadIsRefused) {
  for (const PixelFormat format :
       {formats::mjpeg, formats::h264, code("C8  "), code("NV15"), code("P030"), PixelFormat{}, code("NONE")}) {
    EXPECT_FALSE(source_format(format)) << format.name();
  }
}

}  // namespace
