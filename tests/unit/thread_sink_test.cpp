// ThreadSink: the function runs in parallel with the loop, and every frame, error and wake-up is accounted for.
#include "pipeline_support.hpp"

#include "uapi/sync_file.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/testing/conformance.hpp>
#include <dmaflow/thread_sink.hpp>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <vector>

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A function that blocks in each call until the test lets it continue, and records the frames that it was given.
class Gate {
 public:
  Result<void> operator()(const Frame& frame, const Cancel&) {
    std::unique_lock lock(mutex_);
    got_.push_back(frame.info().sequence);
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ || passes_ > 0; });
    if (!open_) --passes_;
    return {};
  }
  void pass(int calls) {
    change([&] { passes_ += calls; });
  }
  void open() {
    change([&] { open_ = true; });
  }
  /// Waits until the function was called this many times.
  void await_calls(std::size_t calls) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return got_.size() >= calls; });
  }
  [[nodiscard]] std::vector<std::uint64_t> got() {
    const std::lock_guard lock(mutex_);
    return got_;
  }

 private:
  template <typename F>
  void change(F what) {
    const std::lock_guard lock(mutex_);
    what();
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> got_;
  int passes_ = 0;
  bool open_ = false;
};

/// A sync_file whose end the test controls.
class PretendFences : public PretendDmaBufs {
 public:
  Fence fence() {
    event_ = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    return Fence::adopt_unchecked(must(Fd::dup_of(event_.get())));
  }
  void end_fence(int with) {
    status_ = with;
    ::eventfd_write(event_.get(), 1);
  }
  int before(const sys::Call& call) noexcept override {
    if (call.request != SYNC_IOC_FILE_INFO) return PretendDmaBufs::before(call);
    auto& info = *static_cast<sync_file_info*>(const_cast<void*>(call.argument));
    info.status = status_;
    if (info.num_fences > 0) reinterpret_cast<sync_fence_info*>(info.sync_fence_info)->status = status_;
    info.num_fences = 1;
    return pretend;
  }

 private:
  std::atomic<int> status_{0};
  Fd event_;
};

class ThreadSinkTest : public PipelineFixture {
 protected:
  static constexpr std::uint32_t enough = 16;  // buffers: so many that no test has to wait for one

  void make(ThreadSink::Callback function, ThreadSinkOptions options = {}) {
    sink = must(ThreadSink::create(std::move(function), std::move(options)));
  }
  void make_gated(ThreadSinkOptions options = {}) {
    make([this](const Frame& frame, const Cancel& stop) { return gate.operator()(frame, stop); }, std::move(options));
  }
  void start(BranchOptions options = {}) {
    must(pipeline.connect(camera, *sink, "analysis", std::move(options)));
    PipelineFixture::start({.buffers = enough});
  }
  void expose() {
    ASSERT_TRUE(camera.expose());
    must(pipeline.step(Deadline::after(seconds(20))));
  }
  /// Steps until @p holds returns true.
  template <typename F>
  void step_until(F holds) {
    const auto give_up = Deadline::after(seconds(20));
    while (!holds()) {
      ASSERT_GT(give_up.remaining(), Deadline::Clock::duration::zero()) << "it never came";
      must(pipeline.step(Deadline::after(milliseconds(20))));
    }
  }
  void TearDown() override {
    gate.open();
    PipelineFixture::TearDown();
  }

  Gate gate;
  PretendFences fences;
  std::unique_ptr<ThreadSink> sink;
};

TEST_F(ThreadSinkTest, TheFunctionRunsInAnotherThreadAndGetsEveryFrameInOrder) {
  std::vector<std::uint64_t> got;
  std::atomic<bool> is_other{true};
  const auto loop = std::this_thread::get_id();
  make([&](const Frame& frame, const Cancel&) -> Result<void> {
    is_other = is_other && std::this_thread::get_id() != loop;
    got.push_back(frame.info().sequence);
    return {};
  });
  start({.policy = Policy::wait_when_full});
  for (int i = 0; i < 50; ++i) {
    step_until([&] { return !camera.queued.empty(); });
    expose();
  }
  step_until([&] { return camera.holds()->lent() == 0; });
  must(pipeline.stop(Deadline::after(seconds(20))));
  EXPECT_TRUE(is_other);
  ASSERT_EQ(got.size(), 50U);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], i);
  EXPECT_EQ(branch().delivered, 50U);
}

TEST_F(ThreadSinkTest, TheLoopServesOthersWhileTheFunctionIsAtWork) {
  make_gated();
  must(pipeline.connect(camera, display));
  start();
  for (std::uint64_t i = 0; i < 5; ++i) {
    expose();
    settle();
    EXPECT_EQ(display.shown.size(), i + 1);
    gate.await_calls(1);
  }
  EXPECT_EQ(gate.got().size(), 1U) << "it still has its first frame";
}

TEST_F(ThreadSinkTest, WithLatestAFullQueueGivesUpItsOldestFrame) {
  make_gated({.queue = 2});
  start();
  expose();
  gate.await_calls(1);
  for (int i = 1; i < 6; ++i) expose();
  EXPECT_EQ(branch().dropped.replaced, 3U);
  gate.open();
  must(pipeline.stop(Deadline::after(seconds(20))));
  EXPECT_EQ(gate.got(), (std::vector<std::uint64_t>{0, 4, 5}));
  EXPECT_EQ(branch().delivered, 3U);
}

TEST_F(ThreadSinkTest, WithDropWhenFullTheNewFramesAreDropped) {
  make_gated({.queue = 2});
  start({.policy = Policy::drop_when_full, .max_queued = 1});
  expose();
  gate.await_calls(1);
  for (int i = 1; i < 6; ++i) expose();
  EXPECT_EQ(branch().dropped.queue_full, 2U);
  gate.open();
  step_until([&] { return branch().held == 0; });
  must(pipeline.stop(Deadline::after(seconds(20))));
  EXPECT_EQ(gate.got(), (std::vector<std::uint64_t>{0, 1, 2, 3}));
}

TEST_F(ThreadSinkTest, RoomInTheQueueWakesALoopThatSleeps) {
  make_gated({.queue = 1});
  start({.policy = Policy::wait_when_full, .max_queued = 1});
  expose();
  gate.await_calls(1);
  for (int i = 1; i < 4; ++i) ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(stream().captured, 3U) << "one in the function, one in its queue, one in the branch";
  const CountCalls count;
  EXPECT_FALSE(must(pipeline.step(Deadline::after(milliseconds(20)))));
  EXPECT_EQ(count.calls(), 1U) << "one wait, to its deadline";
  for (std::size_t i = 1; i < 4; ++i) {
    gate.pass(1);
    gate.await_calls(i + 1);
    EXPECT_TRUE(must(pipeline.step(Deadline::after(seconds(20))))) << "it was woken";
  }
  EXPECT_EQ(stream().captured, 4U);
}

/// Counts the calls on one descriptor, except polls.
struct CountOn : PretendDmaBufs {
  explicit CountOn(int which) : fd(which) {}
  int before(const sys::Call& call) noexcept override {
    if (call.fd == fd && std::string_view(call.name) != "poll") ++calls;
    return PretendDmaBufs::before(call);
  }
  const int fd;
  std::atomic<int> calls{0};
};

TEST_F(ThreadSinkTest, WithoutAFullQueueAFrameCostsNoCallOnTheDescriptor) {
  make([](const Frame&, const Cancel&) -> Result<void> { return {}; }, {.queue = 4});
  start();
  const auto holds = [&] { return camera.holds()->lent() == 0 && !camera.holds()->has_returned(); };
  expose();
  step_until(holds);
  const CountOn count(sink->poll_fd());
  for (int i = 0; i < 20; ++i) {
    expose();
    step_until(holds);
  }
  EXPECT_EQ(count.calls, 0);
}

/// Has a new frame whenever a buffer is free.
struct FastSource : FakeSource {
  FastSource() : FakeSource({small_config()}, "fast") {}
  Result<void> start(std::span<const Buffer> buffers) override {
    auto begun = FakeSource::start(buffers);
    expose();
    return begun;
  }
  Result<Frame> take() override {
    must(dispatch(0));
    auto frame = FakeSource::take();
    expose();
    return frame;
  }
};

TEST_F(ThreadSinkTest, WithLatestASlowFunctionDoesNotWakeTheLoopForRoomThatNobodyWaitsFor) {
  std::atomic<int> calls{0};
  make([&](const Frame&, const Cancel&) -> Result<void> {
    ++calls;
    std::this_thread::sleep_for(milliseconds(2));
    return {};
  });
  FastSource source;
  Pipeline own;
  must(own.connect(source, *sink));
  own.offer(heap);
  const CountOn count(sink->poll_fd());
  must(own.run({.duration = milliseconds(200), .frame_timeout = seconds(20)}));
  EXPECT_GT(own.stats().streams[0].branches[0].dropped.replaced, 0U);
  EXPECT_LE(count.calls, 6) << "before the first was displaced, and for the end; in " << calls << " calls";
  if (calls < 12) GTEST_SKIP() << "the machine is too busy to tell";
}

TEST_F(ThreadSinkTest, AFrameWaitsForItsFenceInTheWorker) {
  std::atomic<int> calls{0};
  make([&](const Frame&, const Cancel&) -> Result<void> {
    ++calls;
    return {};
  });
  start({.policy = Policy::drop_when_full});
  camera.on_lend = [&] { return fences.fence(); };
  expose();
  EXPECT_TRUE(fails_with(sink->drain(Deadline::after(milliseconds(10))), ETIMEDOUT));
  EXPECT_EQ(calls, 0);
  fences.end_fence(1);
  must(sink->drain(Deadline::after(seconds(20))));
  EXPECT_EQ(calls, 1);
}

TEST_F(ThreadSinkTest, AFrameWhoseFenceFailedIsDropped) {
  std::atomic<int> calls{0};
  make([&](const Frame&, const Cancel&) -> Result<void> {
    ++calls;
    return {};
  });
  start();
  camera.on_lend = [&] { return fences.fence(); };
  expose();
  fences.end_fence(-EIO);
  step_until([&] { return camera.holds()->lent() == 0; });
  must(pipeline.stop(Deadline::after(seconds(20))));
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(branch().dropped.by_device, 1U);
  EXPECT_EQ(branch().delivered, 0U);
}

TEST_F(ThreadSinkTest, AFenceThatNeverSignalsKeepsNobodyFromStopping) {
  make_gated();
  start();
  camera.on_lend = [&] { return fences.fence(); };
  expose();
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(milliseconds(10))), ETIMEDOUT));
  EXPECT_EQ(branch().dropped.by_device, 1U);
  EXPECT_TRUE(gate.got().empty());
}

TEST_F(ThreadSinkTest, AnErrorOfTheFunctionEndsTheRunWithThatError) {
  make(
      [](const Frame&, const Cancel&) -> Result<void> {
        return std::unexpected(Error::os(EIO, "encode", "encoder").detail("frame 0"));
      },
      {.queue = 4});
  must(pipeline.connect(camera, *sink, "analysis", {}));
  pipeline.offer(heap);
  ASSERT_TRUE(pipeline.prepare({.buffers = enough}));
  must(pipeline.start());
  ASSERT_TRUE(camera.expose());
  const auto give_up = Deadline::after(seconds(20));
  Result<bool> stepped = true;
  while (stepped && give_up.remaining() > Deadline::Clock::duration::zero()) stepped = pipeline.step(give_up);
  ASSERT_TRUE(fails_with(stepped, EIO));
  EXPECT_TRUE(mentions(stepped.error(), "encoder"));
  EXPECT_FALSE(sink->ready());
  EXPECT_TRUE(fails_with(sink->accept(Frame()), EIO)) << "until stop()";
  EXPECT_TRUE(fails_with(sink->drain(Deadline::after(seconds(20))), EIO));
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(seconds(20))), EIO));
  EXPECT_EQ(branch().dropped.by_device, 1U);
  must(sink->stop());
}

TEST_F(ThreadSinkTest, AnErrorThatNobodyHeardOfIsReturnedByStop) {
  make([&](const Frame& frame, const Cancel& stop) -> Result<void> {
    must(gate(frame, stop));
    return std::unexpected(Error::os(ENOSPC, "write"));
  });
  start();
  expose();
  gate.await_calls(1);
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(20));
    gate.open();
  });
  EXPECT_TRUE(fails_with(sink->stop(), ENOSPC));
  later.join();
  must(sink->stop());
}

TEST_F(ThreadSinkTest, AnExceptionEndsTheRunAsAnErrorDoes) {
  for (const bool is_ours : {true, false}) {
    Pipeline own;
    FakeSource source{{small_config()}};
    make([is_ours](const Frame&, const Cancel&) -> Result<void> {
      if (is_ours) return Result<void>(std::unexpected(Error::os(ENODEV, "look"))).value(), Result<void>{};
      throw std::runtime_error("no model");
    });
    must(own.connect(source, *sink));
    own.offer(heap);
    must(own.start());
    ASSERT_TRUE(source.expose());
    Result<bool> stepped = true;
    const auto give_up = Deadline::after(seconds(20));
    while (stepped && give_up.remaining() > Deadline::Clock::duration::zero()) stepped = own.step(give_up);
    ASSERT_TRUE(fails_with(stepped, is_ours ? ENODEV : EIO));
    EXPECT_TRUE(mentions(stepped.error(), is_ours ? "look" : "no model"));
    static_cast<void>(own.stop(Deadline::after(seconds(20))));
    expect_all_counted(own.stats());
  }
}

TEST_F(ThreadSinkTest, DrainGivesUpAtItsDeadlineAndWhenCancelled) {
  make_gated();
  start();
  expose();
  gate.await_calls(1);
  EXPECT_TRUE(fails_with(sink->drain(Deadline::after(milliseconds(10))), ETIMEDOUT));
  const auto cancel = must(Cancel::create());
  cancel.cancel();
  EXPECT_TRUE(fails_with(sink->drain(Deadline::after(seconds(20)), &cancel), ECANCELED));
  gate.open();
  must(sink->drain(Deadline::after(seconds(20))));
}

TEST_F(ThreadSinkTest, StopEndsAfterTheCallItIsInAndDropsWhatWaits) {
  std::atomic<int> calls{0};
  make(
      [&](const Frame&, const Cancel& stop) -> Result<void> {
        ++calls;
        while (!stop.is_set()) std::this_thread::yield();
        return std::unexpected(Error::os(ECANCELED, "encode"));  // as a wait inside the function would
      },
      {.queue = 4});
  start();
  for (int i = 0; i < 4; ++i) expose();
  while (calls == 0) std::this_thread::yield();
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(milliseconds(10))), ETIMEDOUT)) << "drain()";
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(branch().dropped.by_device, 4U);
  EXPECT_EQ(branch().delivered, 0U);
}

TEST_F(ThreadSinkTest, TheProgramMayKeepFramesAndLetThemGoInAnyThread) {
  std::mutex mutex;
  std::vector<Frame> kept;
  make(
      [&](Frame frame, const Cancel&) -> Result<void> {
        const std::lock_guard lock(mutex);
        kept.push_back(std::move(frame));
        return {};
      },
      {.queue = 1, .max_held = 3});
  EXPECT_EQ(sink->max_held(), 4U);
  start();
  for (int i = 0; i < 3; ++i) {
    expose();
    must(sink->drain(Deadline::after(seconds(20))));
  }
  EXPECT_EQ(camera.holds()->lent(), 3U);
  std::thread([&] {
    const std::lock_guard lock(mutex);
    kept.clear();
  }).join();
  EXPECT_EQ(camera.holds()->lent(), 0U);
}

TEST_F(ThreadSinkTest, ManyRunsLeakNothingAndEveryFrameIsCounted) {
  const LeakCheck leaks;
  {
    make([](const Frame&, const Cancel&) -> Result<void> { return {}; }, {.queue = 2});
    Pipeline own;
    must(own.connect(camera, *sink, "analysis", {.policy = Policy::drop_when_full, .max_queued = 1}));
    own.offer(heap);
    for (int run = 0; run < 20; ++run) {
      must(own.start());
      for (int i = 0; i < 20; ++i) {
        camera.expose();
        must(own.step(Deadline::after(seconds(20))));
        expect_all_counted(own.stats());
      }
      static_cast<void>(own.stop(Deadline::after(run % 2 == 0 ? seconds(20) : seconds(0))));
      expect_all_counted(own.stats());
    }
    EXPECT_EQ(own.stats().streams[0].branches[0].held, 0U);
    sink.reset();
  }
}

TEST_F(ThreadSinkTest, SignalsDoNotReachTheWorker) {
  std::atomic<bool> blocked{false};
  make([&](const Frame&, const Cancel&) -> Result<void> {
    sigset_t mask;
    ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    blocked = sigismember(&mask, SIGINT) == 1 && sigismember(&mask, SIGPIPE) == 1 && sigismember(&mask, SIGALRM) == 1;
    return {};
  });
  start();
  expose();
  must(sink->drain(Deadline::after(seconds(20))));
  EXPECT_TRUE(blocked);
}

TEST_F(ThreadSinkTest, WhatItCannotBeMadeWithIsRefused) {
  const auto nothing = [](const Frame&, const Cancel&) -> Result<void> { return {}; };
  EXPECT_TRUE(fails_with(ThreadSink::create({}), EINVAL));
  EXPECT_TRUE(fails_with(ThreadSink::create(nothing, {.queue = 0}), EINVAL));
  EXPECT_TRUE(fails_with(ThreadSink::create(nothing, {.queue = 33}), EINVAL));
  EXPECT_TRUE(fails_with(ThreadSink::create(nothing, {.max_held = 0}), EINVAL));
  {
    const FailNth fail(1, EMFILE, "eventfd");
    EXPECT_TRUE(fails_with(ThreadSink::create(nothing), EMFILE));
  }
  make(nothing, {.formats = {formats::nv12}});
  EXPECT_TRUE(fails_with(sink->check_input(small_config()), EINVAL));
  EXPECT_TRUE(fails_with(sink->accept(Frame()), EINVAL)) << "not started";
  must(sink->set_input(small_config(formats::nv12)));
  must(sink->start({}));
  EXPECT_TRUE(fails_with(sink->set_input(small_config(formats::nv12)), EBUSY));
  must(sink->stop());
}

TEST(ThreadSinkConformance, KeepsTheContractOfDeviceHpp) {
  const PretendDmaBufs pretend;
  FakeAllocator heap{"heap"};
  for (const std::uint32_t queue : {1U, 2U, 8U}) {
    const auto sink = must(ThreadSink::create(
        [](const Frame&, const Cancel&) -> Result<void> {
          std::this_thread::sleep_for(milliseconds(1));
          return {};
        },
        {.queue = queue}));
    const auto findings =
        dmaflow::testing::check_sink(*sink, {.config = small_config(), .allocator = &heap, .patience = seconds(20)});
    EXPECT_TRUE(findings) << findings.text();
  }
}

}  // namespace
