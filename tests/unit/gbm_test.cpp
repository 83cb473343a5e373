// The parts of GBM that need no device: the size to ask a driver for so that constraints are met, and the errors
// without a device.
#include "../../backends/gbm/fit.hpp"

#include "support.hpp"

#include <dmaflow/gbm.hpp>

#include <array>
#include <filesystem>

#include <unistd.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::gbm;

Layout linear(Size size, PixelFormat format = formats::xrgb8888) { return *Layout::linear(format, size); }

/// A layout as a driver would make it that aligns rows to 64 bytes.
Layout made(Size size) { return *Layout::linear(formats::xrgb8888, size, {.stride_alignment = 64}); }

constexpr std::array<std::uint64_t, 1> one_megabyte = {1'048'576};

TEST(GbmFit, NothingAskedNothingMissed) {
  EXPECT_FALSE(misfit_of(linear({320, 240}), one_megabyte, {}));
  EXPECT_FALSE(larger_size(linear({320, 240}), one_megabyte, {}, {320, 240}));
}

TEST(GbmFit, EachConstraintIsSeenByItself) {
  const Layout layout = linear({321, 241});  // rows of 1284 bytes
  const auto misses = [&](const Constraints& constraints) {
    return misfit_of(layout, one_megabyte, constraints).has_value();
  };
  EXPECT_FALSE(misses({.min_stride = {1284}}));
  EXPECT_TRUE(misses({.min_stride = {1285}}));
  EXPECT_FALSE(misses({.stride_alignment = 4}));
  EXPECT_TRUE(misses({.stride_alignment = 8}));
  EXPECT_FALSE(misses({.min_object_size = {1'048'576}}));
  EXPECT_TRUE(misses({.min_object_size = {1'048'577}}));
  EXPECT_FALSE(misses({.size_alignment = 4096}));
  EXPECT_TRUE(misses({.size_alignment = 3000}));
  EXPECT_FALSE(misses({.separate_objects = true}));
}

TEST(GbmFit, PlanesInOneDmaBufAreNotSeparateAndOffsetsCount) {
  const Layout layout = linear({322, 242}, formats::nv12);
  EXPECT_TRUE(misfit_of(layout, one_megabyte, {.separate_objects = true}));
  EXPECT_TRUE(misfit_of(layout, one_megabyte, {.offset_alignment = 4096}));
  EXPECT_FALSE(misfit_of(layout, one_megabyte, {.offset_alignment = 4}));
}

TEST(GbmFit, AWiderBufferMeetsStrides) {
  for (const Constraints& constraints :
       {Constraints{.min_stride = {6000}}, Constraints{.stride_alignment = 4096},
        Constraints{.stride_alignment = 1024, .min_stride = {5121}}, Constraints{.stride_alignment = 256}}) {
    const Size asked{1000, 500};
    Layout layout = made(asked);
    if (!misfit_of(layout, {}, constraints)) continue;
    const auto wider = larger_size(layout, {}, constraints, asked);
    ASSERT_TRUE(wider);
    EXPECT_EQ(wider->height, asked.height);
    layout.planes = made(*wider).planes;
    EXPECT_FALSE(misfit_of(layout, {}, constraints)) << wider->width;
  }
}

TEST(GbmFit, AHigherBufferMeetsSizes) {
  const Size asked{1280, 720};
  const std::array<std::uint64_t, 1> tight = {std::uint64_t{5120} * 720};
  const Constraints constraints{.min_object_size = {5'000'000}};
  const auto higher = larger_size(linear(asked), tight, constraints, asked);
  ASSERT_TRUE(higher);
  EXPECT_EQ(higher->width, asked.width);
  EXPECT_GE(std::uint64_t{5120} * higher->height, 5'000'000U);
}

TEST(GbmFit, WhatALargerBufferDoesNotHelpIsNotTried) {
  Layout implicit = linear({1280, 720});
  implicit.modifier = Modifier::implicit();
  const Constraints wide{.min_stride = {8192}};
  EXPECT_FALSE(larger_size(implicit, one_megabyte, wide, {1280, 720})) << "another arrangement";
  EXPECT_FALSE(larger_size(linear({1280, 720}), one_megabyte, {.min_stride = {0xffff'ffff}}, {1280, 720}));
  EXPECT_FALSE(larger_size(linear({1280, 720}), one_megabyte, {.min_object_size = {~0ULL}}, {1280, 720}));
  EXPECT_FALSE(larger_size(linear({322, 242}, formats::nv12), one_megabyte, {.offset_alignment = 4096}, {322, 242}));
}

TEST(GbmFit, AlignmentsArePowersOfTwo) {
  EXPECT_TRUE(are_alignments({}));
  EXPECT_TRUE(are_alignments({.stride_alignment = 1, .offset_alignment = 4096}));
  EXPECT_FALSE(are_alignments({.stride_alignment = 3}));
  EXPECT_FALSE(are_alignments({.offset_alignment = 100}));
}

TEST(GbmOpenTest, WithoutNodesItSaysWhereItLooked) {
  const auto empty = std::filesystem::temp_directory_path() / ("no-dri-" + std::to_string(::getpid()));
  std::filesystem::create_directory(empty);
  const test::LeakCheck leaks;
  const auto none = Device::open({}, {.directory = empty});
  EXPECT_TRUE(test::fails_with(none, ENOENT));
  EXPECT_EQ(none.error().device(), empty.string());
  const auto missing = Device::open((empty / "card0").string(), {.directory = empty});
  EXPECT_TRUE(test::fails_with(missing, ENOENT));
  EXPECT_NE(missing.error().detail().find("none"), std::string_view::npos);
  EXPECT_TRUE(test::fails_with(Device::open("/dev/null"), ENOTTY));
  std::filesystem::remove(empty);
}

}  // namespace
