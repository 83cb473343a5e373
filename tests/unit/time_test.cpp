// Time: frames with a target time, clocks, and data of the program that travels with a frame.
#include "pipeline_support.hpp"

#include <dmaflow/clock.hpp>
#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include <poll.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

nanoseconds now() { return Deadline::Clock::now().time_since_epoch(); }

// --- Policy::on_time

class OnTime : public PipelineFixture {
 protected:
  void start(std::uint32_t queued = 4) {
    BranchOptions options{.policy = Policy::on_time, .max_queued = queued};
    options.on_presented = [this](const Presentation& one) { seen.push_back(one); };
    must(pipeline.connect(camera, display, "screen", std::move(options)));
    camera.on_expose = [this](FrameInfo& info) { info.target = target; };
    PipelineFixture::start();
  }
  void expose_for(nanoseconds when) {
    target = when;
    ASSERT_TRUE(camera.expose());
  }
  void run_for(milliseconds time) {
    for (const auto end = Deadline::after(time); end.remaining() > nanoseconds(0);) must(pipeline.step(end));
  }

  nanoseconds target{0};
  std::vector<Presentation> seen;
};

TEST_F(OnTime, AFrameIsShownWhenItsTimeHasComeLessWhatTheDisplayNeedsAndNeverBefore) {
  display.lead = milliseconds(5);
  start();
  const auto begin = now();
  for (int i = 1; i <= 4; ++i) expose_for(begin + milliseconds(20) * i);
  for (int turn = 0; seen.size() < 4 && turn < 1000; ++turn) must(pipeline.step(Deadline::after(milliseconds(100))));
  ASSERT_EQ(seen.size() + branch().dropped.late, 4U);  // on a busy machine some may be late
  for (const Presentation& one : seen) {
    EXPECT_GE(one.presented, one.target - milliseconds(5));
    EXPECT_EQ(one.target, begin + milliseconds(20) * static_cast<int>(one.sequence + 1));
  }
}

TEST_F(OnTime, WhileAFrameWaitsForItsTimeTheLoopSleeps) {
  start();
  expose_for(now() + milliseconds(50));
  const CountCalls calls;
  run_for(milliseconds(80));
  EXPECT_EQ(display.shown.size(), 1U);
  EXPECT_LE(calls.calls(), 12U) << "the frame came, its time came, the end";
}

TEST_F(OnTime, OfSeveralWhoseTimeHasComeTheNewestIsShown) {
  start();
  for (int i = 0; i < 4; ++i) expose_for(now() - milliseconds(10));
  display.busy = true;
  settle();  // one is staged, because the display takes it at once
  display.flip();
  settle();
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{0, 3}));
  EXPECT_EQ(branch().dropped.late, 2U);
}

TEST_F(OnTime, OneWithoutATimeIsShownAtOnce) {
  start();
  expose_for(nanoseconds(0));
  settle();
  EXPECT_EQ(display.shown.size(), 1U);
}

TEST_F(OnTime, AtTheLimitTheSourceIsLeftAloneAndNothingIsLost) {
  start(2);
  const auto later = now() + milliseconds(60);
  for (int i = 0; i < 4; ++i) expose_for(later + milliseconds(20) * i);
  settle();
  EXPECT_EQ(stream().captured, 2U);
  camera.end();
  for (int turn = 0; !pipeline.ended() && turn < 1000; ++turn) must(pipeline.step(Deadline::after(milliseconds(100))));
  EXPECT_EQ(stream().captured, 4U);
  EXPECT_EQ(branch().delivered + branch().dropped.late, 4U);
}

TEST_F(OnTime, TheProgramsOwnLoopIsWokenWhenTheTimeHasCome) {
  const int fd = must(pipeline.poll_fd());
  start();
  expose_for(now() + milliseconds(30));
  const auto end = Deadline::after(std::chrono::seconds(5));
  while (display.shown.empty() && end.remaining() > nanoseconds(0)) {
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&one, 1, 1000) == 1) must(pipeline.dispatch());
  }
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_GE(seen[0].presented, seen[0].target);
}

// --- Clocks

TEST(Clock, AMomentIsTheSameOnEveryClockThatCanBeRead) {
  const auto here = now();
  for (const Clock clock : {Clock::monotonic, Clock::boottime, Clock::realtime, Clock::tai}) {
    const auto there = must(convert_time(here, Clock::monotonic, clock));
    EXPECT_LE(there, must(time_on(clock))) << "it has passed there as well";
    const auto back = must(convert_time(there, clock, Clock::monotonic));
    EXPECT_LT(std::max(back - here, here - back), milliseconds(50));
  }
  EXPECT_EQ(must(convert_time(here, Clock::monotonic, Clock::monotonic)), here);
}

TEST(Clock, RealTimeIsTheOneOfTheSystem) {
  const auto wall = must(convert_time(now(), Clock::monotonic, Clock::realtime));
  const auto system = std::chrono::system_clock::now().time_since_epoch();
  EXPECT_LT(system - wall, std::chrono::seconds(5));
  EXPECT_GE(system - wall, -std::chrono::seconds(1));
}

TEST(Clock, OneThatCannotBeReadIsOneClearError) {
  EXPECT_TRUE(fails_with(time_on(Clock::device), EINVAL));
  EXPECT_TRUE(fails_with(convert_time(nanoseconds(1), Clock::unknown, Clock::monotonic), EINVAL));
  EXPECT_TRUE(fails_with(convert_time(nanoseconds(1), Clock::monotonic, Clock::device), EINVAL));
}

// --- Data of the program that travels with a frame

struct Detection {
  float x = 0;
  float y = 0;
  int label = 0;
  friend bool operator==(const Detection&, const Detection&) = default;
};

TEST(UserData, IsWhatWasSetAndOnlyAsItsType) {
  UserData data;
  EXPECT_FALSE(data.get<int>());
  data.set(Detection{.x = 0.5F, .y = 0.25F, .label = 7});
  EXPECT_EQ(data.get<Detection>(), (Detection{.x = 0.5F, .y = 0.25F, .label = 7}));
  EXPECT_FALSE(data.get<int>());
  int there = 3;
  data.set(&there);
  EXPECT_EQ(data.get<int*>(), &there);
  EXPECT_FALSE(data.get<Detection>());
  data.clear();
  EXPECT_FALSE(data.get<int*>());
}

class FrameData : public PipelineFixture {
 protected:
  CopyStage copy;
};

TEST_F(FrameData, TravelsThroughAStageThatMakesAnotherImage) {
  struct Reader : FakeSink {
    Result<Frame> accept(Frame frame) override {
      got = frame.info();
      return FakeSink::accept(std::move(frame));
    }
    FrameInfo got;
  } reader;
  camera.on_expose = [](FrameInfo& info) {
    info.user.set(42);
    info.pts = milliseconds(40);
    info.duration = milliseconds(20);
    info.field = Field::top_first;
  };
  must(pipeline.connect(camera, reader, "reader", {.stages = {&copy}}));
  start();
  camera.expose();
  settle();
  EXPECT_EQ(reader.got.user.get<int>(), 42);
  EXPECT_EQ(reader.got.pts, milliseconds(40));
  EXPECT_EQ(reader.got.duration, milliseconds(20));
  EXPECT_EQ(reader.got.field, Field::top_first);
  must(pipeline.stop(Deadline::immediate()));
}

}  // namespace
