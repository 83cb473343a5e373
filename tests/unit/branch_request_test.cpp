// What a branch asks for itself (BranchOptions::request): a rate, images of another size, an allocator, a copy.
#include "pipeline_support.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>

#include <cerrno>
#include <chrono>
#include <optional>
#include <vector>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

/// A copy that keeps what it was asked for.
class Asked final : public Stage {
 public:
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override {
    asked = request;
    return copy_.offers(request);
  }
  [[nodiscard]] std::string_view name() const noexcept override { return "scaler"; }
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override { return copy_.check_input(config); }
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override { return copy_.set_input(config); }
  [[nodiscard]] Result<void> import(const Buffer& buffer) override { return copy_.import(buffer); }
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return copy_.max_held(); }
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override { return copy_.set_output(config); }
  [[nodiscard]] const StreamConfig& output() const noexcept override { return copy_.output(); }
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override { return copy_.try_output(buffer); }
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return copy_.min_buffers(); }
  [[nodiscard]] bool writes_by_cpu() const noexcept override { return true; }
  [[nodiscard]] int poll_fd() const noexcept override { return copy_.poll_fd(); }
  [[nodiscard]] short poll_events() const noexcept override { return copy_.poll_events(); }
  [[nodiscard]] Result<void> dispatch(short revents) override { return copy_.dispatch(revents); }
  [[nodiscard]] Result<void> start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) override {
    return copy_.start(inputs, std::move(outputs));
  }
  [[nodiscard]] bool ready() const noexcept override { return copy_.ready(); }
  [[nodiscard]] Result<void> accept(Frame frame) override { return copy_.accept(std::move(frame)); }
  [[nodiscard]] Result<Frame> take() override { return copy_.take(); }
  Result<void> drain(Deadline deadline, const Cancel* cancel) override { return copy_.drain(deadline, cancel); }
  Result<void> stop() noexcept override { return copy_.stop(); }

  std::optional<StreamRequest> asked;

 private:
  CopyStage copy_;
};

class BranchRequest : public PipelineFixture {
 protected:
  /// Takes frames at these times after the first.
  void expose_at(const std::vector<microseconds>& times) {
    for (const microseconds time : times) {
      camera.on_expose = [&](FrameInfo& info) { info.timestamp = std::chrono::hours(1) + time; };
      EXPECT_TRUE(camera.expose());
      settle();
    }
  }
  void expose_at_30_a_second(int frames) {
    std::vector<microseconds> times;
    for (int i = 0; i < frames; ++i) {  // a camera's time stamps are up to 2 ms early or late
      times.push_back(microseconds(i * 1'000'000 / 30 + (i % 3 - 1) * 2000));
    }
    expose_at(times);
  }
  void connect_recorder(StreamRequest request, std::vector<Stage*> stages = {}) {
    must(pipeline.connect(
        camera, recorder, "recorder",
        {.policy = Policy::drop_when_full, .stages = std::move(stages), .request = std::move(request)}));
  }

  FakeSink recorder{"recorder"};
};

TEST_F(BranchRequest, ABranchThatAsksForALowerRateTakesSoManyAndTheOthersTakeAll) {
  must(pipeline.connect(camera, display));
  connect_recorder({.interval = Interval{1, 10}});
  start();
  expose_at_30_a_second(90);
  EXPECT_EQ(display.shown.size(), 90U);
  EXPECT_EQ(recorder.shown.size(), 30U);
  EXPECT_EQ(branch(1).skipped, 60U);
  EXPECT_EQ(branch(1).dropped.total(), 0U);
}

TEST_F(BranchRequest, ARateThatIsNoPartOfTheSourcesIsKeptOnTheMean) {
  connect_recorder({.interval = Interval{1, 25}});
  start();
  expose_at_30_a_second(300);
  EXPECT_NEAR(static_cast<double>(recorder.shown.size()), 250, 3);
}

TEST_F(BranchRequest, ARateAboveTheSourcesTakesEveryFrame) {
  connect_recorder({.interval = Interval{1, 60}});
  start();
  expose_at_30_a_second(30);
  EXPECT_EQ(recorder.shown.size(), 30U);
}

TEST_F(BranchRequest, AfterAGapAndWhenTheClockStepsBackTheNextFrameIsTakenAndNoBurstFollows) {
  connect_recorder({.interval = Interval{1, 10}});
  start();
  using namespace std::chrono_literals;
  expose_at({0ms, 33ms, 100ms, 5000ms, 5033ms, 5066ms, 5100ms, 10ms, 43ms, 110ms});
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 2, 3, 6, 7, 9}));
}

TEST_F(BranchRequest, SizeAndFormatsAreAskedOfItsStageAndNotOfTheSource) {
  Asked scaler;
  must(pipeline.connect(camera, display));
  connect_recorder({.size = Size{32, 24}, .formats = {formats::nv12}}, {&scaler});
  start();
  ASSERT_TRUE(scaler.asked);
  EXPECT_EQ(scaler.asked->size, (Size{32, 24}));
  EXPECT_EQ(scaler.asked->formats, std::vector{formats::nv12});
  EXPECT_EQ(pipeline.plans().front().config.layout.size, (Size{64, 48}));
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

TEST_F(BranchRequest, OfTwoStagesTheLastIsAskedForTheSize) {
  Asked first;
  Asked last;
  connect_recorder({.size = Size{32, 24}}, {&first, &last});
  start();
  ASSERT_TRUE(first.asked && last.asked);
  EXPECT_FALSE(first.asked->size);
  EXPECT_EQ(last.asked->size, (Size{32, 24}));
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

TEST_F(BranchRequest, ItsAllocatorIsForItsOwnLinks) {
  Asked scaler;
  FakeAllocator other{"other", {.contiguous = true}};
  must(pipeline.connect(camera, display));
  connect_recorder({.allocator = "other", .buffers = 9}, {&scaler});
  pipeline.offer(other);
  start({.allocator = "heap"});
  ASSERT_EQ(pipeline.plans().size(), 2U);
  EXPECT_EQ(pipeline.plans()[0].allocator, &heap);
  EXPECT_EQ(pipeline.plans()[1].allocator, &other);
  EXPECT_EQ(pipeline.plans()[1].buffers, 9U);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

TEST_F(BranchRequest, AnAllocatorThatNoLinkOfTheBranchHasIsRefusedByName) {
  Asked scaler;
  connect_recorder({.allocator = "nonsense"}, {&scaler});
  pipeline.offer(heap);
  const auto refused = pipeline.prepare();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EINVAL);
  EXPECT_TRUE(mentions(refused.error(), "nonsense"));
  EXPECT_TRUE(mentions(refused.error(), "recorder"));
}

/// The display takes memory that the camera cannot write to.
class BranchCopy : public BranchRequest {
 protected:
  void SetUp() override {
    of_display.own.stride_alignment = 1024;
    display.own_allocator = &of_display;
    display.on_import = [](const Buffer& buffer) -> Result<void> {
      if (buffer.layout().planes[0].stride % 1024 == 0) return {};
      return std::unexpected(Error::os(ENODEV, "import", "display"));
    };
    camera.follows_strides = false;
    pipeline.offer(heap);
  }
  void connect_display(std::optional<StreamRequest> request) {
    must(pipeline.connect(camera, display, "display", {.request = std::move(request)}));
  }
  FakeAllocator of_display{"display"};
};

TEST_F(BranchCopy, ACopyThatOneBranchAllowsIsInsertedThere) {
  connect_display(StreamRequest{.allow_copy = true});
  must(pipeline.connect(camera, recorder, "recorder"));
  const auto plans = pipeline.prepare();
  ASSERT_TRUE(plans) << plans.error().message();
  EXPECT_TRUE(plans->front().copies);
  EXPECT_EQ(plans->back().allocator, &of_display);
}

TEST_F(BranchCopy, ACopyThatTheStreamAllowsAndTheBranchDoesNotIsRefused) {
  connect_display(StreamRequest{});
  must(pipeline.connect(camera, recorder, "recorder"));
  EXPECT_FALSE(pipeline.prepare({.allow_copy = true}));
}

TEST_F(BranchCopy, ACopyThatAnotherBranchAllowsIsOfNoUse) {
  connect_display({});
  must(pipeline.connect(camera, recorder, "recorder", {.request = StreamRequest{.allow_copy = true}}));
  EXPECT_FALSE(pipeline.prepare());
}

TEST_F(BranchRequest, WhatNoBranchCanHaveIsRefusedWhenItIsConnected) {
  const auto refused = [&](StreamRequest request, std::string_view why) {
    const auto connected = pipeline.connect(camera, recorder, "recorder", {.request = std::move(request)});
    return fails_with(connected, EINVAL) && mentions(connected.error(), why);
  };
  EXPECT_TRUE(refused({.size = Size{32, 24}}, "vulkan::Convert"));
  EXPECT_TRUE(refused({.formats = {formats::nv12}}, "vulkan::Convert"));
  EXPECT_TRUE(refused({.spare_buffers = 1}, "prepare()"));
  EXPECT_TRUE(pipeline.stats().streams.empty());
}

}  // namespace
