// y4m's table against the table of formats: no row is read beyond its end, for any width and any starting point.
#include "y4m.hpp"
#include "raw_file.hpp"

#include <dmaflow/format.hpp>

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

using namespace dmaflow;

namespace {

TEST(Y4m, NoRowIsReadBeyondItsEnd) {
  int mappings = 0;
  for (const FormatInfo& info : known_formats()) {
    const y4m::Mapping* mapping = y4m::mapping_of(info.format);
    if (mapping == nullptr) continue;
    ++mappings;
    for (std::uint32_t width = 1; width <= 9; ++width) {
      const Layout layout = Layout::linear(info.format, {width, 4}).value();
      for (std::uint32_t left = 0; left < width; ++left) {
        for (std::size_t i = 0; i < mapping->component_count; ++i) {
          const y4m::Component& where = mapping->components[i];
          ASSERT_LT(where.plane, info.plane_count) << info.name;
          const auto sub = i == 0 ? 1U : unsigned{mapping->horizontal_sub};
          const auto samples = y4m::component_size(*mapping, i, {width - left, 4}).width;
          const auto end = where.offset + (left / sub + samples - 1) * where.step + mapping->sample_bytes;
          EXPECT_LE(end, layout.row_bytes(where.plane)) << info.name << " width " << width << " from " << left;
          EXPECT_EQ(y4m::component_size(*mapping, i, {width, 4}).height, layout.rows(where.plane)) << info.name;
        }
      }
    }
  }
  EXPECT_EQ(mappings, std::ranges::count(y4m::format_names(), ' ') + 1) << "the table of formats has them all";
}

TEST(Y4m, TheHeaderHasTheRateInLowestTerms) {
  const y4m::Mapping& mapping = *y4m::mapping_of(formats::yuv420);
  EXPECT_EQ(y4m::header(mapping, {2, 2}, {.numerator = 40, .denominator = 1000}, ColorInfo::Range::limited),
            "YUV4MPEG2 W2 H2 F25:1 Ip A0:0 C420mpeg2 XCOLORRANGE=LIMITED\n");
  EXPECT_EQ(y4m::header(mapping, {2, 2}, {}, ColorInfo::Range::unspecified),
            "YUV4MPEG2 W2 H2 F30:1 Ip A0:0 C420mpeg2\n");
}

TEST(RawFile, TheLayoutOfAFrameIsTightAndAsLargeAsItsPixels) {
  for (const FormatInfo& info : known_formats()) {
    if (info.is_opaque) continue;
    const Layout layout = raw_file::frame_layout(info.format, {13, 7}).value();
    const auto sizes = std::vector<std::uint64_t>{layout.pixel_bytes()};
    EXPECT_TRUE(layout.validate(sizes)) << info.name;
    std::uint64_t offset = 0;
    for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
      EXPECT_EQ(layout.planes[i].offset, offset) << info.name;
      offset += std::uint64_t{layout.planes[i].stride} * layout.rows(i);
    }
    EXPECT_EQ(offset, layout.pixel_bytes()) << info.name;
  }
}

TEST(RawFile, EachNameOfFfmpegsIsForOneKnownFormat) {
  std::vector<std::string_view> names;
  for (const FormatInfo& info : known_formats()) {
    const auto name = info.is_opaque ? std::string_view() : raw_file::ffmpeg_pixel_format(info.format);
    if (name.empty()) continue;
    EXPECT_EQ(std::ranges::find(names, name), names.end()) << name;
    names.push_back(name);
  }
  EXPECT_EQ(names.size(), 49U);
}

}  // namespace
