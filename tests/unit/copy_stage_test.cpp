// CopyStage by itself, and its position in plans.
#include "fake.hpp"

#include "uapi/sync_file.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>

#include <sys/eventfd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

/// Dma-bufs that devices may be using, and a sync_file whose end the test controls.
class PretendDevices : public PretendDmaBufs {
 public:
  Fence fence() {
    event_ = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    return Fence::adopt_unchecked(must(Fd::dup_of(event_.get())));
  }
  void end_fence(int with) {
    status = with;
    ::eventfd_write(event_.get(), 1);
  }
  int before(const sys::Call& call) noexcept override {
    if (call.request == SYNC_IOC_FILE_INFO) {
      auto& info = *static_cast<sync_file_info*>(const_cast<void*>(call.argument));
      info.status = status;
      if (info.num_fences > 0) reinterpret_cast<sync_fence_info*>(info.sync_fence_info)->status = status;
      info.num_fences = 1;
      return pretend;
    }
    if (std::string_view(call.name) == "poll" && busy) return pretend;  // no descriptor is ready
    return PretendDmaBufs::before(call);
  }
  int status = 0;     ///< of the fence: 0 active, 1 signalled, negative failed
  bool busy = false;  ///< devices use every dma-buf

 private:
  Fd event_;
};

class CopyStageTest : public testing::Test {
 protected:
  CopyStageTest() {
    const StreamConfig config = small_config();
    must(copy.set_input(config));
    must(copy.set_output(must(copy.offers({})).front()));
    const std::vector<Buffer> inputs{memfd_buffer(config.layout)};
    must(copy.start(inputs, {memfd_buffer(copy.output().layout)}));
    holds = must(HoldSet::create(inputs));
  }
  [[nodiscard]] bool asks_for_nothing() const {
    return copy.waiting_fence() < 0 && copy.poll_events() == 0 && !copy.wake_by();
  }

  PretendDevices devices;
  CopyStage copy;
  std::shared_ptr<HoldSet> holds;
};

TEST_F(CopyStageTest, WaitsForTheFenceInTheLoop) {
  must(copy.accept(must(holds->lend(0, {}, devices.fence()))));
  EXPECT_FALSE(must(copy.take()));
  EXPECT_GE(copy.waiting_fence(), 0);
  devices.end_fence(1);
  must(copy.dispatch(0));
  EXPECT_TRUE(asks_for_nothing());
  EXPECT_TRUE(must(copy.take()));
}

TEST_F(CopyStageTest, ASignalledFenceIsNotWaitedForWhileTheFollowerKeepsEveryBuffer) {
  must(copy.accept(must(holds->lend(0, {}))));
  const Frame kept = must(copy.take());
  ASSERT_TRUE(kept);
  while (holds->take_returned()) {
  }
  must(copy.accept(must(holds->lend(0, {}, devices.fence()))));
  devices.end_fence(1);
  EXPECT_FALSE(must(copy.take()));
  EXPECT_TRUE(asks_for_nothing()) << "the loop would spin";
}

TEST_F(CopyStageTest, ABufferThatADeviceStillUsesIsWaitedForInTheLoopNotInTake) {
  devices.busy = true;
  must(copy.accept(must(holds->lend(0, {}))));
  EXPECT_FALSE(must(copy.take()));
  EXPECT_GE(copy.poll_fd(), 0);
  EXPECT_EQ(copy.poll_events(), POLLIN) << "a reader waits for writers";
  EXPECT_EQ(copy.bytes_copied(), 0U);
  devices.busy = false;
  EXPECT_TRUE(must(copy.take()));
  EXPECT_TRUE(asks_for_nothing());
}

TEST_F(CopyStageTest, WhereTheKernelAsksToTryAgainATimeIsNamed) {
  devices.sync_answers = {EAGAIN};
  must(copy.accept(must(holds->lend(0, {}))));
  EXPECT_FALSE(must(copy.take()));
  EXPECT_TRUE(copy.wake_by());
  EXPECT_TRUE(must(copy.take()));
  EXPECT_FALSE(copy.wake_by());
}

TEST_F(CopyStageTest, AFrameWhoseFenceFailedIsDroppedAndNotCopied) {
  must(copy.accept(must(holds->lend(0, {}, devices.fence()))));
  devices.end_fence(-EIO);
  EXPECT_FALSE(must(copy.take()));
  EXPECT_EQ(copy.dropped(), 1U);
  EXPECT_EQ(copy.bytes_copied(), 0U);
  EXPECT_TRUE(copy.ready());
}

TEST_F(CopyStageTest, DrainingEndsAtItsDeadlineAndWithItsCancel) {
  must(copy.accept(must(holds->lend(0, {}, devices.fence()))));
  EXPECT_TRUE(fails_with(copy.drain(Deadline::immediate()), ETIMEDOUT));
  const Cancel cancel = must(Cancel::create());
  cancel.cancel();
  EXPECT_TRUE(fails_with(copy.drain(Deadline::after(std::chrono::seconds(60)), &cancel), ECANCELED));
  devices.end_fence(1);
  must(copy.drain(Deadline::after(std::chrono::seconds(60))));
  EXPECT_TRUE(must(copy.take()));
}

/// Fills its own buffers, whose strides it cannot change. The test ignores their contents.
class Painter : public Stage {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "painter"; }
  [[nodiscard]] Result<void> check_input(const StreamConfig&) override { return {}; }
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override {
    input_ = config;
    return {};
  }
  [[nodiscard]] Result<void> import(const Buffer&) override { return {}; }
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 1; }
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest&) override { return std::vector{input_}; }
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override {
    if (config.layout == input_.layout) return {};
    return std::unexpected(Error::os(EINVAL, "set_output", name()).detail("it keeps its strides"));
  }
  [[nodiscard]] const StreamConfig& output() const noexcept override { return input_; }
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override {
    if (buffer.layout() == input_.layout) return {};
    return std::unexpected(Error::os(EINVAL, "try_output", name()).detail("the strides differ"));
  }
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return 1; }
  [[nodiscard]] int poll_fd() const noexcept override { return -1; }
  [[nodiscard]] short poll_events() const noexcept override { return 0; }
  [[nodiscard]] Result<void> dispatch(short) override { return {}; }
  [[nodiscard]] Result<void> start(std::span<const Buffer>, std::vector<Buffer> outputs) override {
    pool_.emplace(must(Pool::create(std::move(outputs))));
    return {};
  }
  [[nodiscard]] bool ready() const noexcept override { return !waiting_; }
  [[nodiscard]] Result<void> accept(Frame frame) override {
    waiting_ = std::move(frame);
    return {};
  }
  [[nodiscard]] Result<Frame> take() override {
    if (!waiting_ || !pool_) return Frame();
    auto target = pool_->acquire(waiting_.info());
    if (!target) return Frame();
    waiting_.release();
    return std::move(*target);
  }
  Result<void> drain(Deadline, const Cancel*) override { return {}; }
  Result<void> stop() noexcept override {
    waiting_.release();
    pool_.reset();
    return {};
  }

 private:
  StreamConfig input_;
  Frame waiting_;
  std::optional<Pool> pool_;
};

class CopyInAChain : public testing::Test {
 protected:
  CopyInAChain() {
    of_display.own.stride_alignment = 1024;
    display.own_allocator = &of_display;
    display.on_import = [](const Buffer& buffer) -> Result<void> {
      if (buffer.layout().planes[0].stride % 1024 == 0) return {};
      return std::unexpected(Error::os(ENODEV, "import", "display"));
    };
    must(pipeline.connect(camera, display, "screen", {.stages = {&painter}}));
    pipeline.offer(heap);
  }

  PretendDmaBufs pretend;
  FakeSource camera{{small_config()}};
  FakeSink display;
  Painter painter;
  FakeAllocator of_display{"display"};
  FakeAllocator heap{"heap"};
  Pipeline pipeline;
};

TEST_F(CopyInAChain, IsPutInAtTheLinkThatNeedsIt) {
  ASSERT_FALSE(pipeline.prepare()) << "never silently";
  const auto plans = pipeline.prepare({.allow_copy = true});
  ASSERT_TRUE(plans) << plans.error().message();
  ASSERT_EQ(plans->size(), 3U) << "camera to painter, painter to copy, copy to display";
  EXPECT_FALSE(plans->at(0).copies);
  EXPECT_TRUE(plans->at(1).copies);
  EXPECT_EQ(plans->at(2).allocator, &of_display);
  must(pipeline.start());
  for (int i = 0; i < 3; ++i) {
    camera.expose();
    while (must(pipeline.step(Deadline::after(milliseconds(5))))) {
    }
  }
  EXPECT_EQ(display.shown.size(), 3U);
  EXPECT_EQ(pipeline.stats().streams[0].bytes_copied, 3U * 64 * 48 * 4);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
  expect_all_counted(pipeline.stats());
}

TEST_F(CopyInAChain, WishesHoldOnEachLinkThatCanMeetThem) {
  const auto plans = pipeline.prepare({.allocator = "display", .buffers = 9, .allow_copy = true});
  ASSERT_TRUE(plans) << plans.error().message();
  EXPECT_EQ(plans->back().allocator, &of_display);
  for (const Plan& plan : *plans) EXPECT_EQ(plan.buffers, 9U);
  const auto refused = pipeline.prepare({.allocator = "nonsense", .allow_copy = true});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("nonsense"), std::string::npos);
}

TEST_F(CopyInAChain, BytesCopiedDoNotFallWhenTheStreamIsNegotiatedAgain) {
  ASSERT_TRUE(pipeline.prepare({.allow_copy = true}));
  must(pipeline.start());
  const auto show = [&](bool changed) {
    camera.changed = changed;
    camera.expose();
    while (must(pipeline.step(Deadline::after(milliseconds(5))))) {
    }
    return pipeline.stats().streams[0].bytes_copied;
  };
  const auto before = show(false);
  EXPECT_GT(before, 0U);
  EXPECT_GE(show(true), before);
  EXPECT_GT(show(false), before);
  EXPECT_EQ(pipeline.stats().streams[0].renegotiations, 1U);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

}  // namespace
