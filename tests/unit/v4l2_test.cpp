// What v4l2 computes without a device.
#include "../../backends/v4l2/controls.hpp"
#include "../../backends/v4l2/device.hpp"
#include "../../backends/v4l2/interval.hpp"
#include "../../backends/v4l2/ports.hpp"
#include "../../backends/v4l2/sequence.hpp"
#include "support.hpp"

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

TEST(V4l2Sequence, NeverFallsWhereADriverRepeatsOrBeginsAgain) {
  Sequence sequence;
  sequence.extend(10);
  EXPECT_EQ(sequence.extend(10), 10U);
  EXPECT_EQ(sequence.extend(9), 10U) << "neither lower nor 4 billion later";
  EXPECT_EQ(sequence.extend(0), 10U);
  EXPECT_EQ(sequence.extend(1), 11U) << "and it goes on from there";
  sequence.reset();
  EXPECT_EQ(sequence.extend(5), 5U);
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

std::string refusal(std::vector<std::string> nodes, Direction direction) {
  const auto device = Device::open_first(nodes, direction);
  EXPECT_FALSE(device);
  return device ? "" : device.error().message();
}
testing::AssertionResult has(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << part << "\" is not in: " << text;
}

TEST(V4l2First, WithoutACameraItSaysSoAndWhatToDo) {
  const std::string camera = refusal({}, Direction::capture);
  EXPECT_TRUE(has(camera, "no camera was found: "));
  EXPECT_TRUE(has(camera, "plug one in"));
  EXPECT_TRUE(has(camera, "modprobe vivid"));
  EXPECT_TRUE(has(camera, "--camera"));
  EXPECT_EQ(camera.find('\n'), std::string::npos) << "one line";
  EXPECT_TRUE(has(refusal({}, Direction::output), "no video output was found: "));
}

TEST(V4l2First, WhatIsSomethingElseIsNamed) {
  EXPECT_TRUE(has(refusal({"/dev/null"}, Direction::capture), "no camera was found (/dev/null is something else)"));
  EXPECT_TRUE(
      has(refusal({"/dev/null", "/dev/zero"}, Direction::capture), "(/dev/null, /dev/zero are something else)"));
  const std::vector<std::string> many(6, "/dev/null");
  EXPECT_TRUE(has(refusal(many, Direction::capture), "and others are something else)"));
  EXPECT_TRUE(has(refusal({"/dev/video-unplugged"}, Direction::capture), "no camera was found"));
}

TEST(V4l2First, WithoutTheRightItNamesTheDeviceAndWhatGrantsIt) {
  for (const int code : {EACCES, EPERM}) {
    const test::FailNth denied(2, code, "open");
    const std::string said = refusal({"/dev/zero", "/dev/null"}, Direction::capture);
    EXPECT_TRUE(has(said, "/dev/null: open: "));
    EXPECT_TRUE(has(said, "you lack the right"));
    EXPECT_TRUE(has(said, "the group `root`")) << "that of the node";
    EXPECT_TRUE(has(said, "usermod -aG root"));
    EXPECT_TRUE(has(said, "seat"));
    EXPECT_EQ(said.find('\n'), std::string::npos) << "one line";
  }
}

TEST(V4l2First, AnEmptyPathIsTheFirstThereIsNeverAnEmptyName) {
  if (!video_nodes().empty()) GTEST_SKIP() << "this machine has video devices";
  for (const std::string& said :
       {Camera::open("").error().message(), Camera::open("", {.input = "HDMI"}).error().message()}) {
    EXPECT_TRUE(has(said, "/dev/video*: open: "));
    EXPECT_TRUE(has(said, "no camera was found"));
  }
  EXPECT_TRUE(has(Output::open("").error().message(), "no video output was found"));
}

}  // namespace
}  // namespace dmaflow::v4l2
