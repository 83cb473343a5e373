#include "fake.hpp"

#include <dmaflow/copy_stage.hpp>
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
    if (++tries == 1) return {};  // the first is the display's own buffer
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

TEST_F(NegotiateTest, EveryRefusalSaysHowFarItCame) {
  camera.configs = {small_config(formats::yuyv), small_config()};
  cma.refusal = Error::os(ENOMEM, "allocate", "cma");
  display.own_allocator = &of_display;
  camera.on_try = [&](const Buffer&) -> Result<void> {
    if (of_display.made == 1 && heap.made == 0) return std::unexpected(Error::os(EINVAL, "VIDIOC_QBUF", "camera"));
    return {};
  };
  display.on_import = [](const Buffer&) -> Result<void> { return std::unexpected(Error::os(ENODEV, "import", "x")); };
  const auto refused = negotiate(link());
  ASSERT_FALSE(refused);
  const auto& candidates = refused.error().candidates;
  EXPECT_EQ(candidates.front().step, Candidate::Step::check);
  EXPECT_EQ(of(candidates, "cma").step, Candidate::Step::allocate);
  EXPECT_EQ(of(candidates, "display").step, Candidate::Step::producer);
  EXPECT_EQ(of(candidates, "heap").step, Candidate::Step::consumer);
}

TEST_F(NegotiateTest, ARefusalIsAnErrorToWhoeverReturnsAResult) {
  display.takes = {formats::nv12};
  const auto returned = [&]() -> Result<Plan> {
    auto plan = negotiate(link());
    if (!plan) return std::unexpected(plan.error());
    return std::move(*plan);
  }();
  EXPECT_TRUE(test::fails_with(returned, EINVAL));
  const Result<Plan> converted = negotiate(link());
  ASSERT_FALSE(converted);
  EXPECT_EQ(converted.error().message(), returned.error().message());
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

// --- What consumers need ---------------------------------------------------------------------------------------------

/// 60 pixels of 4 bytes: a stride of 240, which is not a multiple of 256.
class NeedsTest : public NegotiateTest {
 protected:
  NeedsTest() {
    camera.configs = {small_config(formats::xrgb8888, {60, 48})};
    display.wants.constraints.stride_alignment = 256;
  }
  /// The display refuses all other strides.
  void insist() {
    display.on_import = [](const Buffer& buffer) -> Result<void> {
      if (buffer.layout().planes[0].stride % 256 == 0) return {};
      return std::unexpected(Error::os(EINVAL, "DRM_IOCTL_MODE_ADDFB2", "display"));
    };
  }
};

TEST_F(NeedsTest, TheStrideThatADisplayNeedsIsAskedForAndTheCameraFollows) {
  insist();
  const auto plan = negotiate(link());
  ASSERT_TRUE(plan) << plan.error().explain();
  EXPECT_EQ(plan->config.layout.planes[0].stride, 256U);
  EXPECT_EQ(plan->request().constraints.stride_alignment, 256U) << "the whole set is made so";
}

TEST_F(NeedsTest, TheLargestOfSeveralIsAskedFor) {
  FakeSink second("second");
  second.wants.constraints.stride_alignment = 64;
  second.wants.constraints.min_object_size[0] = 100000;
  Link wanted = link();
  wanted.consumers.push_back(&second);
  const auto plan = negotiate(wanted);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->constraints.stride_alignment, 256U);
  EXPECT_EQ(plan->constraints.min_object_size[0], 100000U);
}

TEST_F(NeedsTest, WhereTheCameraKeepsItsStridesTheDisplayMayTakeLessThanItAskedFor) {
  camera.follows_strides = false;
  const auto plan = negotiate(link());
  ASSERT_TRUE(plan) << plan.error().explain();
  EXPECT_EQ(plan->config.layout.planes[0].stride, 240U);
}

TEST_F(NeedsTest, WhereNeitherGivesWayBothReasonsAreKept) {
  camera.follows_strides = false;
  insist();
  const auto refused = negotiate(link());
  ASSERT_FALSE(refused);
  const std::string text = refused.error().explain(Detail::all);
  EXPECT_NE(text.find("in memory of heap asked for strides that are multiples of 256: camera: try_output"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("DRM_IOCTL_MODE_ADDFB2"), std::string::npos) << text;
}

TEST_F(NeedsTest, EveryUseIsSaid) {
  FakeSink second("second");
  second.wants.usage.render = true;
  display.wants.usage.scanout = true;
  Link wanted = link();
  wanted.consumers.push_back(&second);
  ASSERT_TRUE(negotiate(wanted));
  const Usage usage = heap.asked.back().usage;
  EXPECT_TRUE(usage.capture && usage.render && usage.scanout);
  EXPECT_FALSE(usage.cpu);
}

TEST_F(NeedsTest, AReaderByCpuGetsCachedMemory) {
  FakeAllocator cached{"cached", {.cached = true}};
  camera.own_allocator = &of_camera;
  CopyStage copy;
  Link wanted = link();
  wanted.consumers = {&copy};
  wanted.allocators.push_back(&cached);
  const auto plan = negotiate(wanted);
  ASSERT_TRUE(plan) << plan.error().explain();
  EXPECT_EQ(plan->allocator, &cached);
  EXPECT_TRUE(cached.asked.back().usage.cpu);
  EXPECT_TRUE(cached.asked.back().constraints.cached);
}

TEST_F(NeedsTest, AModifierThatOneConsumerDoesNotTakeIsNotTried) {
  display.wants.modifiers = {Modifier::from_value(0x0100000000000001)};
  const auto refused = negotiate(link());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.device(), "display");
  EXPECT_TRUE(heap.asked.empty());
}

TEST_F(NegotiateTest, TrialsLeaveNothingBehind) {
  const LeakCheck leaks;
  static_cast<void>(negotiate(link()));
  display.on_import = [](const Buffer&) -> Result<void> { return std::unexpected(Error::os(EINVAL, "import")); };
  static_cast<void>(negotiate(link()));
}

}  // namespace
