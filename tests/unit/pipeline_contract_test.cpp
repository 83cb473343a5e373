// What the loop promises to sources and sinks of any kind, and to the readers of its counters and errors.
#include "pipeline_support.hpp"

#include "sys/sys.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>

#include <thread>

#include <sys/eventfd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

class PipelineContract : public PipelineFixture {
 protected:
  void start(Source& source, Sink& sink, BranchOptions options = {}) {
    must(pipeline.connect(source, sink, "branch", std::move(options)));
    PipelineFixture::start();
  }

  FakeSink recorder{"recorder"};
};

// --- Sources ---------------------------------------------------------------------------------------------------------

/// Drains its descriptor in dispatch(), as is usual for an eventfd; it knows by itself which frames are left to take.
struct EdgeSource : FakeSource {
  EdgeSource() : FakeSource({small_config()}, "edge") {}
  Result<void> dispatch(short revents) override {
    if ((revents & POLLIN) != 0) {
      std::uint64_t count = 0;
      static_cast<void>(sys::read(poll_fd(), &count, sizeof count));
    }
    return FakeSource::dispatch(revents);
  }
};

TEST_F(PipelineContract, ASourceThatDrainsItsDescriptorLosesNoFrame) {
  EdgeSource edge;
  Pipeline own;
  must(own.connect(edge, display));
  own.offer(heap);
  ASSERT_TRUE(own.prepare({.buffers = 8}));
  must(own.start());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(edge.expose());
  while (must(own.step(Deadline::after(milliseconds(5))))) {
  }
  EXPECT_EQ(own.stats().streams[0].captured, 3U);
  must(own.stop(Deadline::after(milliseconds(100))));
}

/// Has no descriptor, only a time at which the next frame is due.
struct TimedSource : FakeSource {
  TimedSource() : FakeSource({small_config()}, "timed") {}
  [[nodiscard]] int poll_fd() const noexcept override { return -1; }
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override {
    return started && made < 5 ? std::optional(due) : std::nullopt;
  }
  Result<void> dispatch(short revents) override {
    auto done = FakeSource::dispatch(revents);
    ++dispatched;
    if (started && made < 5 && due.remaining() == Deadline::Clock::duration::zero()) {
      ++made;
      expose();
      due = Deadline::after(milliseconds(1));
    }
    return done;
  }
  Deadline due = Deadline::after(milliseconds(1));
  int made = 0;
  int dispatched = 0;
};

TEST_F(PipelineContract, ASourceThatIsDueAtATimeIsDispatchedThenAndTakenFrom) {
  TimedSource timed;
  Pipeline own;
  must(own.connect(timed, display));
  own.offer(heap);
  ASSERT_TRUE(own.prepare());
  must(own.start());
  const auto give_up = Deadline::after(std::chrono::seconds(20));
  while (own.stats().streams[0].captured < 5 && give_up.remaining() > Deadline::Clock::duration::zero()) {
    must(own.step(give_up));
  }
  EXPECT_EQ(own.stats().streams[0].captured, 5U);
  EXPECT_LE(timed.dispatched, 5 * 3) << "each turn twice at most: before frames are taken and after";
  must(own.stop(Deadline::after(milliseconds(100))));
}

/// Always has a frame.
struct EndlessSource : FakeSource {
  EndlessSource() : FakeSource({small_config()}, "endless") {}
  Result<Frame> take() override {
    must(dispatch(0));
    expose();
    return FakeSource::take();
  }
};

TEST_F(PipelineContract, ASourceThatNeverRunsEmptyDoesNotKeepTheOthersWaiting) {
  EndlessSource endless;
  FakeSink other{"other"};
  Pipeline own;
  must(own.connect(endless, other, "endless"));
  must(own.connect(camera, display));
  own.offer(heap);
  ASSERT_TRUE(own.prepare());
  must(own.start());
  camera.expose();
  must(own.step(Deadline::after(std::chrono::seconds(20))));
  EXPECT_EQ(display.shown.size(), 1U);
  EXPECT_LE(own.stats().streams[0].captured, 32U);
  EXPECT_TRUE(must(own.step(Deadline::after(std::chrono::seconds(20))))) << "and it does not sleep";
  must(own.stop(Deadline::after(milliseconds(100))));
}

TEST_F(PipelineContract, AnIdleRecorderGetsEveryFrameOfABurst) {
  must(pipeline.connect(camera, recorder, "recorder", {.policy = Policy::drop_when_full, .max_queued = 1}));
  pipeline.offer(heap);
  ASSERT_TRUE(pipeline.prepare({.buffers = 10}));
  must(pipeline.start());
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(recorder.shown.size(), 6U);
  EXPECT_EQ(branch().dropped.total(), 0U);
}

// --- Counters --------------------------------------------------------------------------------------------------------

TEST_F(PipelineContract, AFrameThatTheSinkRefusesIsCountedAsFailed) {
  start(camera, display);
  display.accept_error = Error::os(EIO, "accept", "display");
  camera.expose();
  EXPECT_TRUE(fails_with(pipeline.step(Deadline::after(std::chrono::seconds(20))), EIO));
  EXPECT_EQ(branch().failed, 1U);
  EXPECT_EQ(branch().delivered, 0U);
}

TEST_F(PipelineContract, AnErrorOfTheSinkWhileStoppingIsReportedAndItsFrameCounted) {
  start(camera, recorder, {.policy = Policy::drop_when_full, .max_queued = 4});
  recorder.busy = true;
  for (int i = 0; i < 3; ++i) camera.expose();
  settle();
  EXPECT_EQ(branch().held, 2U) << "one is staged";
  recorder.accept_error = Error::os(EIO, "accept", "recorder");
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(milliseconds(100))), EIO));
  EXPECT_EQ(branch().delivered, 1U);
  EXPECT_EQ(branch().failed, 1U);
  EXPECT_EQ(branch().dropped.at_stop, 1U);
}

TEST_F(PipelineContract, WhatADisplayThatHangsNeverShowsIsDroppedNotDelivered) {
  start(camera, display);
  display.hangs = true;
  camera.expose();
  settle();
  EXPECT_EQ(branch().delivered, 1U);
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(milliseconds(10))), ETIMEDOUT));
  EXPECT_EQ(branch().delivered, 0U);
  EXPECT_EQ(branch().dropped.by_device, 1U);
}

TEST_F(PipelineContract, ADisplayThatHangsCostsTheRecorderNothing) {
  must(pipeline.connect(camera, display, "screen"));
  must(pipeline.connect(camera, recorder, "recorder", {.policy = Policy::drop_when_full, .max_queued = 4}));
  pipeline.offer(heap);
  ASSERT_TRUE(pipeline.prepare());
  must(pipeline.start());
  display.hangs = true;
  recorder.busy = true;
  for (int i = 0; i < 4; ++i) camera.expose();
  settle();
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(milliseconds(10))), ETIMEDOUT));
  EXPECT_EQ(recorder.shown.size(), 4U);
  EXPECT_EQ(branch(1).delivered, 4U);
}

TEST_F(PipelineContract, CountersDoNotFallWhenAStreamIsNegotiatedAgain) {
  start(camera, display);
  display.busy = true;
  for (int i = 0; i < 3; ++i) {
    camera.expose();
    settle();
  }
  camera.changed = true;
  camera.expose();
  settle();
  EXPECT_EQ(stream().renegotiations, 1U);
  EXPECT_EQ(stream().captured, 4U);
  EXPECT_EQ(branch().captured(), 4U);
}

TEST_F(PipelineContract, LatencyIsCountedOnlyOnAClockThatIsKnown) {
  camera.clock = FrameInfo::Clock::unknown;
  start(camera, display);
  camera.expose();
  settle();
  EXPECT_EQ(branch().presented, 1U);
  EXPECT_EQ(branch().latency.count(), 0U);
}

// --- Time-outs -------------------------------------------------------------------------------------------------------

/// Exposes a frame at each dispatch.
struct RunningSource : FakeSource {
  using FakeSource::FakeSource;
  Result<void> dispatch(short revents) override {
    auto done = FakeSource::dispatch(revents);
    if (started && !silent) {
      expose();
      std::this_thread::sleep_for(milliseconds(1));
    }
    return done;
  }
  Result<void> start(std::span<const Buffer> buffers) override {
    auto done = FakeSource::start(buffers);
    if (done && !silent) expose();
    return done;
  }
  bool silent = false;
};

TEST_F(PipelineContract, OneDeadCameraOfTwoEndsTheRunAndIsNamed) {
  RunningSource running{{small_config()}, "running"};
  FakeSink other{"other"};
  must(pipeline.connect(running, other, "other"));
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  const auto ended = pipeline.run({.frames = 1000000, .frame_timeout = milliseconds(100)});
  ASSERT_TRUE(fails_with(ended, ETIMEDOUT));
  EXPECT_EQ(ended.error().device(), "camera");
}

TEST_F(PipelineContract, ADisplayThatNeverTakesAFrameEndsTheRunAndIsNamed) {
  RunningSource running{{small_config()}, "running"};
  display.hangs = true;
  must(pipeline.connect(running, display));
  pipeline.offer(heap);
  const auto ended = pipeline.run({.frame_timeout = milliseconds(100)});
  ASSERT_TRUE(fails_with(ended, ETIMEDOUT));
  EXPECT_EQ(ended.error().device(), "display");
}

TEST_F(PipelineContract, WhoWaitsForSomethingOutsideIsNotAtFault) {
  RunningSource running{{small_config()}, "running"};
  display.hangs = true;
  display.waits = true;  // the display's VT is not active
  camera.waits = true;   // the camera has no signal
  FakeSink other{"other"};
  must(pipeline.connect(running, display));
  must(pipeline.connect(camera, other, "other"));
  pipeline.offer(heap);
  const auto ended = pipeline.run({.duration = milliseconds(300), .frame_timeout = milliseconds(50)});
  EXPECT_TRUE(fails_with(ended, ETIMEDOUT)) << "of the drain";
  EXPECT_EQ(ended.error().operation(), "drain");
}

TEST_F(PipelineContract, ASignalThatIsLostBetweenPreparingAndStartingIsWaitedFor) {
  start(camera, display);
  camera.waits = true;
  camera.start_error = Error::os(ENOLINK, "VIDIOC_STREAMON", "camera");
  camera.changed = true;
  camera.expose();
  settle();
  EXPECT_FALSE(camera.started);
  camera.changed = true;  // the signal is back, and the descriptor becomes readable
  ::eventfd_write(camera.poll_fd(), 1);
  settle();
  EXPECT_TRUE(camera.started);
  camera.expose();
  settle();
  EXPECT_EQ(display.shown.size(), 2U);
}

// --- Errors and refusals ---------------------------------------------------------------------------------------------

TEST_F(PipelineContract, RunKeepsTheCandidatesOfARefusal) {
  display.takes = {formats::nv12};
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  EXPECT_FALSE(pipeline.run());
  ASSERT_TRUE(pipeline.refusal());
  EXPECT_EQ(pipeline.refusal()->candidates.size(), 1U);
  display.takes = {formats::xrgb8888};
  ASSERT_TRUE(pipeline.prepare());
  EXPECT_FALSE(pipeline.refusal());
}

TEST_F(PipelineContract, ARefusalIsThrownAsAnyOtherErrorAndSoAreMistakes) {
  EXPECT_THROW(pipeline.prepare().value(), std::bad_expected_access<Error>) << "nothing is connected";
  ASSERT_TRUE(pipeline.refusal());
  EXPECT_EQ(pipeline.refusal()->explain(), pipeline.prepare().error().message() + "\n");
  display.takes = {formats::nv12};
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  try {
    pipeline.prepare().value();
    FAIL() << "nothing works";
  } catch (const std::bad_expected_access<Error>& failure) {
    EXPECT_EQ(failure.error().message(), pipeline.refusal()->error.message());
  }
}

TEST_F(PipelineContract, AStageStandsInOneBranchAndBranchesHaveNamesOfTheirOwn) {
  CopyStage copy;
  CopyStage second;
  must(pipeline.connect(camera, display, "screen", {.stages = {&copy}}));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "recorder", {.stages = {&second, &copy}}), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "recorder", {.stages = {&second, &second}}), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "recorder", {.stages = {nullptr}}), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "screen"), EINVAL));
  FakeSource other{{small_config()}, "other"};
  must(pipeline.connect(other, recorder, "screen"), "a name is a source's own");
}

TEST_F(PipelineContract, AConsumersFailedImportIsTheConsumers) {
  int imports = 0;
  display.on_import = [&](const Buffer&) -> Result<void> {
    if (++imports < 3) return {};  // the trial buffer, and one of the set
    return std::unexpected(Error::os(ENOSPC, "DRM_IOCTL_MODE_ADDFB2", "display"));
  };
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  const auto refused = pipeline.prepare();
  ASSERT_FALSE(refused);
  EXPECT_EQ(pipeline.refusal()->candidates.front().refused_by, "display");
}

TEST_F(PipelineContract, AStepEndsWhenItsCancelIsSetAndDrainingToo) {
  start(camera, display);
  const Cancel cancel = must(Cancel::create());
  std::thread stopper([&] {
    std::this_thread::sleep_for(milliseconds(20));
    cancel.cancel();
  });
  EXPECT_TRUE(fails_with(pipeline.step(Deadline::after(std::chrono::seconds(60)), &cancel), ECANCELED));
  stopper.join();
}

TEST_F(PipelineContract, ProgressIsReportedOnceAfterAStall) {
  RunningSource running{{small_config()}, "running"};
  int calls = 0;
  must(pipeline.connect(running, display));
  pipeline.offer(heap);
  must(pipeline.run({.duration = milliseconds(3500), .progress = [&](const Stats&) {
                       if (++calls == 1) std::this_thread::sleep_for(milliseconds(2200));
                     }}));
  EXPECT_LE(calls, 2) << "at 1 s, and once for the seconds that went by in it";
}

}  // namespace
