// AppSource: frames that the program makes. Any thread may push them, they arrive in order, none is lost, and every
// wrong use is one clear error.
#include "pipeline_support.hpp"

#include <dmaflow/app_source.hpp>
#include <dmaflow/cpu_access.hpp>
#include <dmaflow/function_sink.hpp>
#include <dmaflow/pipeline.hpp>

#include <cerrno>
#include <memory>
#include <thread>
#include <vector>

#include <linux/sync_file.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

/// Also lets memfds pass as sync_files, all in the same state.
struct PretendFences : PretendDmaBufs {
  int before(const sys::Call& call) noexcept override {
    if (call.request != SYNC_IOC_FILE_INFO) return PretendDmaBufs::before(call);
    auto& info = *static_cast<sync_file_info*>(const_cast<void*>(call.argument));
    info.num_fences = 1;
    info.status = status;
    if (info.sync_fence_info != 0) reinterpret_cast<sync_fence_info*>(info.sync_fence_info)->status = status;
    return pretend;
  }
  int status = 0;  // active
};

class AppSourceTest : public PipelineFixture {
 protected:
  void start(BranchOptions options = {}) {
    must(pipeline.connect(*app, display, "screen", std::move(options)));
    PipelineFixture::start();
  }

  PretendFences fences;
  std::unique_ptr<AppSource> app = must(AppSource::create({small_config()}, {.filling = 2}));
};

TEST_F(AppSourceTest, WhatIsPushedIsShownInOrderWithItsCountAndTime) {
  start();
  for (int i = 0; i < 3; ++i) {
    Frame frame = must(app->acquire());
    ASSERT_TRUE(frame.is_sole());
    auto access = must(CpuAccess::begin(frame.buffer(), Access::write, Deadline::after(milliseconds(100))));
    access.writable_plane(0)[0] = std::byte(i);
    must(access.end());
    must(app->push(std::move(frame), {.sequence = 77}));
    settle();
  }
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{0, 1, 2}));
  EXPECT_EQ(pipeline.stats().streams[0].captured, 3U);
  EXPECT_EQ(pipeline.stats().streams[0].branches[0].latency.count(), 3U)
      << "the time stamps are of the monotonic clock";
}

TEST_F(AppSourceTest, FramesOfAnotherThreadAllArrive) {
  std::vector<std::uint64_t> got;
  const auto sink = must(FunctionSink::create([&](const Frame& frame) -> Result<void> {
    got.push_back(frame.info().sequence);
    return {};
  }));
  Pipeline own;
  must(own.connect(*app, *sink, "analysis", {.policy = Policy::wait_when_full}));
  own.offer(heap);
  must(own.start());
  std::thread decoder([&] {
    for (int i = 0; i < 100; ++i) {
      auto frame = app->acquire(Deadline::after(std::chrono::seconds(20)));
      if (!frame) return;
      if (i % 10 == 5) {  // a frame that is released instead of pushed
        frame->release();
        frame = app->acquire(Deadline::after(std::chrono::seconds(20)));
      }
      if (!frame || !app->push(std::move(*frame))) return;
    }
    app->end();
  });
  const auto give_up = Deadline::after(std::chrono::seconds(20));
  while (!own.ended() && give_up.remaining() > Deadline::Clock::duration::zero()) must(own.step(give_up));
  decoder.join();
  must(own.stop(Deadline::after(milliseconds(100))));
  ASSERT_EQ(got.size(), 100U);
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(got[i], i);
}

TEST_F(AppSourceTest, WithoutAFreeBufferAcquireSaysSoAndAnUnpushedFrameIsFreeAgain) {
  EXPECT_TRUE(fails_with(app->acquire(), EINVAL)) << "not started";
  start();
  std::vector<Frame> held;
  while (auto frame = app->acquire()) held.push_back(std::move(*frame));
  EXPECT_EQ(held.size(), pipeline.plans()[0].buffers);
  EXPECT_TRUE(fails_with(app->acquire(Deadline::after(milliseconds(5))), EAGAIN));
  held.pop_back();
  settle();
  EXPECT_TRUE(app->acquire());
}

TEST_F(AppSourceTest, ABufferThatADeviceStillReadsIsNotGivenOut) {
  start();
  std::vector<Frame> held;
  while (auto frame = app->acquire()) held.push_back(std::move(*frame));
  held.back().release(Fence::adopt_unchecked(memfd(16)));
  held.pop_back();
  settle();
  EXPECT_TRUE(fails_with(app->acquire(Deadline::after(milliseconds(5))), EAGAIN));
  fences.status = 1;
  EXPECT_TRUE(app->acquire(Deadline::after(std::chrono::seconds(20))));
}

TEST_F(AppSourceTest, WrongFramesAreRefused) {
  start();
  EXPECT_TRUE(fails_with(app->push(Frame()), EINVAL));
  const auto holds = must(HoldSet::create({memfd_buffer(small_config().layout)}));
  EXPECT_TRUE(fails_with(app->push(must(holds->lend(0, {}))), EINVAL)) << "another source's";
  Frame split = must(app->acquire());
  const Frame other = must(split.split());
  EXPECT_TRUE(fails_with(app->push(std::move(split)), EPERM));
  Frame old = must(app->acquire());
  must(pipeline.stop(Deadline::after(milliseconds(100))));
  EXPECT_TRUE(fails_with(app->push(std::move(old)), EINVAL)) << "from before the stop";
}

TEST_F(AppSourceTest, EndLetsWhatWasPushedArriveAndEndsTheStream) {
  start({.policy = Policy::wait_when_full});
  must(app->push(must(app->acquire())));
  app->end();
  EXPECT_TRUE(fails_with(app->acquire(), EPIPE));
  settle();
  EXPECT_TRUE(pipeline.ended());
  EXPECT_EQ(display.shown.size(), 1U);
}

TEST_F(AppSourceTest, OffersWhatItMakesAndSaysSoWhereNothingFits) {
  EXPECT_TRUE(fails_with(AppSource::create({}), EINVAL));
  EXPECT_TRUE(fails_with(AppSource::create({small_config()}, {.filling = 0}), EINVAL));
  const auto refused = app->offers({.size = Size{1, 1}});
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().message().find("64x48"), std::string::npos) << refused.error().message();
  EXPECT_EQ(must(app->offers({})).size(), 1U);
}

}  // namespace
