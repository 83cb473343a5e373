#include "fake.hpp"

#include <dmaflow/negotiate.hpp>

#include <algorithm>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

class NegotiateTest : public testing::Test {
 protected:
  [[nodiscard]] Link link(StreamRequest request = {}) {
    return {.producer = &camera, .consumers = {&display}, .allocators = {&heap, &cma}, .request = std::move(request)};
  }
  static const Candidate& of(const std::vector<Candidate>& candidates, std::string_view allocator) {
    return *std::ranges::find(candidates, allocator, &Candidate::allocator);
  }

  PretendDmaBufs pretend;
  FakeSource camera{{small_config()}};
  FakeSink display;
  FakeAllocator heap{"heap"};
  FakeAllocator cma{"cma", {.contiguous = true}};
  FakeAllocator of_display{"display"};
  FakeAllocator of_camera{"camera"};
};

TEST_F(NegotiateTest, TheCheapestMemoryThatWorksWins) {
  display.own_allocator = &of_display;
  camera.own_allocator = &of_camera;
  EXPECT_EQ(negotiate(link())->allocator, &of_display);
  of_display.refusal = Error::os(ENOMEM, "allocate", "display");
  EXPECT_EQ(negotiate(link())->allocator, &of_camera);
  of_camera.refusal = Error::os(ENOMEM, "allocate", "camera");
  EXPECT_EQ(negotiate(link())->allocator, &cma);
  cma.refusal = Error::os(ENOMEM, "allocate", "cma");
  EXPECT_EQ(negotiate(link())->allocator, &heap);
}

TEST_F(NegotiateTest, EveryAllocatorIsReallyTriedAndItsRefusalKept) {
  display.own_allocator = &of_display;
  int tries = 0;
  display.on_import = [&](const Buffer&) -> Result<void> {
    if (++tries == 1) return {};  // the display's own
    return std::unexpected(Error::os(ENODEV, "DRM_IOCTL_PRIME_FD_TO_HANDLE", "display"));
  };
  const auto plan = negotiate(link());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->allocator, &of_display);
  EXPECT_EQ(of(plan->candidates, "heap").refusal->code(), ENODEV);
  EXPECT_EQ(of(plan->candidates, "cma").refused_by, "display");
  EXPECT_FALSE(of(plan->candidates, "display").refusal);
  EXPECT_NE(plan->explain().find("DRM_IOCTL_PRIME_FD_TO_HANDLE"), std::string::npos) << plan->explain();
}

TEST_F(NegotiateTest, AnAllocatorCanBeNamed) {
  display.own_allocator = &of_display;
  EXPECT_EQ(negotiate(link({.allocator = "heap"}))->allocator, &heap);
  const auto none = negotiate(link({.allocator = "nonsense"}));
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().error.message().find("nonsense"), std::string::npos);
}

TEST_F(NegotiateTest, TheCameraFollowsTheMemorysStrides) {
  heap.own.stride_alignment = 1024;
  const auto plan = negotiate(link({.allocator = "heap"}));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->config.layout.planes[0].stride, 1024U);
}

TEST_F(NegotiateTest, ACameraThatKeepsItsStridesRefusesOtherMemory) {
  heap.own.stride_alignment = 1024;
  camera.follows_strides = false;
  const auto plan = negotiate(link());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->allocator, &cma);
  EXPECT_EQ(of(plan->candidates, "heap").refused_by, "camera");
  EXPECT_EQ(plan->config.layout.planes[0].stride, 256U) << "the trial left nothing behind";
}

TEST_F(NegotiateTest, TheSecondFormatIsTakenWhereTheFirstIsRefused) {
  camera.configs = {small_config(formats::yuyv), small_config()};
  const auto plan = negotiate(link());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->config.layout.format, formats::xrgb8888);
  EXPECT_EQ(plan->candidates.front().config.layout.format, formats::yuyv);
  EXPECT_TRUE(plan->candidates.front().refusal);
}

TEST_F(NegotiateTest, FormatsRefusedAlikeShareALine) {
  camera.configs = {small_config(formats::yuyv), small_config(formats::uyvy), small_config()};
  const std::string text = negotiate(link())->explain();
  EXPECT_EQ(std::ranges::count(text, '\n'), 1 + 1 + 2) << text;
  EXPECT_NE(text.find("likewise UYVY"), std::string::npos) << text;
}

TEST_F(NegotiateTest, NoPlanListsEveryCandidateWithItsReason) {
  display.on_import = [](const Buffer&) -> Result<void> {
    return std::unexpected(Error::os(ENODEV, "DRM_IOCTL_PRIME_FD_TO_HANDLE", "display"));
  };
  const auto refused = negotiate(link());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.code(), ENOTSUP);
  EXPECT_EQ(refused.error().candidates.size(), 2U);
  for (const Candidate& candidate : refused.error().candidates) EXPECT_EQ(candidate.refusal->code(), ENODEV);
}

TEST_F(NegotiateTest, TheOnlyReasonIsTheError) {
  display.takes = {formats::nv12};
  const auto refused = negotiate(link());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.code(), EINVAL);
  EXPECT_EQ(refused.error().error.device(), "display");
}

TEST_F(NegotiateTest, BuffersCoverEveryHolder) {
  Link wanted = link();
  wanted.queued = 3;
  EXPECT_EQ(negotiate(wanted)->buffers, 2U + 2U + 3U + 1U);
}

TEST_F(NegotiateTest, FewerBuffersThanHoldersIsAnErrorNotAStall) {
  const auto refused = negotiate(link({.buffers = 4}));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().error.message().find("at least 5"), std::string::npos);
  EXPECT_EQ(negotiate(link({.buffers = 9}))->buffers, 9U);
}

TEST_F(NegotiateTest, AllConsumersMustTakeTheSameBuffers) {
  FakeSink second("second");
  second.on_import = [](const Buffer& buffer) -> Result<void> {
    if (buffer.layout().planes[0].stride % 1024 == 0) return {};
    return std::unexpected(Error::os(EINVAL, "import", "second"));
  };
  heap.own.stride_alignment = 1024;
  Link wanted = link();
  wanted.consumers.push_back(&second);
  const auto plan = negotiate(wanted);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->allocator, &heap);
  EXPECT_EQ(of(plan->candidates, "cma").refused_by, "second");
}

TEST_F(NegotiateTest, MemoryThatMovesIsNotForDevicesThatMapIt) {
  FakeAllocator moving("display", {.moves = true});
  display.own_allocator = &moving;
  const auto plan = negotiate(link());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->allocator, &cma);
  EXPECT_EQ(of(plan->candidates, "display").refusal->code(), ENOTSUP);
}

TEST_F(NegotiateTest, MemoryThatAConsumerMovesIsNotEitherWhoeverMadeIt) {
  display.moves_origin = "test";
  const auto plan = negotiate(link());
  ASSERT_FALSE(plan);
  for (const Candidate& candidate : plan.error().candidates) {
    EXPECT_EQ(candidate.refusal->code(), ENOTSUP) << candidate.allocator;
  }
}

TEST_F(NegotiateTest, TrialsLeaveNothingBehind) {
  const LeakCheck leaks;
  static_cast<void>(negotiate(link()));
  display.on_import = [](const Buffer&) -> Result<void> { return std::unexpected(Error::os(EINVAL, "import")); };
  static_cast<void>(negotiate(link()));
}

}  // namespace
