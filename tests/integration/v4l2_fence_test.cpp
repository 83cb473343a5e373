// V4L2 and fences: no buffer is queued before the fences it came with have ended, and nothing blocks meanwhile (vivid
// and sw_sync, in the lab).
#include "fake.hpp"
#include "v4l2_support.hpp"

#include <dmaflow/log.hpp>
#include <dmaflow/pipeline.hpp>

#include <array>
#include <atomic>
#include <thread>

#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using v4l2::Camera;
using v4l2::Output;

bool has_ended(int fence) { return sys::wait(fence, POLLIN, Deadline::immediate()) > 0; }

/// Checks at each QBUF of a capture buffer whether the release fences of this slot have ended.
class QueueWatch : public CountCalls {
 public:
  int before(const sys::Call& call) noexcept override {
    if (call.request != VIDIOC_QBUF || (device >= 0 && call.fd != device)) return proceed;
    const auto& buffer = *static_cast<const v4l2_buffer*>(call.argument);
    for (const Fd& fence : fences_[buffer.index]) {
      pollfd entry{.fd = fence.get(), .events = POLLIN, .revents = 0};
      if (::poll(&entry, 1, 0) != 1) ++early;
    }
    ++queued;
    return proceed;
  }
  /// Records a fence with which @p slot will be released; a slot may have several.
  Fence note(std::uint32_t slot, Fence fence) {
    fences_[slot].push_back(must(Fd::dup_of(fence.poll_fd())));
    return fence;
  }
  void forget(std::uint32_t slot) { fences_[slot].clear(); }
  int device = -1;         ///< only this one; -1 = any
  std::size_t early = 0;   ///< queued before a fence had ended
  std::size_t queued = 0;  ///< queued in total

 private:
  std::array<std::vector<Fd>, 64> fences_;
};

/// Waits as a loop does: for the camera, and for the fence that it waits for.
bool turn_with_fences(Camera& camera) {
  std::array<pollfd, 2> polls{{{camera.poll_fd(), camera.poll_events(), 0}, {camera.waiting_fence(), POLLIN, 0}}};
  if (sys::wait(polls, Deadline::after(20s)) <= 0) return false;
  must(camera.dispatch(polls[0].revents), "dispatch");
  return true;
}

class V4l2Fences : public ::testing::TestWithParam<bool> {
 protected:
  V4l2Fences() : camera(must(Camera::open(vivid(Kind::capture, GetParam())), "open")) {
    set_input(*camera, {320, 180}, formats::xrgb8888);
  }
  void start() { must(camera->start(own_buffers(*camera, 4)), "start"); }
  std::vector<Frame> take_all() {
    std::vector<Frame> all;
    while (all.size() < 4) all.push_back(capture_one(*camera));
    return all;
  }
  const LeakCheck leaks;
  std::unique_ptr<Camera> camera;
};
INSTANTIATE_TEST_SUITE_P(Api, V4l2Fences, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "multiplanar" : "singleplanar"; });

TEST_P(V4l2Fences, CapturedFramesHaveNone) {
  start();
  EXPECT_TRUE(capture_one(*camera).ready().is_null());
}

TEST_P(V4l2Fences, NoBufferIsQueuedBeforeItsReleaseAndOrderIsKept) {
  SwSync readers[2];  // two holders of each frame, the second one slower
  start();
  QueueWatch watch;
  std::atomic<std::uint32_t> released{0};
  const std::jthread gpu([&](const std::stop_token& stop) {
    for (std::uint32_t done = 0; !stop.stop_requested() || done < released;) {
      std::this_thread::sleep_for(3ms);
      if (done == released) continue;
      readers[0].advance();
      std::this_thread::sleep_for(std::chrono::milliseconds(done % 4 * 5));
      readers[1].advance();
      ++done;
    }
  });
  std::uint64_t last = 0;
  for (std::uint32_t frames = 0; frames < 150;) {
    ASSERT_TRUE(turn_with_fences(*camera)) << "after " << frames;
    Frame frame = must(camera->take());
    if (!frame) continue;
    EXPECT_GE(frame.info().sequence, last);
    last = frame.info().sequence;
    watch.forget(frame.index());
    Frame other = must(frame.split());
    ++frames;
    const std::uint32_t slot = frame.index();
    frame.release(watch.note(slot, readers[0].fence(frames)));
    other.release(watch.note(slot, readers[1].fence(frames)));
    released = frames;
  }
  EXPECT_EQ(watch.early, 0U) << "written while somebody read, of " << watch.queued;
}

TEST_P(V4l2Fences, WithEveryBufferWaitingTheFenceWakesTheLoopAndItNeverSpins) {
  SwSync sync;
  start();
  auto all = take_all();
  std::vector<std::uint32_t> order;
  for (Frame& frame : all) {
    order.push_back(frame.index());
    frame.release(sync.fence(static_cast<std::uint32_t>(order.size())));
  }
  const CountCalls queued("ioctl", VIDIOC_QBUF);
  must(camera->dispatch(0));
  EXPECT_EQ(queued.calls(), 0U);
  EXPECT_EQ(camera->poll_events(), POLLPRI);
  EXPECT_EQ(sys::wait(camera->poll_fd(), camera->poll_events(), Deadline::after(20ms)), 0) << "it would spin";
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_FALSE(has_ended(camera->waiting_fence()));
    sync.advance();
    ASSERT_TRUE(has_ended(camera->waiting_fence())) << "in the order they came back";
    must(camera->dispatch(0));
    EXPECT_EQ(queued.calls(), i + 1);
  }
  EXPECT_EQ(camera->waiting_fence(), -1);
  for (const std::uint32_t index : order) EXPECT_EQ(capture_one(*camera).index(), index) << "filled in that order";
}

TEST_P(V4l2Fences, OfAllHoldersAreWaitedForInTurn) {
  SwSync first;
  SwSync second;
  start();
  auto all = take_all();
  Frame other = must(all[0].split());
  all[0].release(first.fence(1));
  other.release(second.fence(1));
  const CountCalls queued("ioctl", VIDIOC_QBUF);
  must(camera->dispatch(0));
  const int waits = camera->waiting_fence();
  second.advance();
  must(camera->dispatch(0));
  EXPECT_EQ(queued.calls(), 0U);
  EXPECT_EQ(camera->waiting_fence(), waits) << "still the first";
  first.advance();
  must(camera->dispatch(0));
  EXPECT_EQ(queued.calls(), 1U);
  EXPECT_EQ(camera->waiting_fence(), -1);
}

TEST_P(V4l2Fences, ASlowReaderHoldsUpItsOwnBufferOnly) {
  SwSync sync;
  start();
  Frame frame = capture_one(*camera);
  const std::uint32_t index = frame.index();
  frame.release(sync.fence(1));
  for (int i = 0; i < 20; ++i) EXPECT_NE(capture_one(*camera).index(), index) << "written under a pending fence";
  sync.advance();
  bool back = false;
  for (int i = 0; i < 20 && !back; ++i) back = capture_one(*camera).index() == index;
  EXPECT_TRUE(back) << "never queued again after its fence";
}

/// Collects the library's warnings during its lifetime.
class Listen {
 public:
  Listen() {
    set_log_hook(
        [](LogLevel level, std::string_view text, void* user) {
          if (level == LogLevel::warning) static_cast<Listen*>(user)->said += text;
        },
        this);
  }
  ~Listen() { set_log_hook(nullptr); }
  Listen(const Listen&) = delete;
  Listen& operator=(const Listen&) = delete;
  std::string said;
};

TEST_P(V4l2Fences, AReleaseThatFailedLetsTheBufferBeWrittenAndIsSaid) {
  SwSync sync;
  start();
  auto all = take_all();
  all[0].release(sync.fence(1));
  Listen log;
  const CountCalls queued("ioctl", VIDIOC_QBUF);
  must(camera->dispatch(0));
  EXPECT_EQ(log.said, "");
  sync.fail();
  must(camera->dispatch(0));
  EXPECT_EQ(queued.calls(), 1U);
  EXPECT_NE(log.said.find("release fence"), std::string::npos) << log.said;
  EXPECT_NE(log.said.find("vivid"), std::string::npos) << log.said;
}

TEST_P(V4l2Fences, ASignalledReleaseCostsTwoCallsMoreAndANullOneNone) {
  SwSync sync;
  sync.advance(1);
  start();
  std::vector<Fence> fences;
  for (int i = 0; i < 30; ++i) fences.push_back(sync.fence(1));
  const auto calls_of = [&](bool fenced) {
    const CountCalls calls;
    for (std::size_t frames = 0; frames < 30;) {
      EXPECT_TRUE(turn_with_fences(*camera));
      Frame frame = must(camera->take());
      if (!frame) continue;
      frame.release(fenced ? std::move(fences[frames]) : Fence());
      ++frames;
    }
    must(camera->dispatch(0));  // the last frame's QBUF
    return calls.calls();
  };
  EXPECT_EQ(calls_of(true), calls_of(false) + 60) << "a status and a close";
}

TEST_P(V4l2Fences, StoppedWhileBuffersWaitNothingStaysBehind) {
  SwSync sync;
  start();
  auto all = take_all();
  for (Frame& frame : all) frame.release(sync.fence(1));
  must(camera->dispatch(0));
  EXPECT_GE(camera->waiting_fence(), 0);
  must(camera->stop());
  EXPECT_EQ(camera->waiting_fence(), -1);
}

// --- in a pipeline

/// Reads each frame late: releases it at once, with a fence that the test signals.
class LateReader : public FakeSink {
 public:
  using FakeSink::FakeSink;
  [[nodiscard]] Result<Frame> accept(Frame frame) override {
    ++taken;
    const std::uint32_t slot = frame.index();
    watch.forget(slot);
    frame.release(watch.note(slot, sync.fence(taken)));
    return Frame{};
  }
  [[nodiscard]] bool ready() const noexcept override { return true; }
  QueueWatch watch;
  SwSync sync;
  std::uint32_t taken = 0;
};

struct Stalled {
  Stalled()
      : slow(must(Camera::open(vivid(Kind::capture, false)))), other(must(Camera::open(vivid(Kind::capture, true)))) {}
  void start() {
    StreamRequest request;
    request.size = Size{320, 180};
    request.formats = {formats::xrgb8888};
    const auto plans = pipeline.prepare(request);
    ASSERT_TRUE(plans) << plans.error().message();
    reader.watch.device = slow->poll_fd();
    must(pipeline.start());
  }
  bool steps(const std::function<bool()>& done) {
    const auto deadline = Deadline::after(20s);
    while (!done()) {
      must(pipeline.step(deadline), "step");
      if (deadline.remaining() <= Deadline::Clock::duration::zero()) return false;
    }
    return true;
  }
  /// Steps until every buffer of the slow camera waits for its reader.
  bool stalls() {
    return steps([&] { return slow->poll_events() == POLLPRI && slow->waiting_fence() >= 0; });
  }

  const LeakCheck leaks;
  std::unique_ptr<Camera> slow;
  std::unique_ptr<Camera> other;
  LateReader reader{"reader"};
  FakeSink sink;
  Pipeline pipeline;
};

TEST(V4l2FencesInAPipeline, ASlowReaderStallsItsOwnSourceOnly) {
  Stalled at;
  must(at.pipeline.connect(*at.slow, at.reader));
  must(at.pipeline.connect(*at.other, at.sink));
  at.start();
  ASSERT_TRUE(at.stalls());
  const std::uint32_t taken = at.reader.taken;
  const std::size_t shown = at.sink.shown.size();
  ASSERT_TRUE(at.steps([&] { return at.sink.shown.size() >= shown + 30; })) << "the other source must go on";
  EXPECT_EQ(at.reader.taken, taken);
  at.reader.sync.advance(taken);
  ASSERT_TRUE(at.steps([&] { return at.reader.taken > taken; }));
  EXPECT_EQ(at.reader.watch.early, 0U);
  must(at.pipeline.stop(Deadline::after(2s)));
}

TEST(V4l2FencesInAPipeline, AFenceAloneWakesTheLoop) {
  Stalled at;
  must(at.pipeline.connect(*at.slow, at.reader));
  at.start();
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(at.stalls());
    const std::uint32_t taken = at.reader.taken;
    EXPECT_FALSE(must(at.pipeline.step(Deadline::after(50ms)))) << "nothing to do: it must sleep";
    const std::jthread gpu([&] {
      std::this_thread::sleep_for(20ms);
      at.reader.sync.advance();
    });
    ASSERT_TRUE(at.steps([&] { return at.reader.taken > taken; })) << "the fence woke nobody";
  }
  EXPECT_EQ(at.reader.watch.early, 0U);
  must(at.pipeline.stop(Deadline::after(2s)));
}

// --- output devices

class V4l2OutputFences : public ::testing::Test {
 protected:
  V4l2OutputFences() : output(must(Output::open(vivid(Kind::output, false), {.output = {}, .depth = 2}), "open")) {
    StreamConfig config;
    config.layout = must(Layout::linear(formats::xrgb8888, {640, 480}));
    config.constraints.min_stride[0] = config.layout.planes[0].stride;
    config.constraints.min_object_size = config.layout.object_sizes();
    must(output->set_input(config), "set_input");
    holds = must(HoldSet::create(heap_buffers(config, 5)));
    must(output->start(holds->buffers()), "start");
  }
  Frame frame(std::uint32_t sequence, Fence ready = {}) {
    FrameInfo info;
    info.sequence = sequence;
    return must(holds->lend(sequence, info, std::move(ready)));
  }
  void show(Frame next) {
    displaced = must(output->accept(std::move(next)), "accept");
    must(output->flush(), "flush");
  }
  std::vector<std::uint64_t> shown() {
    std::array<Presentation, 8> reports;
    const std::size_t count = output->take_presented(reports);
    std::vector<std::uint64_t> result;
    for (std::size_t i = 0; i < count; ++i) result.push_back(reports[i].sequence);
    return result;
  }
  /// @p all without frame @p last, the last one that was accepted: a device may keep it until another one arrives, as
  /// vivid does.
  static std::vector<std::uint64_t> without_last(std::vector<std::uint64_t> all, std::uint64_t last) {
    if (!all.empty() && all.back() == last) all.pop_back();
    return all;
  }
  const LeakCheck leaks;
  SwSync sync;
  std::unique_ptr<Output> output;
  std::shared_ptr<HoldSet> holds;
  Frame displaced;
};

TEST_F(V4l2OutputFences, AFrameWaitsForItsOwnAndKeepsItsPlace) {
  const CountCalls queued("ioctl", VIDIOC_QBUF);
  EXPECT_EQ(output->waiting_fence(), -1);
  show(frame(0, sync.fence(1)));
  must(output->dispatch(0));
  EXPECT_EQ(queued.calls(), 0U) << "queued under a pending fence";
  EXPECT_FALSE(output->ready()) << "those behind it wait";
  EXPECT_FALSE(has_ended(output->waiting_fence()));
  sync.advance();
  ASSERT_TRUE(has_ended(output->waiting_fence()));
  must(output->dispatch(0));
  EXPECT_EQ(queued.calls(), 1U);
  EXPECT_EQ(output->waiting_fence(), -1);
  EXPECT_TRUE(output->ready());
  show(frame(1));
  show(frame(2, sync.fence(1)));  // signalled, but the device already has two frames
  EXPECT_EQ(output->waiting_fence(), -1) << "a place is what it waits for: a loop would spin";
  must(output->drain(Deadline::after(20s)));
  EXPECT_EQ(without_last(shown(), 2), (std::vector<std::uint64_t>{0, 1}));
}

TEST_F(V4l2OutputFences, AFrameWhoseFenceFailedIsNeverShownAndComesBack) {
  Listen log;
  const CountCalls queued("ioctl", VIDIOC_QBUF);
  show(frame(0, sync.fence(1)));
  sync.fail();
  must(output->dispatch(0));
  EXPECT_EQ(queued.calls(), 0U);
  EXPECT_NE(log.said.find("fence"), std::string::npos) << log.said;
  EXPECT_TRUE(output->ready());
  EXPECT_EQ(output->dropped(), 1U);
  EXPECT_EQ(holds->lent(), 0U) << "it was let go at once";
  EXPECT_EQ(output->waiting_fence(), -1);
  must(output->drain(Deadline::after(20s)), "nothing to wait for");
  show(frame(1));
  EXPECT_FALSE(displaced);
  EXPECT_EQ(queued.calls(), 1U);
}

TEST_F(V4l2OutputFences, DrainWaitsForThem) {
  show(frame(0));
  show(frame(1, sync.fence(1)));
  EXPECT_TRUE(fails_with(output->drain(Deadline::after(20ms)), ETIMEDOUT));
  const std::jthread gpu([&] {
    std::this_thread::sleep_for(20ms);
    sync.advance();
  });
  must(output->drain(Deadline::after(20s)), "drain");
  EXPECT_EQ(without_last(shown(), 1), (std::vector<std::uint64_t>{0}));
}

}  // namespace
}  // namespace dmaflow::test
