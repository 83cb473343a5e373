#include "pipeline_support.hpp"

#include "sys/sys.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/stop.hpp>

#include <csignal>
#include <cstring>
#include <thread>

#include <sys/eventfd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

class PipelineTest : public PipelineFixture {
 protected:
  void TearDown() override {
    PipelineFixture::TearDown();
    for (const StreamStats& stream : pipeline.stats().streams) {
      for (const BranchStats& one : stream.branches) EXPECT_EQ(one.held, 0U) << one.name;
    }
  }
  void expose(int frames) {
    for (int i = 0; i < frames; ++i) {
      camera.expose();
      settle();
    }
  }

  using PipelineFixture::start;
  /// Starts a test's own pipeline with its own sink, which must outlive it.
  void start(Pipeline& own, Sink& sink) {
    must(own.connect(camera, sink));
    own.offer(heap);
    ASSERT_TRUE(own.prepare());
    must(own.start());
  }

  /// The display takes only memory with strides that the camera cannot use.
  void connect_those_who_cannot_share() {
    of_display.own.stride_alignment = 1024;
    display.own_allocator = &of_display;
    display.on_import = [](const Buffer& buffer) -> Result<void> {
      if (buffer.layout().planes[0].stride % 1024 == 0) return {};
      return std::unexpected(Error::os(ENODEV, "import", "display"));
    };
    camera.follows_strides = false;
    must(pipeline.connect(camera, display));
    pipeline.offer(heap);
  }

  FakeSink recorder{"recorder"};
  FakeAllocator of_display{"display"};
};

TEST_F(PipelineTest, AnObjectThatWantsToBeCalledAtATimeIsCalledThenThoughNothingCame) {
  FakeSink watched{"watched"};
  pipeline.watch(watched);
  must(pipeline.connect(camera, display));
  start();
  display.wake_at = Deadline::after(milliseconds(1));
  watched.wake_at = Deadline::after(milliseconds(2));
  while (display.woken + watched.woken < 2) EXPECT_TRUE(must(pipeline.step(Deadline::after(std::chrono::seconds(10)))));
  settle();
  EXPECT_EQ(display.woken, 1);
  EXPECT_EQ(watched.woken, 1);
}

/// Another object that a program waits for in the same loop.
class Bell : public Pollable {
 public:
  Bell() : event_(Fd::adopt(sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK))) {}
  void ring() const { sys::write(event_.get(), &one, sizeof one); }
  [[nodiscard]] int poll_fd() const noexcept override { return event_.get(); }
  [[nodiscard]] short poll_events() const noexcept override { return POLLIN; }
  [[nodiscard]] Result<void> dispatch(short revents) override {
    std::uint64_t count = 0;
    if (revents != 0 && sys::read(event_.get(), &count, sizeof count) > 0) ++heard;
    return {};
  }
  int heard = 0;

 private:
  static constexpr std::uint64_t one = 1;
  Fd event_;
};

TEST_F(PipelineTest, WhatIsWatchedIsServedInTheSameLoop) {
  Bell bell;
  pipeline.watch(bell);
  must(pipeline.connect(camera, display));
  start();
  bell.ring();
  EXPECT_TRUE(must(pipeline.step(Deadline::after(std::chrono::seconds(10)))));
  EXPECT_EQ(bell.heard, 1);
  expose(3);
  EXPECT_EQ(display.shown.size(), 3U);
}

TEST_F(PipelineTest, FramesArriveInOrderEachOnce) {
  must(pipeline.connect(camera, display));
  start();
  expose(50);
  std::vector<std::uint64_t> expected(50);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = i;
  EXPECT_EQ(display.shown, expected);
  EXPECT_EQ(pipeline.stats().streams[0].captured, 50U);
  EXPECT_EQ(branch().presented, 50U);
  EXPECT_EQ(branch().dropped.total(), 0U);
  EXPECT_EQ(pipeline.stats().streams[0].lost, 0U);
}

TEST_F(PipelineTest, EveryBufferIsImportedBeforeTheStartAndNoneAfter) {
  must(pipeline.connect(camera, display));
  start();
  const int imports = display.imports;
  EXPECT_GE(imports, static_cast<int>(pipeline.plans()[0].buffers));
  expose(20);
  EXPECT_EQ(display.imports, imports);
}

TEST_F(PipelineTest, LatestShowsTheNewestAndCountsTheRest) {
  must(pipeline.connect(camera, display));
  start();
  display.busy = true;
  expose(10);
  EXPECT_TRUE(display.shown.empty());
  display.flip();
  settle();
  EXPECT_EQ(display.shown, std::vector<std::uint64_t>{9});
  EXPECT_EQ(branch().dropped.total(), 9U);
  EXPECT_EQ(branch().delivered, 1U);
}

TEST_F(PipelineTest, ASlowRecorderDropsItsOwnFramesOnly) {
  must(pipeline.connect(camera, display, "screen"));
  must(pipeline.connect(camera, recorder, "recorder", {.policy = Policy::drop_when_full, .max_queued = 2}));
  start();
  recorder.busy = true;
  expose(10);
  EXPECT_EQ(display.shown.size(), 10U) << "the display loses nothing";
  EXPECT_EQ(branch(0).dropped.total(), 0U);
  recorder.flip();
  settle();
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 1, 2})) << "one staged, two queued, in order";
  EXPECT_EQ(branch(1).dropped.total(), 7U);
}

TEST_F(PipelineTest, ABufferOnTheScreenIsNeverQueuedToTheCamera) {
  must(pipeline.connect(camera, display));
  start();
  const auto buffers = pipeline.plans()[0].buffers;
  expose(30);
  EXPECT_EQ(camera.queued.size(), buffers - 1) << "all but the one that is shown";
  display.stop();
  settle();
  EXPECT_TRUE(camera.expose());
}

TEST_F(PipelineTest, GapsInTheSequenceAreCountedAsLost) {
  must(pipeline.connect(camera, display));
  start();
  expose(2);
  auto queued = std::exchange(camera.queued, {});
  camera.expose();  // no buffer: lost
  camera.expose();
  camera.queued = queued;
  expose(1);
  EXPECT_EQ(pipeline.stats().streams[0].lost, 2U);
}

TEST_F(PipelineTest, TheSteadyStateMakesOneSystemCallOfItsOwnPerFrame) {
  must(pipeline.connect(camera, display));
  start();
  expose(5);
  camera.expose();
  const CountCalls calls;
  must(pipeline.step(Deadline::after(milliseconds(5))));
  EXPECT_EQ(calls.calls(), 1U) << "the wait";
}

TEST_F(PipelineTest, FramesReturnedByAnotherThreadGoBackToTheSource) {
  struct Keeper : FakeSink {
    Keeper() : FakeSink("keeper") {}
    Result<Frame> accept(Frame frame) override {
      kept = std::move(frame);
      return Frame();
    }
    Frame kept;
  } keeper;
  Pipeline other;
  start(other, keeper);
  camera.expose();
  must(other.step(Deadline::after(milliseconds(50))));
  const auto before = camera.queued.size();
  ASSERT_TRUE(keeper.kept);
  std::thread thread([frame = std::move(keeper.kept)]() mutable {
    std::this_thread::sleep_for(milliseconds(20));
    frame.release();
  });
  EXPECT_TRUE(must(other.step(Deadline::after(std::chrono::seconds(5))))) << "woken by the return";
  thread.join();
  EXPECT_EQ(camera.queued.size(), before + 1);
}

TEST_F(PipelineTest, WhereFramesComeBackInItsOwnCallsTheLoopWaitsForTheCameraAlone) {
  struct Obedient : FakeSink {
    [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  } obedient;
  Pipeline other;
  start(other, obedient);
  const auto buffers = other.plans()[0].buffers;
  const CountCalls waits("poll", 1);
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(camera.expose());
    ASSERT_TRUE(must(other.step(Deadline::after(std::chrono::seconds(5)))));
  }
  EXPECT_EQ(waits.calls(), 30U) << "of one descriptor";
  EXPECT_EQ(camera.queued.size(), buffers - 1) << "all but the one that is shown came back";
}

/// Exposes a frame in each iteration of the loop, like a camera that runs at its own rate.
struct RunningSource : FakeSource {
  using FakeSource::FakeSource;
  Result<void> start(std::span<const Buffer> buffers) override {
    auto started_well = FakeSource::start(buffers);
    if (limit > 0) expose();
    return started_well;
  }
  Result<void> dispatch(short revents) override {
    auto done = FakeSource::dispatch(revents);
    if (started && ++exposed < limit) expose();
    return done;
  }
  int limit = 1 << 30;
  int exposed = 0;
};

class PipelineRunTest : public testing::Test {
 protected:
  PipelineRunTest() {
    must(pipeline.connect(camera, display));
    pipeline.offer(heap);
  }
  void TearDown() override { expect_all_counted(pipeline.stats()); }
  PretendDmaBufs pretend;
  RunningSource camera{{small_config()}};
  FakeSink display;
  FakeAllocator heap{"heap"};
  Pipeline pipeline;
};

TEST_F(PipelineRunTest, EndsAfterTheFramesAskedFor) {
  must(pipeline.run({.frames = 20}));
  EXPECT_EQ(pipeline.stats().streams[0].captured, 20U);
  EXPECT_EQ(display.stops, 1);
  EXPECT_FALSE(camera.started);
}

TEST_F(PipelineRunTest, EndsAfterTheDuration) {
  must(pipeline.run({.duration = milliseconds(30)}));
  EXPECT_GT(pipeline.stats().streams[0].captured, 0U);
}

TEST_F(PipelineRunTest, EndsWhenItsCancelIsSet) {
  const Cancel cancel = must(Cancel::create());
  std::thread stopper([&] {
    std::this_thread::sleep_for(milliseconds(20));
    cancel.cancel();
  });
  must(pipeline.run({.cancel = &cancel}));
  stopper.join();
}

TEST_F(PipelineRunTest, EndsWhenAlreadyCancelled) {
  const Cancel cancel = must(Cancel::create());
  cancel.cancel();
  must(pipeline.run({.cancel = &cancel}));
}

TEST_F(PipelineRunTest, EndsWhenTheStopDescriptorIsReadable) {
  sigset_t before;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  const Fd signals = must(stop_on_signals());
  ::raise(SIGINT);  // blocked, so it is pending in the signalfd
  must(pipeline.run({.stop_fd = signals.get()}));
  std::array<char, 256> info{};
  EXPECT_GT(sys::read(signals.get(), info.data(), info.size()), 0) << "nothing was read from it";
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_F(PipelineRunTest, WithoutFramesItFailsAtTheDeadline) {
  camera.limit = 0;
  EXPECT_TRUE(fails_with(pipeline.run({.frame_timeout = milliseconds(30)}), ETIMEDOUT));
  EXPECT_FALSE(camera.started);
}

TEST_F(PipelineRunTest, ADeviceErrorEndsTheRunAndStopsEverything) {
  camera.take_error = Error::os(ENODEV, "VIDIOC_DQBUF", "camera");
  EXPECT_TRUE(fails_with(pipeline.run(), ENODEV));
  EXPECT_EQ(display.stops, 1);
}

TEST_F(PipelineRunTest, TheEndOfTheStreamEndsTheRunWell) {
  camera.limit = 5;
  camera.end();
  must(pipeline.run());
  EXPECT_FALSE(camera.started);
}

TEST_F(PipelineRunTest, CanRunAgain) {
  must(pipeline.run({.frames = 5}));
  must(pipeline.run({.frames = 10}));
  EXPECT_EQ(camera.starts, 2);
}

TEST_F(PipelineRunTest, TheLimitOfFramesIsOfEachRun) {
  must(pipeline.run({.frames = 5}));
  must(pipeline.run({.frames = 5}));
  EXPECT_EQ(pipeline.stats().streams[0].captured, 10U);
}

TEST_F(PipelineRunTest, NoTimeoutIsAsLongAsTimeGoes) {
  must(pipeline.run({.frames = 3, .frame_timeout = std::chrono::nanoseconds::max()}));
}

TEST_F(PipelineRunTest, ASourceThatEndsDoesNotEndTheOthers) {
  FakeSource second{{small_config()}, "second"};
  FakeSink other{"other"};
  must(pipeline.connect(second, other, "other"));
  second.end();
  must(pipeline.run({.frames = 50, .frame_timeout = milliseconds(500)}));
  EXPECT_EQ(pipeline.stats().streams[0].captured, 50U);
}

TEST_F(PipelineRunTest, ReplacingARunningPipelineStopsItsDevices) {
  ASSERT_TRUE(pipeline.prepare());
  must(pipeline.start());
  EXPECT_TRUE(camera.started);
  pipeline = Pipeline();
  EXPECT_FALSE(camera.started);
  EXPECT_EQ(display.stops, 1);
}

TEST_F(PipelineRunTest, ReportsProgressInTheLoopsThread) {
  int calls = 0;
  must(pipeline.run({.duration = milliseconds(1100), .progress = [&](const Stats& stats) {
                       ++calls;
                       EXPECT_GT(stats.streams[0].captured, 0U);
                     }}));
  EXPECT_EQ(calls, 1);
}

TEST_F(PipelineRunTest, LeavesNothingBehind) {
  const LeakCheck leaks;
  must(pipeline.run({.frames = 5}));
}

TEST_F(PipelineTest, AStreamThatChangesFormatIsPlannedAnewAndKeepsOldFrames) {
  const LeakCheck leaks;
  must(pipeline.connect(camera, display));
  start({.size = Size{64, 48}});
  expose(3);
  Frame kept = must(must(camera.holds()->lend(camera.queued.back(), {.sequence = 99})).split());
  camera.queued.pop_back();
  camera.configs = {small_config(formats::xrgb8888, {32, 16})};
  camera.changed = true;
  camera.expose();
  settle();
  EXPECT_EQ(camera.starts, 2);
  EXPECT_EQ(pipeline.stats().streams[0].renegotiations, 1U);
  EXPECT_EQ(pipeline.plans()[0].config.layout.size, (Size{32, 16}));
  EXPECT_EQ(kept.buffer().layout().size, (Size{64, 48})) << "held frames keep their old buffers";
  expose(3);
  EXPECT_EQ(display.shown.size(), 7U);
  kept.release();
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

TEST_F(PipelineTest, AFailedStartLeavesNothingRunning) {
  must(pipeline.connect(camera, display));
  must(pipeline.connect(camera, recorder, "recorder"));
  pipeline.offer(heap);
  ASSERT_TRUE(pipeline.prepare());
  recorder.on_import = [](const Buffer&) -> Result<void> { return std::unexpected(Error::os(EIO, "import")); };
  EXPECT_TRUE(fails_with(pipeline.start(), EIO));
  EXPECT_FALSE(camera.started);
  EXPECT_EQ(display.stops, 1);
}

TEST_F(PipelineTest, ConnectRefusesWhatCannotWork) {
  must(pipeline.connect(camera, display));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, display), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, ""), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "r", {.max_queued = 0}), EINVAL));
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "r", {.max_queued = 33}), EINVAL));
  pipeline.offer(heap);
  ASSERT_TRUE(pipeline.prepare());
  EXPECT_TRUE(fails_with(pipeline.connect(camera, recorder, "late"), EBUSY));
}

TEST_F(PipelineTest, CopiesOnlyWhenAskedAndCountsEveryByte) {
  connect_those_who_cannot_share();
  const auto refused = pipeline.prepare();
  ASSERT_FALSE(refused) << "never silently";

  const auto plans = pipeline.prepare({.allow_copy = true});
  ASSERT_TRUE(plans) << plans.error().message();
  EXPECT_TRUE(plans->front().copies);
  EXPECT_EQ(plans->back().allocator, &of_display);
  must(pipeline.start());
  expose(4);
  EXPECT_EQ(display.shown.size(), 4U);
  EXPECT_EQ(pipeline.stats().streams[0].bytes_copied, 4U * 64 * 48 * 4);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

TEST_F(PipelineTest, ACopyThatWasAllowedOnceIsNotKept) {
  connect_those_who_cannot_share();
  ASSERT_TRUE(pipeline.prepare({.allow_copy = true}));
  EXPECT_FALSE(pipeline.prepare()) << "a copy needs leave each time";
  EXPECT_TRUE(pipeline.plans().empty());
}

TEST_F(PipelineTest, WhereOneBufferWorksButNotAllTheNextAllocatorIsTaken) {
  FakeAllocator small{"small", {.contiguous = true}};
  small.most = 2;
  must(pipeline.connect(camera, display));
  pipeline.offer(small);
  pipeline.offer(heap);
  const auto plans = pipeline.prepare();
  ASSERT_TRUE(plans) << plans.error().message();
  EXPECT_EQ(plans->front().allocator, &heap);
  EXPECT_EQ(plans->front().candidates.front().refusal->code(), ENOMEM);
}

TEST_F(PipelineTest, WhatWaitsForASlowRecorderIsRecordedAtTheEnd) {
  must(pipeline.connect(camera, recorder, "recorder", {.policy = Policy::drop_when_full, .max_queued = 3}));
  start();
  recorder.busy = true;
  expose(4);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
  EXPECT_EQ(recorder.shown, (std::vector<std::uint64_t>{0, 1, 2, 3}));
  EXPECT_EQ(branch().dropped.total(), 0U);
}

TEST_F(PipelineTest, ACopyHoldsTheSamePixelsAtOtherStrides) {
  CopyStage copy;
  const StreamConfig in = small_config(formats::nv12, {62, 46});
  must(copy.set_input(in));
  must(copy.set_output(must(copy.offers({})).front()));
  std::vector<Buffer> inputs{memfd_buffer(in.layout)};
  const Layout wide = must(Layout::linear(formats::nv12, {62, 46}, {.stride_alignment = 256}));
  must(copy.start(inputs, {memfd_buffer(wide)}));
  auto holds = must(HoldSet::create(inputs));
  {
    auto write = must(CpuAccess::begin(inputs[0], CpuAccess::Mode::write, Deadline::after(milliseconds(100))));
    for (std::uint32_t p = 0; p < 2; ++p) {
      auto bytes = write.writable_plane(p);
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + p);
    }
  }
  must(copy.accept(must(holds->lend(0, {.sequence = 4}))));
  const Frame result = must(copy.take());
  ASSERT_TRUE(result);
  EXPECT_EQ(result.info().sequence, 4U);
  auto from = must(CpuAccess::begin(inputs[0], CpuAccess::Mode::read, Deadline::after(milliseconds(100))));
  auto to = must(CpuAccess::begin(result.buffer(), CpuAccess::Mode::read, Deadline::after(milliseconds(100))));
  for (std::uint32_t p = 0; p < 2; ++p) {
    for (std::uint32_t y = 0; y < wide.rows(p); ++y) {
      EXPECT_EQ(std::memcmp(&from.plane(p)[std::size_t{y} * in.layout.planes[p].stride],
                            &to.plane(p)[std::size_t{y} * wide.planes[p].stride], wide.row_bytes(p)),
                0);
    }
  }
  EXPECT_EQ(copy.bytes_copied(), wide.pixel_bytes());
}

/// Passes frames through in pairs, each pair in reverse order and one frame late: the interface must allow this.
struct Shuffle : Stage {
  std::string_view name() const noexcept override { return "shuffle"; }
  bool passes_through() const noexcept override { return true; }
  Result<void> check_input(const StreamConfig&) override { return {}; }
  Result<void> set_input(const StreamConfig&) override { return {}; }
  Result<void> import(const Buffer&) override { return {}; }
  std::uint32_t max_held() const noexcept override { return 2; }
  Result<std::vector<StreamConfig>> offers(const StreamRequest&) override { return std::vector<StreamConfig>(); }
  Result<void> set_output(const StreamConfig&) override { return {}; }
  const StreamConfig& output() const noexcept override { return none; }
  Result<void> try_output(const Buffer&) override { return {}; }
  std::uint32_t min_buffers() const noexcept override { return 0; }
  int poll_fd() const noexcept override { return -1; }
  short poll_events() const noexcept override { return 0; }
  Result<void> dispatch(short) override { return {}; }
  Result<void> start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) override {
    EXPECT_FALSE(inputs.empty());
    EXPECT_TRUE(outputs.empty());
    return {};
  }
  bool ready() const noexcept override { return held.size() < 2 && !draining; }
  Result<void> accept(Frame frame) override {
    held.push_back(std::move(frame));
    giving = giving || held.size() == 2;
    return {};
  }
  Result<Frame> take() override {
    if (!giving && !draining) return Frame();
    if (held.empty()) return Frame();
    Frame last = std::move(held.back());
    held.pop_back();
    if (held.empty()) giving = false;
    return last;
  }
  Result<void> drain(Deadline, const Cancel*) override {
    draining = true;
    return {};
  }
  Result<void> stop() noexcept override {
    held.clear();
    return {};
  }
  StreamConfig none;
  std::deque<Frame> held;
  bool giving = false;
  bool draining = false;
};

TEST_F(PipelineTest, AStageMayBeLateAndChangeTheOrder) {
  Shuffle shuffle;
  must(pipeline.connect(camera, display, "screen", {.policy = Policy::drop_when_full, .stages = {&shuffle}}));
  start();
  expose(5);
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{1, 0, 3, 2}));
  must(pipeline.stop(Deadline::after(milliseconds(100))));
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{1, 0, 3, 2, 4})) << "drained at the end";
}

/// Takes a long time for every frame, in accept(), like a GPU that runs on the CPU.
struct Slow : Shuffle {
  bool ready() const noexcept override { return held.empty(); }
  Result<void> accept(Frame frame) override {
    accepted.push_back(frame.info().sequence);
    std::this_thread::sleep_for(milliseconds(100));
    held.push_back(std::move(frame));
    giving = true;
    return {};
  }
  std::vector<std::uint64_t> accepted;
};

TEST_F(PipelineTest, AStageSlowerThanTheCameraGetsTheNewestFrameNotTheOldest) {
  Slow slow;
  must(pipeline.connect(camera, display, "screen", {.stages = {&slow}}));
  start({.buffers = 8});
  for (int i = 0; i < 3; ++i) camera.expose();  // while the loop does not run
  std::this_thread::sleep_for(milliseconds(50));
  settle();
  EXPECT_EQ(slow.accepted, (std::vector<std::uint64_t>{2}));
  EXPECT_EQ(branch().dropped.total(), 2U);
  camera.expose();
  settle();
  EXPECT_EQ(slow.accepted.back(), 3U);
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{2, 3}));
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

TEST_F(PipelineTest, TwoSourcesRunInOneLoop) {
  FakeSource second{{small_config()}, "second"};
  FakeSink other{"other"};
  must(pipeline.connect(camera, display));
  must(pipeline.connect(second, other));
  start();
  second.expose();
  expose(4);
  EXPECT_EQ(display.shown.size(), 4U);
  EXPECT_EQ(other.shown.size(), 1U);
  EXPECT_EQ(pipeline.plans().size(), 2U);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
}

}  // namespace
