// The computations of the v4l2 backend, without a device.
#include "../../backends/v4l2/controls.hpp"
#include "../../backends/v4l2/device.hpp"
#include "../../backends/v4l2/interval.hpp"
#include "../../backends/v4l2/ports.hpp"
#include "../../backends/v4l2/sequence.hpp"
#include "support.hpp"

#include <cerrno>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <linux/videodev2.h>
#include <sys/stat.h>

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

// --- The first device ------------------------------------------------------------------------------------------------

std::string refusal(std::vector<std::string> nodes, Direction direction = Direction::capture) {
  const auto device = Device::open_first(nodes, direction);
  EXPECT_FALSE(device);
  return device ? "" : device.error().message();
}
testing::AssertionResult has(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << part << "\" is not in: " << text;
}

/// Fake devices behind the system-call seam: a node has the properties that the test gives it.
class Nodes : public sys::Hook {
 public:
  struct Node {
    std::uint32_t caps = 0;
    bool is_busy = false;
  };
  Nodes() { sys::set_hook(this); }
  ~Nodes() override { sys::set_hook(nullptr); }
  Nodes(const Nodes&) = delete;
  Nodes& operator=(const Nodes&) = delete;
  void add(const std::string& path, Node node) { nodes_[number_of(path)] = node; }

  int before(const sys::Call& call) noexcept override {
    struct stat status{};
    if (std::string_view(call.name) != "ioctl" || ::fstat(call.fd, &status) != 0) return proceed;
    const auto node = nodes_.find(status.st_rdev);
    if (node == nodes_.end()) return proceed;
    if (call.request == VIDIOC_REQBUFS) {
      const auto* request = static_cast<const v4l2_requestbuffers*>(call.argument);
      EXPECT_EQ(request->count, 0U) << "nothing is taken";
      return node->second.is_busy ? EBUSY : pretend;
    }
    if (call.request != VIDIOC_QUERYCAP) return ENOTTY;
    auto& caps = *static_cast<v4l2_capability*>(const_cast<void*>(call.argument));
    caps.capabilities = V4L2_CAP_DEVICE_CAPS;
    caps.device_caps = node->second.caps;
    return pretend;
  }

 private:
  static dev_t number_of(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return status.st_rdev;
  }
  std::map<dev_t, Node> nodes_;
};

constexpr std::uint32_t a_camera = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
constexpr std::uint32_t an_output = V4L2_CAP_VIDEO_OUTPUT | V4L2_CAP_STREAMING;
constexpr std::uint32_t of_metadata = V4L2_CAP_META_CAPTURE | V4L2_CAP_STREAMING;
const std::vector<std::string> three = {"/dev/null", "/dev/zero", "/dev/full"};

TEST(V4l2First, IsACameraThatNobodyUses) {
  Nodes nodes;
  nodes.add("/dev/null", {.caps = an_output});
  nodes.add("/dev/zero", {.caps = a_camera, .is_busy = true});
  nodes.add("/dev/full", {.caps = a_camera});
  EXPECT_EQ(test::must(Device::open_first(three, Direction::capture)).info().path, "/dev/full");
  EXPECT_EQ(test::must(Device::open_first(three, Direction::output)).info().path, "/dev/null");
  nodes.add("/dev/null", {.caps = of_metadata});
  nodes.add("/dev/zero", {.caps = a_camera});
  EXPECT_EQ(test::must(Device::open_first(three, Direction::capture)).info().path, "/dev/zero") << "in their order";
}

TEST(V4l2First, NodesThatNeedTheMediaControllerComeLast) {
  Nodes nodes;
  nodes.add("/dev/null", {.caps = a_camera | V4L2_CAP_IO_MC});
  nodes.add("/dev/zero", {.caps = an_output});
  nodes.add("/dev/full", {.caps = a_camera});
  EXPECT_EQ(test::must(Device::open_first(three, Direction::capture)).info().path, "/dev/full");
  nodes.add("/dev/full", {.caps = a_camera, .is_busy = true});
  const auto found = test::must(Device::open_first(three, Direction::capture));
  EXPECT_EQ(found.info().path, "/dev/null") << "it may be set up already";
  EXPECT_TRUE(found.info().needs_media_controller);
}

TEST(V4l2First, WhereNoneCanBeUsedEachNodeHasItsReason) {
  Nodes nodes;
  nodes.add("/dev/null", {.caps = an_output});
  nodes.add("/dev/zero", {.caps = a_camera, .is_busy = true});
  nodes.add("/dev/full", {.caps = an_output});
  const auto device = Device::open_first(three, Direction::capture);
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().code(), EBUSY) << "it may come free";
  const std::string said = device.error().message();
  EXPECT_TRUE(has(said, "no camera was found: /dev/zero: VIDIOC_REQBUFS: EBUSY: in use: another program"));
  EXPECT_TRUE(has(said, "fuser -v /dev/zero"));
  EXPECT_TRUE(has(said, "; /dev/null, /dev/full: a video output device"));
  EXPECT_EQ(said.find('\n'), std::string::npos) << "one line";
}

TEST(V4l2First, WithoutACameraItSaysSoAndWhatToDo) {
  const std::string camera = refusal({});
  EXPECT_TRUE(
      has(camera, "/dev/video*: open: No such device (ENODEV): no camera was found: there is no /dev/video*; "));
  EXPECT_TRUE(has(camera, "plug one in"));
  EXPECT_TRUE(has(camera, "modprobe vivid"));
  EXPECT_TRUE(has(camera, "by its path"));
  EXPECT_EQ(camera.find('\n'), std::string::npos) << "one line";
  EXPECT_TRUE(has(refusal({}, Direction::output), "no video output was found: "));
}

TEST(V4l2First, WhatIsSomethingElseIsNamed) {
  EXPECT_TRUE(has(refusal({"/dev/null"}), "no camera was found: /dev/null: not a V4L2 device; plug one in"));
  EXPECT_TRUE(has(refusal({"/dev/null", "/dev/zero"}), ": /dev/null, /dev/zero: not a V4L2 device; plug one in"));
  const std::vector<std::string> many(6, "/dev/null");
  EXPECT_TRUE(has(refusal(many), "/dev/null and 2 more: not a V4L2 device"));
  EXPECT_TRUE(has(refusal({"/dev/video-unplugged"}), "no camera was found"));
}

TEST(V4l2First, WithoutTheRightItNamesTheDeviceAndWhatGrantsIt) {
  for (const int code : {EACCES, EPERM}) {
    const test::FailNth denied(2, code, "open");
    const auto device = Device::open_first(std::vector<std::string>{"/dev/zero", "/dev/null"}, Direction::capture);
    ASSERT_TRUE(!device && device.error().code() == code);
    const std::string said = device.error().message();
    EXPECT_TRUE(has(said, "no camera was found: /dev/null: open: E"));
    EXPECT_TRUE(has(said, "you lack the right"));
    EXPECT_TRUE(has(said, "the group `root`")) << "that of the node";
    EXPECT_TRUE(has(said, "usermod -aG root"));
    EXPECT_TRUE(has(said, "seat"));
    EXPECT_TRUE(has(said, "/dev/zero: not a V4L2 device"));
    EXPECT_EQ(said.find('\n'), std::string::npos) << "one line";
  }
}

TEST(V4l2First, ALongListIsCountedNotCut) {
  Nodes nodes;
  std::vector<std::string> many;
  for (int i = 0; i < 40; ++i) many.push_back("/dev/video-of-a-very-long-name-" + std::to_string(i));
  many.emplace_back("/dev/null");
  const std::string said = refusal(many);
  EXPECT_TRUE(has(said, " more"));
  EXPECT_TRUE(has(said, "by its path")) << "what to do is never cut";
}

TEST(V4l2First, AnEmptyPathIsTheFirstThereIsNeverAnEmptyName) {
  if (!video_nodes().empty()) GTEST_SKIP() << "this machine has video devices";
  for (const std::string& said : {Camera::open().error().message(), Camera::open("").error().message(),
                                  Camera::open("", {.input = "HDMI"}).error().message()}) {
    EXPECT_TRUE(has(said, "/dev/video*: open: "));
    EXPECT_TRUE(has(said, "no camera was found"));
  }
  EXPECT_TRUE(has(Output::open().error().message(), "no video output was found"));
}

}  // namespace
}  // namespace dmaflow::v4l2
