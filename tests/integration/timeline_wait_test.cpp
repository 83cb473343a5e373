// Waits for timelines' points: what starts, ends, interrupts and cancels them, and what they cost.
#include "count_new.hpp"
#include "timeline_support.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/timeline.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace dmaflow::test {
namespace {

using Clock = std::chrono::steady_clock;

// --- Waits ---

TEST_F(Timelines, AWaitMayBeginBeforeTheSubmission) {
  const Timeline timeline = this->timeline();
  Waiter waiter([&] { return timeline.wait(5, soon()); });
  waiter.asleep();
  must(timeline.signal(4));
  EXPECT_FALSE(waiter.is_over());
  must(timeline.signal(5));
  EXPECT_EQ(waiter.code(), 0);
}

TEST_F(Timelines, WithoutForSubmitItIsAnErrorAtOnceThatSaysWhatHelps) {
  const Timeline timeline = this->timeline();
  const auto waited = timeline.wait(5, soon(), {.for_submit = false});
  ASSERT_TRUE(fails_with(waited, EINVAL));
  EXPECT_TRUE(mentions(waited.error(), "for_submit"));
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  EXPECT_TRUE(fails_with(timeline.wait(5, shortly(), {.for_submit = false}), ETIMEDOUT)) << "submitted, not signalled";
}

TEST_F(Timelines, AvailableWaitsForTheSubmissionOnly) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  EXPECT_TRUE(fails_with(timeline.wait(5, shortly(), {.available = true}), ETIMEDOUT));
  Waiter waiter([&] { return timeline.wait(5, soon(), {.for_submit = false, .available = true}); });
  waiter.asleep();
  must(timeline.import_fence(5, fences.fence(1)));
  EXPECT_EQ(waiter.code(), 0);
  EXPECT_EQ(must(timeline.query()), 0U) << "pending";
  EXPECT_EQ(must(timeline.query_submitted()), 5U);
}

TEST_F(Timelines, AResetDoesNotDisturbAWaitThatHasItsFence) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  Waiter has_fence([&] { return timeline.wait(5, soon()); });
  Waiter has_none([&] { return timeline.wait(6, soon()); });
  has_fence.asleep();
  has_none.asleep();
  must(timeline.reset());
  EXPECT_EQ(must(timeline.query_submitted()), 0U);
  fences.advance();
  EXPECT_EQ(has_fence.code(), 0);
  EXPECT_FALSE(has_none.is_over());
  must(timeline.signal(6));
  EXPECT_EQ(has_none.code(), 0) << "it waited on for the next fence";
}

TEST_F(Timelines, AllAndAnyOfSeveral) {
  const Timeline one = timeline();
  const Timeline two = timeline();
  const std::array points{one.at(1), two.at(1), two.at(2)};
  EXPECT_TRUE(fails_with(wait_any(points, shortly()), ETIMEDOUT));
  must(two.signal(1));
  EXPECT_EQ(must(wait_any(points, soon())), 1U);
  EXPECT_TRUE(fails_with(wait_all(points, shortly()), ETIMEDOUT));
  EXPECT_TRUE(fails_with(wait_all(points, soon(), {.for_submit = false}), EINVAL));
  must(two.signal(2));
  Waiter waiter([&] { return wait_all(points, soon()); });
  waiter.asleep();
  must(one.signal(1));
  EXPECT_EQ(waiter.code(), 0);
  const std::vector<TimelinePoint> many(300, two.at(2));
  EXPECT_TRUE(wait_all(many, soon())) << "any number";
}

/// The deadline hint of the last wait that had one.
class HintWatch : public sys::Hook {
 public:
  HintWatch() { sys::set_hook(this); }
  ~HintWatch() override { sys::set_hook(nullptr); }
  int before(const sys::Call& call) noexcept override {
    if (call.request != uapi::ioctl_syncobj_timeline_wait) return proceed;
    const auto& wait = *static_cast<const uapi::SyncobjTimelineWait*>(call.argument);
    if ((wait.flags & uapi::syncobj_wait_deadline) != 0) hint = wait.deadline_nsec;
    return proceed;
  }
  std::uint64_t hint = 0;
};

TEST_F(Timelines, TheHintReachesTheKernel) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  const Fence fence = fences.fence(1);
  must(timeline.import_fence(5, fence));
  const auto wanted = Deadline::after(1s);
  HintWatch watch;
  EXPECT_TRUE(fails_with(timeline.wait(5, shortly(), {.hint = wanted}), ETIMEDOUT));
  const auto point = std::chrono::nanoseconds(wanted.time().time_since_epoch()).count();
  EXPECT_EQ(watch.hint, static_cast<std::uint64_t>(point));
  test::observe("the deadline hint of a wait for a point reaches the driver of its fence",
                fences.deadline_of(fence) == point);
}

TEST_F(Timelines, SystemCallsAreCounted) {
  const Timeline timeline = this->timeline();
  const Cancel cancel = must(Cancel::create());
  const auto cost = [](const std::function<void()>& body) {
    const test::CountCalls count;
    body();
    return count.calls();
  };
  EXPECT_EQ(cost([&] { must(timeline.signal(5)); }), 1U);
  EXPECT_EQ(cost([&] { must(timeline.wait(5, soon())); }), 1U);
  EXPECT_EQ(cost([&] { must(timeline.wait(5, soon(), {.cancel = &cancel})); }), 1U);
  EXPECT_LE(cost([&] { EXPECT_FALSE(timeline.wait(6, shortly())); }), 3U) << "the kernel gives up a tick too early";
  if (timeline.at(5).event()) {  // the kernel has DRM_IOCTL_SYNCOBJ_EVENTFD
    EXPECT_EQ(cost([&] { EXPECT_FALSE(timeline.wait(6, shortly(), {.cancel = &cancel})); }), 5U)
        << "a look, an eventfd made, hung on the point and closed, and a poll";
  }
  EXPECT_EQ(cost([&] { must(timeline.query()); }), 1U);
  EXPECT_EQ(cost([&] { must(timeline.reset()); }), 1U);
  SwSync fences;
  Fence fence = fences.fence(1);
  fences.advance();
  must(timeline.import_fence(7, fence));  // detects what this kernel supports
  const bool direct = cost([&] { must(timeline.import_fence(8, fence)); }) == 1U;
  EXPECT_EQ(cost([&] { must(timeline.import_fence(9, fence)); }), direct ? 1U : 3U);
  EXPECT_EQ(cost([&] { fence = must(timeline.at(9).fence()); }), (direct ? 1U : 2U) + 1U) << "the last closes the old";
  EXPECT_EQ(cost([&] { must(timeline.wait(9, soon())); }), direct ? 4U : 5U) << "looks for failures";
  EXPECT_EQ(cost([&] { must(timeline.wait(9, soon(), {.report_failure = false})); }), 1U);
  test::observe("drm_syncobj takes a sync_file at a timeline point in one call", direct, page);
}

TEST_F(Timelines, NothingIsAllocatedForUpToSixteenPoints) {
  const Timeline timeline = this->timeline();
  const Cancel cancel = must(Cancel::create());
  SwSync fences;
  const Fence fence = fences.fence(1);
  const std::vector<TimelinePoint> points(18, timeline.at(5));
  const auto sixteen = std::span(points).first(16);
  must(timeline.import_fence(4, fence));  // one-time allocations are made now
  allocations = 0;
  must(timeline.import_fence(5, fence));
  EXPECT_TRUE(timeline.at(5).fence());
  for (const WaitOptions& options : {WaitOptions{}, WaitOptions{.cancel = &cancel}}) {
    EXPECT_FALSE(timeline.wait(5, shortly(), options));
    EXPECT_FALSE(wait_all(sixteen, shortly(), options));
    EXPECT_FALSE(wait_any(sixteen, shortly(), options));
  }
  EXPECT_TRUE(timeline.query());
  {
    ReleasePoint promise(timeline.at(6));
    must(promise.signal());
    const ReleasePoint forgotten(timeline.at(7));
  }
  must(timeline.reset());
  EXPECT_EQ(allocations, 0U);
  EXPECT_FALSE(wait_all(points, shortly()));
  EXPECT_GT(allocations, 0U) << "they are counted";
}

// --- Interrupted and cancelled ---

/// Sends a thread a signal every millisecond while it lives.
class Interruptions {
 public:
  explicit Interruptions(pthread_t thread) {
    struct sigaction action{};
    action.sa_handler = [](int) { ++seen; };
    ::sigaction(SIGUSR1, &action, &before_);  // no SA_RESTART
    seen = 0;
    sender_ = std::thread([this, thread] {
      while (!stop_) {
        ::pthread_kill(thread, SIGUSR1);
        std::this_thread::sleep_for(1ms);
      }
    });
  }
  ~Interruptions() {
    stop_ = true;
    sender_.join();
    ::sigaction(SIGUSR1, &before_, nullptr);
  }
  Interruptions(const Interruptions&) = delete;
  Interruptions& operator=(const Interruptions&) = delete;
  static inline std::atomic<int> seen = 0;

 private:
  struct sigaction before_{};
  std::atomic<bool> stop_ = false;
  std::thread sender_;
};

/// Every way to wait, for one point that is submitted and one that is not.
std::vector<std::function<Result<void>(Deadline)>> every_wait(const Timeline& timeline, const Cancel& cancel) {
  std::vector<std::function<Result<void>(Deadline)>> ways;
  for (const std::uint64_t point : {5U, 6U}) {
    const auto add = [&](WaitOptions options) {
      ways.emplace_back([=, &timeline](Deadline deadline) { return timeline.wait(point, deadline, options); });
      ways.emplace_back([=, &timeline](Deadline deadline) -> Result<void> {
        auto result = wait_any(std::array{timeline.at(point), timeline.at(point + 2)}, deadline, options);
        if (!result) return std::unexpected(result.error());
        return {};
      });
      ways.emplace_back([=, &timeline](Deadline deadline) {
        return wait_all(std::array{timeline.at(point), timeline.at(point)}, deadline, options);
      });
    };
    add({});
    add({.report_failure = false});
    add({.cancel = &cancel});
  }
  return ways;
}

TEST_F(Timelines, SignalsEveryMillisecondChangeNoDeadline) {
  const Timeline timeline = this->timeline();
  const Cancel cancel = must(Cancel::create());
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  for (const auto& wait : every_wait(timeline, cancel)) {
    // Repeated with a longer wait if the machine was too busy to send enough signals.
    for (std::chrono::milliseconds length = 100ms;; length *= 2) {
      const Interruptions interruptions(::pthread_self());
      const auto begin = Clock::now();
      EXPECT_TRUE(fails_with(wait(Deadline::at(begin + length)), ETIMEDOUT));
      EXPECT_GE(Clock::now() - begin, length) << "not earlier";
      if (Interruptions::seen > 3) break;
      ASSERT_LT(length, 10s) << "it was not interrupted";
    }
  }
}

TEST_F(Timelines, SignalsEveryMillisecondHideNoSignalledPoint) {
  for (std::size_t way = 0;; ++way) {
    const Timeline timeline = this->timeline();
    const Cancel cancel = must(Cancel::create());
    SwSync fences;
    must(timeline.import_fence(5, fences.fence(1)));
    const auto ways = every_wait(timeline, cancel);
    if (way == ways.size()) break;
    Waiter waiter([&] { return ways[way](soon()); });
    waiter.asleep();
    const Interruptions interruptions(waiter.handle());
    while (Interruptions::seen < 20) std::this_thread::sleep_for(1ms);
    EXPECT_FALSE(waiter.is_over());
    fences.advance();
    must(timeline.signal(6));
    while (!waiter.is_over()) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(waiter.code(), 0) << way;
  }
}

TEST_F(Timelines, AnotherThreadCancelsAWait) {
  const test::LeakCheck leaks;
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  for (const std::uint64_t point : {5U, 6U}) {
    const Cancel cancel = must(Cancel::create());
    Waiter one([&] { return timeline.wait(point, soon(), {.cancel = &cancel}); });
    Waiter all([&] { return wait_all(std::array{timeline.at(1), timeline.at(point)}, soon(), {.cancel = &cancel}); });
    Waiter any([&]() -> Result<void> {
      auto result = wait_any(std::array{timeline.at(6), timeline.at(point)}, soon(), {.cancel = &cancel});
      if (!result) return std::unexpected(result.error());
      return {};
    });
    for (Waiter* waiter : {&one, &all, &any}) waiter->asleep();
    cancel.cancel();
    for (Waiter* waiter : {&one, &all, &any}) EXPECT_EQ(waiter->code(), ECANCELED) << point;
    EXPECT_TRUE(fails_with(timeline.wait(point, soon(), {.cancel = &cancel}), ECANCELED)) << "it stays set";
  }
}

/// A kernel before 6.6, which does not know syncobj eventfds.
class OldKernel : public sys::Hook {
 public:
  OldKernel() { sys::set_hook(this); }
  ~OldKernel() override { sys::set_hook(nullptr); }
  int before(const sys::Call& call) noexcept override {
    return call.request == uapi::ioctl_syncobj_eventfd ? EINVAL : proceed;
  }
};

TEST_F(Timelines, ACancellableWaitEndsLikeAnother) {
  const Timeline timeline = this->timeline();
  const Cancel cancel = must(Cancel::create());
  for (const bool eventfds : {true, false}) {
    const std::uint64_t base = eventfds ? 10 : 20;
    std::optional<OldKernel> old_kernel;
    if (!eventfds) old_kernel.emplace();
    EXPECT_TRUE(fails_with(timeline.wait(base, shortly(), {.cancel = &cancel}), ETIMEDOUT));
    Waiter one([&] { return timeline.wait(base, soon(), {.cancel = &cancel}); });
    Waiter all(
        [&] { return wait_all(std::array{timeline.at(base), timeline.at(base + 1)}, soon(), {.cancel = &cancel}); });
    std::atomic<std::size_t> which = 99;
    Waiter any([&]() -> Result<void> {
      which = must(wait_any(std::array{timeline.at(base + 1), timeline.at(base)}, soon(), {.cancel = &cancel}));
      return {};
    });
    for (Waiter* waiter : {&one, &all, &any}) waiter->asleep();
    must(timeline.signal(base));
    EXPECT_EQ(one.code(), 0);
    EXPECT_EQ(any.code(), 0);
    EXPECT_EQ(which, 1U);
    EXPECT_FALSE(all.is_over());
    must(timeline.signal(base + 1));
    EXPECT_EQ(all.code(), 0);
  }
}

// --- Eventfds ---

TEST_F(Timelines, AnEventComesWithThePointOrAtOnce) {
  const Timeline timeline = this->timeline();
  const Fd before = must(timeline.at(5).event());
  must(timeline.signal(4));
  EXPECT_FALSE(readable(before));
  must(timeline.signal(5));
  EXPECT_TRUE(readable_soon(before));
  EXPECT_TRUE(readable_soon(must(timeline.at(5).event()))) << "signalled already";
  EXPECT_TRUE(readable_soon(must(timeline.at(2).event()))) << "and what is below";

  SwSync fences;
  const Fd submitted = must(timeline.at(6).event(true));
  const Fd signalled = must(timeline.at(6).event());
  EXPECT_FALSE(readable(submitted));
  must(timeline.import_fence(6, fences.fence(1)));
  EXPECT_TRUE(readable_soon(submitted));
  EXPECT_FALSE(readable(signalled));
  fences.advance();
  EXPECT_TRUE(readable_soon(signalled));
}

TEST_F(Timelines, AnEventfdOfTheUsersIsAddedTo) {
  const Timeline timeline = this->timeline();
  const Fd event = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  must(timeline.at(1).notify(event.get()));
  must(timeline.at(2).notify(event.get()));
  must(timeline.signal(2));
  std::uint64_t sum = 0;
  while (sum < 2 && readable_soon(event)) {
    std::uint64_t count = 0;
    ASSERT_EQ(::read(event.get(), &count, sizeof count), 8);
    sum += count;
  }
  EXPECT_EQ(sum, 2U);
}

TEST_F(Timelines, AnEventAlsoComesWhenTheFenceFails) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  const Fd event = must(timeline.at(5).event());
  fences.fail();
  EXPECT_TRUE(readable_soon(event));
  EXPECT_TRUE(fails_with(must(timeline.at(5).fence()).wait(soon()), error_of_sw_sync())) << "the fence tells";
}

TEST_F(Timelines, WhatIsNoEventfdIsRefused) {
  const test::LeakCheck leaks;
  const Timeline timeline = this->timeline();
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd read_end = Fd::adopt(ends[0]);
  const Fd write_end = Fd::adopt(ends[1]);
  const auto refused = timeline.at(1).notify(read_end.get());
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_TRUE(mentions(refused.error(), "not an eventfd"));
  EXPECT_TRUE(fails_with(timeline.at(1).notify(987), EBADF));
}

}  // namespace
}  // namespace dmaflow::test
