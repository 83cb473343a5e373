// What v4l2 computes without a device.
#include "../../backends/v4l2/controls.hpp"
#include "../../backends/v4l2/interval.hpp"
#include "../../backends/v4l2/ports.hpp"
#include "../../backends/v4l2/sequence.hpp"

#include <gtest/gtest.h>

namespace dmaflow::v4l2 {
namespace {

TEST(V4l2Sequence, ContinuesOverTheWrapOf32Bits) {
  Sequence sequence;
  EXPECT_EQ(sequence.extend(0xfffffffe), 0xfffffffeU);
  EXPECT_EQ(sequence.extend(0xffffffff), 0xffffffffU);
  EXPECT_EQ(sequence.extend(1), 0x100000001U) << "a gap over the wrap is a gap of one";
  EXPECT_EQ(sequence.extend(2), 0x100000002U);
}

TEST(V4l2Sequence, StepsBackWithADriverThatRepeats) {
  Sequence sequence;
  sequence.extend(10);
  EXPECT_EQ(sequence.extend(10), 10U);
  EXPECT_EQ(sequence.extend(9), 9U) << "not 4 billion later";
  sequence.reset();
  EXPECT_EQ(sequence.extend(5), 5U);
  sequence.extend(0);
  EXPECT_EQ(sequence.extend(0xffffffff), 0xffffffffU) << "never below zero";
}

TEST(V4l2Interval, IsKeptInLowestTerms) {
  EXPECT_EQ(reduced(12375, 742500), (Interval{1, 60}));
  EXPECT_EQ(reduced(0, 60), Interval{});
  EXPECT_EQ(reduced(1, 0), Interval{});
  const Interval large = reduced(1ULL << 40, 3ULL << 41);
  EXPECT_NEAR(rate(large), 6.0, 0.001);
}

TEST(V4l2Interval, NtscRatesAreTheSameWish) {
  EXPECT_TRUE(same_rate({1001, 60000}, {1, 60}));
  EXPECT_FALSE(same_rate({1, 50}, {1, 60}));
}

TEST(V4l2Interval, TheHighestUpTo60IsBest) {
  EXPECT_TRUE(better_rate({1, 60}, {1, 30}));
  EXPECT_TRUE(better_rate({1, 60}, {1, 120}));
  EXPECT_FALSE(better_rate({1, 120}, {1, 5}));
  EXPECT_TRUE(better_rate({1, 90}, {1, 120})) << "above, the lowest";
}

TEST(V4l2Names, AreComparedByTheirWords) {
  EXPECT_TRUE(same_name("Power Line Frequency", "power_line_frequency"));
  EXPECT_TRUE(same_name("White Balance, Automatic", "white-balance automatic"));
  EXPECT_TRUE(same_name(" Gain ", "gain"));
  EXPECT_FALSE(same_name("Gain", "Gain 2"));
  EXPECT_FALSE(same_name("Gain2", "Gain 2"));
  EXPECT_FALSE(same_name("", ""));
  EXPECT_FALSE(same_name("--", "__"));
}

v4l2_dv_timings timings(std::uint32_t width, std::uint32_t height, std::uint64_t clock, bool interlaced = false) {
  v4l2_dv_timings result{};
  result.type = V4L2_DV_BT_656_1120;
  result.bt.width = width;
  result.bt.height = height;
  result.bt.pixelclock = clock;
  result.bt.interlaced = interlaced ? 1 : 0;
  return result;
}

TEST(V4l2Timings, ChoosesTheRateAskedForAndNeverInterlaced) {
  const std::vector list = {timings(100, 100, 10000 * 30), timings(100, 100, 10000 * 50, true),
                            timings(100, 100, 10000 * 60), timings(100, 100, 10000 * 120),
                            timings(200, 100, 20000 * 60)};
  const auto chosen = [&](std::optional<Interval> wanted) -> Interval {
    const auto found = choose_timings(list, {100, 100}, wanted);
    return found ? describe(found->bt).interval : Interval{};
  };
  EXPECT_EQ(chosen(std::nullopt), (Interval{1, 60}));
  EXPECT_EQ(chosen(Interval{1, 30}), (Interval{1, 30}));
  EXPECT_EQ(chosen(Interval{1, 120}), (Interval{1, 120}));
  EXPECT_EQ(chosen(Interval{1, 50}), Interval{}) << "only interlaced";
  EXPECT_FALSE(choose_timings(list, {300, 100}, std::nullopt));
}

TEST(V4l2Sizes, AGridContainsItsStepsOnly) {
  const SizeRange grid{.min = {16, 16}, .max = {1920, 1080}, .step = {16, 2}};
  EXPECT_TRUE(grid.contains({1920, 1080}));
  EXPECT_FALSE(grid.contains({1912, 1080}));
  EXPECT_FALSE(grid.contains({1936, 1080}));
  EXPECT_FALSE(grid.contains({8, 8}));
}

}  // namespace
}  // namespace dmaflow::v4l2
