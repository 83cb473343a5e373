// Changes while a pipeline runs: branches and streams are added, paused, removed and fail, and the others lose nothing.
#include "pipeline_support.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/function_sink.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/task_queue.hpp>

#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

class PipelineChanges : public PipelineFixture {
 protected:
  /// Connects the camera to the display, with spare buffers.
  void start_one(std::uint32_t spare = 6) {
    must(pipeline.connect(camera, display));
    start({.spare_buffers = spare});
  }
  void expose(int count, FakeSource* source = nullptr) {
    for (int i = 0; i < count; ++i) {
      EXPECT_TRUE((source != nullptr ? source : &camera)->expose()) << "no buffer was free";
      settle();
    }
  }
  [[nodiscard]] static std::vector<std::uint64_t> numbers(std::uint64_t from, std::uint64_t to) {
    std::vector<std::uint64_t> all;
    for (; from < to; ++from) all.push_back(from);
    return all;
  }
  Result<void> add_recorder(BranchOptions options = {.policy = Policy::drop_when_full, .max_queued = 2}) {
    return pipeline.connect(camera, recorder, "recorder", std::move(options));
  }

  FakeSink recorder{"recorder"};
  FakeSource second{{small_config()}, "second camera"};
  CopyStage copy;
};

// --- Branches

TEST_F(PipelineChanges, ABranchThatComesGetsEveryFrameFromThenOnAndTheOthersLoseNone) {
  start_one();
  expose(3);
  must(add_recorder());
  expose(4);
  EXPECT_EQ(display.shown, numbers(0, 7));
  EXPECT_EQ(recorder.shown, numbers(3, 7));
  EXPECT_EQ(camera.starts, 1);
  EXPECT_EQ(stream().lost, 0U);
  EXPECT_EQ(branch(1).skipped, 3U);
}

TEST_F(PipelineChanges, ABranchThatComesImportsEachBufferBeforeItsFirstFrameAndNoneAfter) {
  start_one();
  must(add_recorder());
  const int imports = recorder.imports;
  EXPECT_GE(imports, 10);
  expose(20);
  EXPECT_EQ(recorder.imports, imports);
}

TEST_F(PipelineChanges, ABranchForWhichBuffersAreTooFewIsRefusedAndTheOthersGoOn) {
  start_one(0);
  const auto added = add_recorder();
  EXPECT_TRUE(fails_with(added, ENOBUFS));
  EXPECT_TRUE(mentions(added.error(), "4 buffers at once, and 4 too few")) << added.error().message();
  EXPECT_NE(added.error().message().find("may_restart"), std::string::npos) << added.error().message();
  expose(4);
  EXPECT_EQ(display.shown, numbers(0, 4));
  EXPECT_EQ(stream().branches.size(), 1U);
  EXPECT_GE(recorder.stops, 1) << "it was configured, and is left alone";
}

TEST_F(PipelineChanges, WhereItMayRestartTheStreamIsNegotiatedForBothAndNoFrameUnderWayIsLost) {
  start_one(0);
  expose(2);
  must(add_recorder({.policy = Policy::drop_when_full, .max_queued = 2, .may_restart = true}));
  EXPECT_EQ(camera.starts, 2);
  expose(3);
  EXPECT_EQ(display.shown.size(), 5U);
  EXPECT_EQ(recorder.shown.size(), 3U);
  EXPECT_EQ(branch().dropped.total(), 0U);
}

TEST_F(PipelineChanges, ABranchThatNothingSuitsLeavesTheStreamAsItWas) {
  start_one(0);
  recorder.takes = {formats::nv12};
  EXPECT_TRUE(fails_with(add_recorder({.may_restart = true}), EINVAL));
  expose(3);
  EXPECT_EQ(display.shown.size(), 3U);
  EXPECT_EQ(stream().branches.size(), 1U);
}

TEST_F(PipelineChanges, ABranchThatCannotImportGetsCopiesOnlyWhereTheUserAllowsThem) {
  must(pipeline.connect(camera, display));
  start({.buffers = 12, .allow_copy = true});
  FakeAllocator own("recorder");
  own.own.stride_alignment = 512;
  recorder.own_allocator = &own;
  recorder.on_import = [](const Buffer& buffer) -> Result<void> {
    if (buffer.layout().planes[0].stride == 512) return {};
    return std::unexpected(Error::os(EINVAL, "import", "recorder"));
  };
  must(add_recorder());
  expose(3);
  EXPECT_EQ(recorder.shown, numbers(0, 3));
  EXPECT_GT(stream().bytes_copied, 0U);
  const auto copied = stream().bytes_copied;
  must(pipeline.remove(recorder, Deadline::immediate()));
  expose(2);
  EXPECT_EQ(stream().bytes_copied, copied) << "what was copied stays counted";
}

TEST_F(PipelineChanges, ABranchThatGoesDeliversWhatItHasAndTheOthersLoseNone) {
  must(add_recorder({.policy = Policy::drop_when_full, .max_queued = 4}));
  start_one(8);
  recorder.busy = true;
  expose(3);
  EXPECT_EQ(stream().branches[0].held, 2U);
  must(pipeline.remove(recorder, Deadline::after(milliseconds(100))));
  EXPECT_EQ(recorder.shown, numbers(0, 3));
  EXPECT_EQ(recorder.stops, 1);
  expose(3);
  EXPECT_EQ(display.shown, numbers(0, 6));
  ASSERT_EQ(stream().removed.size(), 1U);
  EXPECT_EQ(stream().removed[0].delivered, 3U);
  EXPECT_EQ(stream().removed[0].captured(), 3U);
}

TEST_F(PipelineChanges, WhatASinkThatHangsNeverTookIsCountedWhenItIsRemoved) {
  must(add_recorder({.policy = Policy::drop_when_full, .max_queued = 4}));
  start_one(8);
  recorder.hangs = true;
  expose(3);
  EXPECT_TRUE(fails_with(pipeline.remove(recorder, Deadline::immediate()), ETIMEDOUT));
  ASSERT_EQ(stream().removed.size(), 1U);
  EXPECT_EQ(stream().removed[0].captured(), 3U);
  EXPECT_EQ(stream().removed[0].dropped.total(), 3U);
  expose(2);
  EXPECT_EQ(display.shown, numbers(0, 5));
}

TEST_F(PipelineChanges, TheLastBranchTakesItsSourceAlongAndAnotherBringsItBack) {
  start_one();
  expose(2);
  must(pipeline.remove(display, Deadline::after(milliseconds(100))));
  EXPECT_FALSE(camera.started);
  EXPECT_TRUE(pipeline.ended());
  must(add_recorder());
  EXPECT_TRUE(camera.started);
  expose(2);
  EXPECT_EQ(recorder.shown.size(), 2U);
  EXPECT_EQ(branch().skipped, 2U);
}

TEST_F(PipelineChanges, APausedBranchGetsNothingAndTheOthersEverything) {
  must(add_recorder());
  start_one();
  expose(2);
  must(pipeline.pause(recorder));
  must(pipeline.pause(recorder));
  expose(3);
  must(pipeline.resume(recorder));
  expose(1);
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 1, 5}));
  EXPECT_EQ(display.shown, numbers(0, 6));
  EXPECT_EQ(branch(0).skipped, 3U);
}

TEST_F(PipelineChanges, APausedBranchThatMayLoseNothingHoldsNobodyBack) {
  must(add_recorder({.policy = Policy::wait_when_full, .max_queued = 1}));
  start_one(8);
  recorder.busy = true;
  expose(2);
  must(pipeline.pause(recorder));
  expose(4);
  EXPECT_EQ(display.shown, numbers(0, 6));
}

TEST_F(PipelineChanges, WithEveryBranchPausedTheSourceGoesOn) {
  start_one();
  must(pipeline.pause(display));
  expose(20);
  EXPECT_EQ(stream().captured, 20U);
  EXPECT_EQ(branch().skipped, 20U);
}

TEST_F(PipelineChanges, DiscardLetsGoOfWhatWaitsAndKeepsWhatComesAfter) {
  must(add_recorder({.policy = Policy::drop_when_full, .max_queued = 4}));
  start_one(8);
  recorder.busy = true;
  expose(4);
  must(pipeline.discard(camera));
  EXPECT_EQ(branch(0).dropped.discarded, 3U) << "all but the one that the sink has";
  expose(1);
  recorder.flip();
  settle();
  recorder.flip();
  settle();
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 4}));
  EXPECT_EQ(display.shown, numbers(0, 5));
}

TEST_F(PipelineChanges, DiscardReachesFramesThatAreInAStage) {
  must(pipeline.connect(camera, recorder, "recorder", {.policy = Policy::drop_when_full, .stages = {&copy}}));
  start({.buffers = 12});
  recorder.always_busy = recorder.busy = true;
  expose(3);  // one staged in the sink, one copied, one waits
  must(pipeline.discard(camera));
  expose(1);
  for (int i = 0; i < 6; ++i) {
    recorder.flip();
    settle();
  }
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 3}));
  EXPECT_EQ(branch().dropped.discarded, 2U);
}

// --- Streams

TEST_F(PipelineChanges, ASecondSourceComesAndGoesWhileTheFirstGoesOn) {
  start_one();
  expose(2);
  must(pipeline.connect(second, recorder, "second"));
  expose(3, &second);
  expose(1);
  EXPECT_EQ(recorder.shown, numbers(0, 3));
  must(pipeline.stop(second, Deadline::after(milliseconds(100))));
  EXPECT_FALSE(second.started);
  expose(2);
  must(pipeline.start(second));
  EXPECT_EQ(second.starts, 2);
  expose(2, &second);
  EXPECT_EQ(display.shown, numbers(0, 5));
  EXPECT_EQ(recorder.shown.size(), 5U);
  EXPECT_EQ(camera.starts, 1);
}

TEST_F(PipelineChanges, AStreamStoppedAloneDoesNotKeepTheOthersFromEnding) {
  must(pipeline.connect(second, recorder, "second"));
  start_one();
  must(pipeline.stop(second, Deadline::immediate()));
  EXPECT_FALSE(pipeline.ended());
  camera.end();
  settle();
  EXPECT_TRUE(pipeline.ended());
}

TEST_F(PipelineChanges, ARequestChangesOneStreamAndTheOthersGoOn) {
  camera.configs.push_back(small_config(formats::xrgb8888, {128, 48}));
  must(pipeline.connect(second, recorder, "second"));
  start_one();
  expose(2);
  must(pipeline.reconfigure(camera, {.size = Size{128, 48}}, Deadline::after(milliseconds(100))));
  EXPECT_EQ(camera.output().layout.size, (Size{128, 48}));
  EXPECT_EQ(pipeline.plans()[1].config.layout.size, (Size{128, 48}));
  expose(2);
  expose(2, &second);
  EXPECT_EQ(display.shown.size(), 4U);
  EXPECT_EQ(second.starts, 1);
}

TEST_F(PipelineChanges, ARequestThatIsRefusedLeavesTheStreamAsItWasAndKeepsTheReason) {
  start_one();
  expose(2);
  EXPECT_FALSE(pipeline.reconfigure(camera, {.size = Size{640, 480}}, Deadline::after(milliseconds(100))));
  EXPECT_TRUE(pipeline.refusal());
  EXPECT_EQ(camera.output().layout.size, (Size{64, 48}));
  expose(2);
  EXPECT_EQ(display.shown.size(), 4U);
}

// --- Failures

TEST_F(PipelineChanges, ASinkThatFailsIsReportedAndTheOthersGoOn) {
  std::vector<std::string> failures;
  must(add_recorder());
  pipeline.on_failure([&](const Failure& failure) {
    failures.push_back(std::string(failure.name) + ": " + failure.error.message());
    return true;
  });
  start_one();
  expose(1);
  recorder.accept_error = Error::os(EIO, "write", "recorder");
  expose(3);
  ASSERT_EQ(failures.size(), 1U);
  EXPECT_TRUE(failures[0].starts_with("recorder: ")) << failures[0];
  EXPECT_EQ(display.shown, numbers(0, 4));
  EXPECT_EQ(recorder.stops, 1);
  EXPECT_EQ(branch(0).failed, 1U);
  EXPECT_EQ(branch(0).skipped, 2U);
  EXPECT_TRUE(fails_with(pipeline.resume(recorder), EINVAL));

  recorder.accept_error.reset();
  must(pipeline.remove(recorder, Deadline::immediate()));
  must(add_recorder());
  expose(1);
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 4}));
}

TEST_F(PipelineChanges, ASourceThatFailsIsReportedAndTheOthersGoOn) {
  const Source* failed = nullptr;
  must(pipeline.connect(second, recorder, "second"));
  pipeline.on_failure([&](const Failure& failure) {
    EXPECT_EQ(failure.sink, nullptr);
    failed = failure.source;
    return true;
  });
  start_one();
  second.take_error = Error::os(ENODEV, "VIDIOC_DQBUF", "second camera");
  second.expose();
  settle();
  EXPECT_EQ(failed, &second);
  EXPECT_FALSE(second.started);
  expose(3);
  EXPECT_EQ(display.shown, numbers(0, 3));
  second.take_error.reset();
  must(pipeline.start(second));
  expose(1, &second);
  EXPECT_EQ(recorder.shown.size(), 1U);
}

TEST_F(PipelineChanges, WithoutAFunctionForFailuresTheFirstEndsTheRun) {
  must(add_recorder());
  start_one();
  recorder.accept_error = Error::os(EIO, "write", "recorder");
  camera.expose();
  EXPECT_TRUE(fails_with(pipeline.step(Deadline::after(milliseconds(100))), EIO));
}

TEST_F(PipelineChanges, AStreamWhoseBranchesAllFailedIsStopped) {
  pipeline.on_failure([](const Failure&) { return true; });
  start_one();
  display.accept_error = Error::os(EIO, "write", "display");
  camera.expose();
  settle();
  EXPECT_FALSE(camera.started);
  EXPECT_TRUE(pipeline.ended());
}

TEST_F(PipelineChanges, ASinkThatStandsStillCountsAsFailedAndTheRunGoesOn) {
  must(add_recorder({.policy = Policy::drop_when_full, .max_queued = 1}));
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  std::vector<std::string> failures;
  auto tasks = must(TaskQueue::create());
  pipeline.on_failure([&](const Failure& failure) {
    failures.emplace_back(failure.name);
    return true;
  });
  recorder.hangs = true;
  pipeline.watch(*tasks);
  std::function<void()> more = [&] {  // a camera at some frame rate
    camera.expose();
    if (display.shown.size() < 60) tasks->post([&] { more(); });
    std::this_thread::sleep_for(milliseconds(2));
  };
  tasks->post([&] { more(); });
  must(pipeline.run({.frames = 60, .frame_timeout = milliseconds(30)}));
  EXPECT_EQ(failures, std::vector<std::string>{"recorder"});
  EXPECT_GE(display.shown.size(), 59U);
}

// --- Where changes may be made from

TEST_F(PipelineChanges, FromInsideASinksFunctionChangesAreRefusedAndATaskMakesThem) {
  auto tasks = must(TaskQueue::create());
  std::unique_ptr<FunctionSink> sink;
  Result<void> inside;
  sink = must(FunctionSink::create([&](const Frame&) -> Result<void> {
    inside = pipeline.remove(display, Deadline::immediate());
    tasks->post([&] { must(pipeline.remove(display, Deadline::immediate())); });
    return {};
  }));
  must(pipeline.connect(camera, *sink, "analysis"));
  pipeline.watch(*tasks);
  start_one();
  expose(1);
  EXPECT_TRUE(fails_with(inside, EBUSY));
  EXPECT_EQ(stream().branches.size(), 1U);
  EXPECT_EQ(stream().removed.size(), 1U);
  must(pipeline.stop(Deadline::immediate()));
}

TEST_F(PipelineChanges, AnotherThreadStopsARunByATask) {
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  auto tasks = must(TaskQueue::create());
  pipeline.watch(*tasks);
  std::thread other([&] { tasks->post([&] { must(pipeline.stop(Deadline::immediate())); }); });
  must(pipeline.run());
  other.join();
  EXPECT_FALSE(camera.started);
}

TEST_F(PipelineChanges, TheProgramsOwnLoopHearsOfBranchesThatComeAndGo) {
  const auto ready = [](int fd) {
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&one, 1, 0) == 1;
  };
  const int fd = must(pipeline.poll_fd());
  start_one();
  const auto turn = [&] {
    for (int i = 0; i < 20 && ready(fd); ++i) must(pipeline.dispatch());
  };
  must(pipeline.connect(second, recorder, "second"));
  turn();
  second.expose();
  EXPECT_TRUE(ready(fd)) << "the new source is waited for";
  turn();
  EXPECT_EQ(recorder.shown.size(), 1U);
  must(pipeline.remove(recorder, Deadline::immediate()));
  turn();
  camera.expose();
  turn();
  EXPECT_EQ(display.shown.size(), 1U);
  EXPECT_FALSE(ready(fd)) << "and no more";
}

TEST_F(PipelineChanges, WhatIsNotThereIsOneClearError) {
  start_one();
  EXPECT_TRUE(fails_with(pipeline.remove(recorder, Deadline::immediate()), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.pause(recorder), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.resume(recorder), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.discard(second), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.stop(second, Deadline::immediate()), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.start(second), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.reconfigure(second, {}, Deadline::immediate()), EINVAL));
}

// --- Time

TEST_F(PipelineChanges, PresentationTimesComeBackToTheProgram) {
  std::vector<Presentation> seen;
  BranchOptions options;
  options.on_presented = [&](const Presentation& one) { seen.push_back(one); };
  must(pipeline.connect(camera, display, "screen", std::move(options)));
  start();
  expose(3);
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_EQ(seen[2].sequence, 2U);
  EXPECT_GE(seen[2].presented, seen[2].captured);
}

}  // namespace
