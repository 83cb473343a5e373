// The pipeline in another library's loop: one descriptor to wait for, and dispatch().
#include "allocator_checks.hpp"
#include "pipeline_support.hpp"

#include "epoll_set.hpp"
#include "sys/sys.hpp"

#include <dmaflow/pipeline.hpp>

#include <thread>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

class PipelineDispatch : public PipelineFixture {
 protected:
  void TearDown() override {
    PipelineFixture::TearDown();
    if (fd >= 0) {
      EXPECT_FALSE(is_readable()) << "a stopped pipeline wants nothing";
    }
  }
  void start(BranchOptions options = {}) {
    must(pipeline.connect(camera, display, "branch", std::move(options)));
    fd = must(pipeline.poll_fd());
    EXPECT_FALSE(is_readable());
    PipelineFixture::start();
  }
  [[nodiscard]] bool is_readable(Deadline deadline = Deadline::immediate()) const {
    return sys::wait(fd, POLLIN, deadline) > 0;
  }
  /// Runs as another library's loop does; returns the number of iterations.
  int settle() {
    int turns = 0;
    while (is_readable() && turns < 100) {
      must(pipeline.dispatch(), "dispatch");
      ++turns;
    }
    return turns;
  }

  int fd = -1;
};

TEST_F(PipelineDispatch, ItsDescriptorIsReadableWhileThereIsSomethingToDo) {
  start();
  EXPECT_LT(settle(), 3);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(camera.expose());
    EXPECT_TRUE(is_readable());
    EXPECT_LT(settle(), 4);
    EXPECT_EQ(stream().captured, static_cast<std::uint64_t>(i + 1));
  }
  EXPECT_EQ(display.shown.size(), 5U);
  must(pipeline.dispatch());
  EXPECT_EQ(stream().captured, 5U) << "a call without need does nothing";
}

TEST_F(PipelineDispatch, IsTheSameDescriptorAfterTheStartAndAfterAStop) {
  start();
  EXPECT_EQ(must(pipeline.poll_fd()), fd);
  must(pipeline.stop(Deadline::after(milliseconds(100))));
  EXPECT_TRUE(fails_with(pipeline.dispatch(), EINVAL));
  EXPECT_EQ(must(pipeline.poll_fd()), fd);
  must(pipeline.start());
  settle();
  ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(stream().captured, 1U);
}

TEST_F(PipelineDispatch, MayBeAskedForWhileItRuns) {
  must(pipeline.connect(camera, display));
  pipeline.offer(heap);
  must(pipeline.start());
  EXPECT_TRUE(fails_with(pipeline.dispatch(), EINVAL));
  ASSERT_TRUE(camera.expose());
  fd = must(pipeline.poll_fd());
  settle();
  EXPECT_EQ(stream().captured, 1U);
}

TEST_F(PipelineDispatch, AFrameCostsOneCallOfItsOwn) {
  start();
  settle();
  for (int i = 0; i < 4; ++i) {  // so that one-time allocations and registrations are done
    ASSERT_TRUE(camera.expose());
    settle();
  }
  ASSERT_TRUE(camera.expose());
  const CountCalls count;
  must(pipeline.dispatch());
  EXPECT_EQ(stream().captured, 5U);
  EXPECT_EQ(count.calls(), 1U) << "epoll_wait";
}

TEST_F(PipelineDispatch, AFrameFromAnotherThreadWakesIt) {
  start();
  settle();
  ASSERT_TRUE(camera.expose());
  settle();
  ASSERT_TRUE(camera.expose());
  settle();  // the first frame is off the screen and returned
  const auto queued = camera.queued.size();
  std::thread other([&] { static_cast<void>(display.stop()); });  // releases the frame that it shows
  other.join();
  EXPECT_TRUE(is_readable(Deadline::after(milliseconds(1000))));
  settle();
  EXPECT_EQ(camera.queued.size(), queued + 1);
}

TEST_F(PipelineDispatch, ADevicesTimeWakesIt) {
  start();
  settle();
  display.wake_at = Deadline::after(milliseconds(30));
  must(pipeline.dispatch());
  EXPECT_FALSE(is_readable());
  EXPECT_EQ(display.woken, 0);
  ASSERT_TRUE(is_readable(Deadline::after(std::chrono::seconds(20))));
  settle();
  EXPECT_EQ(display.woken, 1);
  EXPECT_FALSE(is_readable()) << "its time was moved to never";
}

TEST_F(PipelineDispatch, WithoutRoomTheSourceIsLeftAloneUntilThereIs) {
  start({.policy = Policy::wait_when_full, .max_queued = 1});
  display.always_busy = true;
  for (int i = 0; i < 4 && camera.expose(); ++i) settle();
  EXPECT_LT(settle(), 100) << "it spins";
  const auto captured = stream().captured;
  display.flip();
  settle();
  EXPECT_GT(stream().captured + display.shown.size(), captured);
}

TEST_F(PipelineDispatch, EndsWithItsSource) {
  start({.policy = Policy::wait_when_full});
  settle();
  ASSERT_TRUE(camera.expose());
  camera.end();
  settle();
  EXPECT_TRUE(pipeline.ended());
  EXPECT_EQ(display.shown.size(), 1U);
}

TEST_F(PipelineDispatch, ASourceThatChangesIsNegotiatedAnewAndHeardAfterwards) {
  start();
  settle();
  camera.changed = true;
  ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(stream().renegotiations, 1U);
  ASSERT_TRUE(camera.expose());
  EXPECT_TRUE(is_readable());
  const auto before = stream().captured;
  settle();
  EXPECT_EQ(stream().captured, before + 1);
}

// --- detail::EpollSet

Fd event(bool is_set) {
  Fd made = Fd::adopt(::eventfd(is_set ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK));
  EXPECT_TRUE(made);
  return made;
}

bool is_readable(int fd) { return sys::wait(fd, POLLIN, Deadline::immediate()) > 0; }

constexpr auto never = detail::EpollSet::Time::max();

TEST(EpollSetTest, ReportsWhatPollWould) {
  auto set = must(detail::EpollSet::create());
  const Fd one = event(true);
  const Fd other = event(false);
  must(set.set(std::array{detail::EpollSet::Wanted{one.get(), POLLIN}, detail::EpollSet::Wanted{other.get(), POLLIN},
                          detail::EpollSet::Wanted{other.get(), POLLOUT}},
               never, false));
  EXPECT_TRUE(is_readable(set.fd()));
  std::array polls{pollfd{.fd = one.get(), .events = POLLIN, .revents = 0},
                   pollfd{.fd = other.get(), .events = POLLIN, .revents = 0},
                   pollfd{.fd = other.get(), .events = POLLOUT, .revents = 0}};
  must(set.look(polls));
  EXPECT_EQ(polls[0].revents, POLLIN);
  EXPECT_EQ(polls[1].revents, 0);
  EXPECT_EQ(polls[2].revents, POLLOUT);
}

TEST(EpollSetTest, ASetThatStaysTheSameCostsNoCall) {
  auto set = must(detail::EpollSet::create());
  const Fd one = event(false);
  const std::array wanted{detail::EpollSet::Wanted{one.get(), POLLIN}};
  const auto at = Deadline::after(std::chrono::hours(1)).time();
  must(set.set(wanted, at, false));
  const CountCalls count;
  must(set.set(wanted, at, false));
  EXPECT_EQ(count.calls(), 0U);
}

TEST(EpollSetTest, AFenceWhoseNumberIsUsedAgainIsAnotherOne) {
  auto set = must(detail::EpollSet::create());
  Fd first = event(false);
  const int number = first.get();
  const std::array wanted{detail::EpollSet::Wanted{number, POLLIN, true}};
  must(set.set(wanted, never, false));
  must(set.look({}));
  first = Fd();
  const Fd second = event(true);
  ASSERT_EQ(second.get(), number);
  must(set.set(wanted, never, false));
  EXPECT_TRUE(is_readable(set.fd()));
}

TEST(EpollSetTest, WhatWasClosedElsewhereAndLivesOnIsForgotten) {
  auto set = must(detail::EpollSet::create());
  Fd one = event(true);
  const Fd lives_on = Fd::adopt(::dup(one.get()));
  must(set.set(std::array{detail::EpollSet::Wanted{one.get(), POLLIN}}, never, false));
  one = Fd();
  EXPECT_TRUE(is_readable(set.fd()));
  set.distrust();
  must(set.set({}, never, false));
  EXPECT_FALSE(is_readable(set.fd()));
}

TEST(EpollSetTest, ADescriptorThatCannotBeWaitedForIsNamedAndTheOthersWork) {
  auto set = must(detail::EpollSet::create());
  const Fd file = memfd(16);
  const Fd one = event(true);
  EXPECT_TRUE(fails_with(
      set.set(std::array{detail::EpollSet::Wanted{file.get(), POLLIN}, detail::EpollSet::Wanted{one.get(), POLLIN}},
              never, false),
      EPERM));
  EXPECT_TRUE(is_readable(set.fd()));
}

TEST(EpollSetTest, EveryFailingCallLeavesNothingBehind) {
  const auto everything = []() -> Result<void> {
    auto set = detail::EpollSet::create();
    if (!set) return std::unexpected(set.error());
    const Fd one = event(true);
    if (auto done = set->set(std::array{detail::EpollSet::Wanted{one.get(), POLLIN, true}},
                             Deadline::after(milliseconds(1)).time(), false);
        !done)
      return done;
    if (auto done = set->look({}); !done) return done;
    set->distrust();
    return set->set({}, never, true);
  };
  std::size_t total = 0;
  {
    const CountCalls count;
    must(everything());
    total = count.calls();
  }
  for (std::size_t n = 1; n <= total; ++n) {
    const LeakCheck leaks;
    const FailNth fail(n, EIO);
    const auto result = everything();
    EXPECT_TRUE(result || !result.error().operation().empty());
    ASSERT_TRUE(fail.fired()) << "call " << n << " of " << total;
  }
}

}  // namespace
