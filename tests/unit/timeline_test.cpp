// Timelines: what they promise on any machine. The DRM file here is a stand-in that answers each ioctl as the test
// wants; tests/integration/timeline_test.cpp uses the kernel's own.
#include "support.hpp"

#include "uapi/drm_syncobj.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/timeline.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/sync_file.h>
#include <sys/eventfd.h>

using namespace dmaflow;
using namespace dmaflow::test;
using namespace std::chrono_literals;

namespace {

/// A stand-in for a DRM driver with syncobjs: only its answers.
class PretendDrm : public sys::Hook {
 public:
  PretendDrm() { sys::set_hook(this); }
  ~PretendDrm() override { sys::set_hook(nullptr); }

  int before(const sys::Call& call) noexcept override {
    if (std::strcmp(call.name, "ioctl") != 0) {
      if (std::strcmp(call.name, "close") != 0) ++others;
      return proceed;
    }
    const unsigned number = _IOC_NR(call.request);
    if (call.request == SYNC_IOC_FILE_INFO) return sync_file(call);
    calls.push_back(number);
    if (const auto queued = answers.find(number); queued != answers.end() && !queued->second.empty()) {
      const int answer = queued->second.front();
      if (queued->second.size() > 1 || !sticky) queued->second.pop_front();
      if (answer != 0) return answer;
    }
    return fill(number, const_cast<void*>(call.argument));
  }

  std::size_t count(unsigned long request) const {
    return static_cast<std::size_t>(std::ranges::count(calls, _IOC_NR(request)));
  }
  /// The results of the next calls of this ioctl; with `sticky` the last one is used again and again.
  void answer(unsigned long request, std::deque<int> errors) { answers[_IOC_NR(request)] = std::move(errors); }

  const char* driver = "pretend";
  bool syncobjs = true;
  bool timelines = true;
  bool sticky = false;
  int part = 1;  ///< the state of every sync_file
  std::uint32_t first_signaled = 0;
  std::vector<unsigned> calls;          ///< ioctl numbers, in order
  std::atomic<std::size_t> others = 0;  ///< calls that are neither ioctl nor close
  std::multiset<std::uint32_t> alive;
  uapi::SyncobjTimelineWait last_wait{};

 private:
  int sync_file(const sys::Call& call) noexcept {
    calls.push_back(_IOC_NR(SYNC_IOC_FILE_INFO));
    auto* info = static_cast<sync_file_info*>(const_cast<void*>(call.argument));
    if (info->num_fences != 0) reinterpret_cast<sync_fence_info*>(info->sync_fence_info)->status = part;
    info->num_fences = 1;
    info->status = part == 0 ? 0 : 1;
    return pretend;
  }
  int fill(unsigned number, void* argument) noexcept {
    if (number == _IOC_NR(DRM_IOCTL_VERSION)) {
      std::strcpy(static_cast<drm_version*>(argument)->name, driver);
    } else if (number == _IOC_NR(DRM_IOCTL_GET_CAP)) {
      auto* cap = static_cast<drm_get_cap*>(argument);
      cap->value = cap->capability == DRM_CAP_SYNCOBJ ? syncobjs : timelines;
    } else if (number == _IOC_NR(DRM_IOCTL_SYNCOBJ_CREATE)) {
      alive.insert(static_cast<drm_syncobj_create*>(argument)->handle = ++made_);
    } else if (number == _IOC_NR(DRM_IOCTL_SYNCOBJ_DESTROY)) {
      const auto found = alive.find(static_cast<drm_syncobj_destroy*>(argument)->handle);
      EXPECT_NE(found, alive.end()) << "destroyed twice";
      if (found != alive.end()) alive.erase(found);
    } else if (number == _IOC_NR(DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD)) {
      static_cast<drm_syncobj_handle*>(argument)->fd = ::eventfd(0, EFD_CLOEXEC);
    } else if (number == _IOC_NR(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE)) {
      auto* request = static_cast<drm_syncobj_handle*>(argument);
      if (request->flags == 0) alive.insert(request->handle = ++made_);
    } else if (number == _IOC_NR(DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT)) {
      auto* wait = static_cast<uapi::SyncobjTimelineWait*>(argument);
      wait->first_signaled = first_signaled;
      last_wait = *wait;
    }
    return pretend;
  }

  std::map<unsigned, std::deque<int>> answers;
  std::uint32_t made_ = 0;
};

Fd some_file() { return Fd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

class TimelineUnit : public testing::Test {
 protected:
  SyncobjDevice device() {
    Fd fd = some_file();
    return must(SyncobjDevice::adopt(fd), "adopt");
  }
  Timeline timeline() { return must(Timeline::create(device()), "create"); }
  Fence some_fence() { return Fence::adopt_unchecked(Fd::adopt(::eventfd(0, EFD_CLOEXEC))); }
  /// The number of ioctls since the last call.
  std::size_t calls_since() {
    const std::size_t now = drm_.calls.size();
    return now - std::exchange(seen_, now);
  }

  PretendDrm drm_;
  std::size_t seen_ = 0;
};

Deadline soon() { return Deadline::after(10s); }
bool says(const Error& error, std::string_view words) { return error.message().find(words) != std::string::npos; }

constexpr unsigned long timeline_wait = DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT;
constexpr unsigned long timeline_signal = DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL;

TEST(SyncobjDeviceUnit, AMissingNodeIsNamed) {
  const auto device = SyncobjDevice::open("/dev/dri/no-such-node");
  ASSERT_TRUE(fails_with(device, ENOENT));
  EXPECT_TRUE(says(device.error(), "/dev/dri/no-such-node"));
}

TEST(SyncobjDeviceUnit, WhatIsNoDrmDeviceStaysTheCallers) {
  Fd fd = some_file();
  const auto device = SyncobjDevice::adopt(fd);
  ASSERT_TRUE(fails_with(device, ENOTTY));
  EXPECT_TRUE(says(device.error(), "not a DRM device"));
  EXPECT_TRUE(fd);
}

TEST(SyncobjDeviceUnit, AClosedNumberIsRefused) { EXPECT_TRUE(fails_with(SyncobjDevice::dup_of(987), EBADF)); }

TEST_F(TimelineUnit, ADriverWithoutSyncobjsIsNamedWithWhatHelps) {
  drm_.syncobjs = false;
  Fd fd = some_file();
  const auto device = SyncobjDevice::adopt(fd);
  ASSERT_TRUE(fails_with(device, EOPNOTSUPP));
  EXPECT_TRUE(says(device.error(), "pretend"));
  EXPECT_TRUE(says(device.error(), "another DRM device"));
  EXPECT_TRUE(fd) << "it stays the caller's";
}

TEST_F(TimelineUnit, WhereOnlyBinarySyncobjsAreTheBinaryCallsAreMade) {
  drm_.timelines = false;
  const Timeline timeline = this->timeline();
  EXPECT_FALSE(timeline.device().has_timelines());
  EXPECT_TRUE(timeline.signal(0));
  EXPECT_EQ(drm_.count(DRM_IOCTL_SYNCOBJ_SIGNAL), 1U);
  EXPECT_TRUE(timeline.wait(0, soon()));
  EXPECT_EQ(drm_.count(DRM_IOCTL_SYNCOBJ_WAIT), 1U);
  EXPECT_EQ(drm_.count(timeline_wait), 0U);

  drm_.answer(timeline_signal, {EOPNOTSUPP});
  const auto refused = timeline.signal(5);
  ASSERT_TRUE(fails_with(refused, EOPNOTSUPP));
  EXPECT_TRUE(says(refused.error(), "use point 0"));
}

TEST_F(TimelineUnit, TheHandleIsDestroyedOnceWithTheLastThatUsesIt) {
  TimelinePoint point;
  {
    Timeline first = timeline();
    Timeline second = std::move(first);
    point = second.at(3);
    const TimelinePoint copy = point;
    EXPECT_TRUE(fails_with(first.signal(1), EINVAL)) << "moved from";  // NOLINT(bugprone-use-after-move)
  }
  EXPECT_EQ(drm_.alive.size(), 1U);
  EXPECT_TRUE(point.signal());
  point = {};
  EXPECT_TRUE(drm_.alive.empty());
}

TEST_F(TimelineUnit, TheFileIsClosedWithTheLastTimelineOnIt) {
  const auto before = open_fds();
  {
    Timeline timeline = this->timeline();  // its SyncobjDevice is already destroyed
    EXPECT_EQ(open_fds().size(), before.size() + 1);
    EXPECT_TRUE(timeline.signal(1));
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(TimelineUnit, WhatRefersToNothingIsAnErrorNotACrash) {
  const TimelinePoint nothing;
  EXPECT_FALSE(nothing);
  EXPECT_TRUE(fails_with(nothing.signal(), EINVAL));
  EXPECT_TRUE(fails_with(nothing.wait(soon()), EINVAL));
  EXPECT_TRUE(fails_with(nothing.fence(), EINVAL));
  EXPECT_TRUE(fails_with(nothing.import_fence(Fence()), EINVAL));
  EXPECT_TRUE(fails_with(nothing.transfer_from(nothing), EINVAL));
  EXPECT_TRUE(fails_with(nothing.event(), EINVAL));
  EXPECT_TRUE(fails_with(wait_all(std::array{nothing}, soon()), EINVAL));
  ReleasePoint kept;
  EXPECT_TRUE(fails_with(kept.signal(), EINVAL));
  SyncobjDevice device = this->device();
  const SyncobjDevice taken = std::move(device);
  EXPECT_EQ(device.fd(), -1);                                 // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(fails_with(Timeline::create(device), EINVAL));  // NOLINT(bugprone-use-after-move)
}

TEST_F(TimelineUnit, SignalWaitQueryAndResetAreOneCallEach) {
  const Timeline timeline = this->timeline();
  calls_since();
  EXPECT_TRUE(timeline.signal(5));
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_TRUE(timeline.wait(5, soon()));
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_TRUE(timeline.query());
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_TRUE(timeline.query_submitted());
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_TRUE(timeline.reset());
  EXPECT_EQ(calls_since(), 1U);
  const std::vector<TimelinePoint> points(16, timeline.at(5));
  EXPECT_TRUE(wait_all(points, soon()));
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_TRUE(timeline.import_fence(6, Fence())) << "null: already signalled";
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_EQ(drm_.count(timeline_signal), 2U);
  EXPECT_EQ(drm_.others, 0U);
}

TEST_F(TimelineUnit, FencesGoInAndOutInOneCallWhereTheKernelTakesAPoint) {
  const Timeline timeline = this->timeline();
  calls_since();
  EXPECT_TRUE(timeline.import_fence(5, some_fence()));
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_TRUE(timeline.at(5).fence());
  EXPECT_EQ(calls_since(), 1U);
}

TEST_F(TimelineUnit, OlderKernelsAreServedByTransferAndAskedTheNewWayOnce) {
  const Timeline timeline = this->timeline();
  drm_.answer(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, {EINVAL});
  calls_since();
  EXPECT_TRUE(timeline.import_fence(5, some_fence()));
  EXPECT_EQ(calls_since(), 5U) << "refused, scratch made, import, transfer, state of the fence";
  EXPECT_TRUE(timeline.import_fence(6, some_fence()));
  EXPECT_EQ(calls_since(), 3U) << "import, transfer, state of the fence";
  EXPECT_TRUE(timeline.at(6).fence());
  EXPECT_EQ(calls_since(), 2U) << "transfer, export";
  EXPECT_EQ(drm_.count(DRM_IOCTL_SYNCOBJ_TRANSFER), 3U);
}

TEST_F(TimelineUnit, AnEarlyQuestionDoesNotMakeTheKernelLookOld) {
  const Timeline timeline = this->timeline();
  drm_.answer(DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, {EINVAL});
  drm_.answer(DRM_IOCTL_SYNCOBJ_TRANSFER, {EINVAL});
  const auto early = timeline.at(9).fence();
  ASSERT_TRUE(fails_with(early, EINVAL));
  EXPECT_TRUE(says(early.error(), "not submitted"));
  calls_since();
  EXPECT_TRUE(timeline.at(9).fence());
  EXPECT_EQ(calls_since(), 1U);
}

TEST_F(TimelineUnit, AFenceThatHadFailedIsNotLostInSilenceWhereTheKernelForgetsIt) {
  const Timeline timeline = this->timeline();
  drm_.answer(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, {EINVAL});
  drm_.part = -EIO;
  EXPECT_TRUE(fails_with(timeline.import_fence(5, some_fence()), EIO));
  EXPECT_EQ(drm_.count(DRM_IOCTL_SYNCOBJ_TRANSFER), 1U) << "and yet nobody waits for ever";
}

TEST_F(TimelineUnit, TheScratchIsDestroyedWithTheFile) {
  {
    const Timeline timeline = this->timeline();
    drm_.answer(DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, {EINVAL});
    EXPECT_TRUE(timeline.at(5).fence());
    EXPECT_EQ(drm_.alive.size(), 2U);
  }
  EXPECT_TRUE(drm_.alive.empty());
}

TEST_F(TimelineUnit, TheFailureOfAFenceEndsTheWaitWithIt) {
  const Timeline timeline = this->timeline();
  EXPECT_TRUE(timeline.import_fence(5, some_fence()));
  drm_.part = -EIO;
  const auto waited = timeline.wait(5, soon());
  ASSERT_TRUE(fails_with(waited, EIO));
  EXPECT_TRUE(says(waited.error(), "point 5"));
  EXPECT_TRUE(timeline.wait(5, soon(), {.report_failure = false}));
  drm_.part = -ETIMEDOUT;
  EXPECT_TRUE(fails_with(timeline.wait(5, soon()), ETIMEDOUT)) << "its own error too";
  drm_.part = 0;
  EXPECT_TRUE(timeline.wait(5, soon())) << "submitted anew since: the wait itself was successful";
}

TEST_F(TimelineUnit, FailuresAreLookedForOnlyWhereTheyCanBe) {
  const Timeline timeline = this->timeline();
  const auto cost = [&](const Timeline& of) {
    calls_since();
    EXPECT_TRUE(of.wait(1, soon()));
    return calls_since();
  };
  EXPECT_EQ(cost(timeline), 1U);
  EXPECT_TRUE(timeline.import_fence(1, some_fence()));
  EXPECT_EQ(cost(timeline), 3U) << "export, wait, state of the fence; and a close()";
  const Timeline copied = this->timeline();
  EXPECT_TRUE(copied.at(1).transfer_from(timeline.at(1)));
  const Timeline exported = this->timeline();
  EXPECT_TRUE(exported.export_fd());
  const Timeline handed_out = this->timeline();
  EXPECT_NE(handed_out.handle(), 0U);
  const Timeline imported = must(Timeline::import_fd(device(), 0));
  for (const Timeline* each : {&copied, &exported, &handed_out, &imported}) EXPECT_EQ(cost(*each), 3U);
}

TEST_F(TimelineUnit, ADeadlineIsAbsoluteAndTheKernelsEtimeIsEtimedout) {
  const Timeline timeline = this->timeline();
  const auto point = Deadline::Clock::time_point(12345ns);
  EXPECT_TRUE(timeline.wait(5, Deadline::at(point)));
  EXPECT_EQ(drm_.last_wait.timeout_nsec, 12345);
  EXPECT_TRUE(timeline.wait(5, Deadline::immediate()));
  EXPECT_EQ(drm_.last_wait.timeout_nsec, 0) << "only looks";
  EXPECT_TRUE(timeline.wait(5, Deadline::after(Deadline::Clock::duration::max())));
  EXPECT_EQ(drm_.last_wait.timeout_nsec, INT64_MAX);
  drm_.answer(timeline_wait, {ETIME});
  const auto waited = timeline.wait(5, Deadline::immediate());
  ASSERT_TRUE(fails_with(waited, ETIMEDOUT));
  EXPECT_TRUE(says(waited.error(), "point 5"));
}

TEST_F(TimelineUnit, AKernelThatGivesUpATickTooEarlyIsAskedAgain) {
  const Timeline timeline = this->timeline();
  drm_.answer(timeline_wait, {ETIME, ETIME});
  calls_since();
  EXPECT_TRUE(timeline.wait(5, soon()));
  EXPECT_EQ(calls_since(), 3U);
}

TEST_F(TimelineUnit, AHintThatTheKernelDoesNotKnowIsLeftOutFromThenOn) {
  const Timeline timeline = this->timeline();
  const WaitOptions hinted{.hint = Deadline::at(Deadline::Clock::time_point(777ns))};
  EXPECT_TRUE(timeline.wait(5, soon(), hinted));
  EXPECT_EQ(drm_.last_wait.flags & uapi::syncobj_wait_deadline, uapi::syncobj_wait_deadline);
  EXPECT_EQ(drm_.last_wait.deadline_nsec, 777U);

  drm_.answer(timeline_wait, {EINVAL, EINVAL});
  EXPECT_TRUE(fails_with(timeline.wait(5, soon(), hinted), EINVAL)) << "not submitted: says nothing about the hint";
  drm_.answer(timeline_wait, {EINVAL});
  calls_since();
  EXPECT_TRUE(timeline.wait(5, soon(), hinted));
  EXPECT_EQ(calls_since(), 2U);
  EXPECT_EQ(drm_.last_wait.flags & uapi::syncobj_wait_deadline, 0U);
  EXPECT_TRUE(timeline.wait(5, soon(), hinted));
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_EQ(drm_.last_wait.flags & uapi::syncobj_wait_deadline, 0U);
}

TEST_F(TimelineUnit, WaitingForSubmissionIsAskedForWithEveryFlagItNeeds) {
  const Timeline timeline = this->timeline();
  EXPECT_TRUE(timeline.wait(5, soon(), {.for_submit = false}));
  EXPECT_EQ(drm_.last_wait.flags, std::uint32_t{DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL});
  EXPECT_TRUE(timeline.wait(5, soon()));
  EXPECT_TRUE(drm_.last_wait.flags & DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT);
  EXPECT_TRUE(timeline.wait(5, soon(), {.for_submit = false, .available = true}));
  EXPECT_TRUE(drm_.last_wait.flags & DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE);
  EXPECT_TRUE(drm_.last_wait.flags & DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT) << "without it, kernels before 6.8 hang";
}

TEST_F(TimelineUnit, SeveralPointsAreOfOneFile) {
  const Timeline one = timeline();
  const Timeline other = timeline();  // on its own file
  const auto waited = wait_any(std::array{one.at(1), other.at(1)}, soon());
  ASSERT_TRUE(fails_with(waited, EXDEV));
  EXPECT_TRUE(says(waited.error(), "export_fd"));
  EXPECT_TRUE(wait_all({}, soon()));
  EXPECT_TRUE(fails_with(wait_any({}, soon()), EINVAL));
}

TEST_F(TimelineUnit, MorePointsThanFitAreWaitedForToo) {
  const Timeline timeline = this->timeline();
  drm_.first_signaled = 99;
  const std::vector<TimelinePoint> points(100, timeline.at(1));
  EXPECT_EQ(must(wait_any(points, soon())), 99U);
  EXPECT_EQ(drm_.last_wait.count_handles, 100U);
}

TEST_F(TimelineUnit, ACancelIsHeardAlsoWhereTheKernelHasNoEventfds) {
  const Timeline timeline = this->timeline();
  const Cancel cancel = must(Cancel::create());
  drm_.sticky = true;
  drm_.answer(timeline_wait, {ETIME});
  drm_.answer(uapi::ioctl_syncobj_eventfd, {EINVAL});
  std::thread canceller([&] {
    std::this_thread::sleep_for(30ms);
    cancel.cancel();
  });
  EXPECT_TRUE(fails_with(timeline.wait(5, Deadline::after(60s), {.cancel = &cancel}), ECANCELED));
  canceller.join();
  EXPECT_TRUE(fails_with(timeline.wait(5, soon(), {.cancel = &cancel}), ECANCELED)) << "it stays set";
  EXPECT_EQ(drm_.count(uapi::ioctl_syncobj_eventfd), 2U) << "asked once, and once whether it is known; then no more";
  cancel.reset();
  EXPECT_TRUE(fails_with(timeline.wait(5, Deadline::after(30ms), {.cancel = &cancel}), ETIMEDOUT));
  drm_.answer(timeline_wait, {ETIME, ETIME, 0});
  EXPECT_TRUE(timeline.wait(5, soon(), {.cancel = &cancel}));
}

TEST_F(TimelineUnit, WhatIsSignalledAlreadyCostsOneCallAlsoWithACancelThatIsSet) {
  const Timeline timeline = this->timeline();
  const Cancel cancel = must(Cancel::create());
  cancel.cancel();
  calls_since();
  drm_.others = 0;
  EXPECT_TRUE(timeline.wait(5, soon(), {.cancel = &cancel}));
  EXPECT_EQ(calls_since(), 1U);
  EXPECT_EQ(drm_.others, 0U);
}

TEST_F(TimelineUnit, OldKernelsWithoutEventfdsSayWhatElseThereIs) {
  const Timeline timeline = this->timeline();
  drm_.sticky = true;
  drm_.answer(uapi::ioctl_syncobj_eventfd, {EINVAL});
  const auto event = timeline.at(5).event();
  ASSERT_TRUE(fails_with(event, EOPNOTSUPP));
  EXPECT_TRUE(says(event.error(), "fence()"));
}

TEST_F(TimelineUnit, APromiseIsKeptAtTheEnd) {
  const Timeline timeline = this->timeline();
  drm_.sticky = true;
  drm_.answer(timeline_wait, {ETIME});  // not submitted yet
  {
    const ReleasePoint promise(timeline.at(5));
  }
  EXPECT_EQ(drm_.count(timeline_signal), 1U);
}

TEST_F(TimelineUnit, APromiseIsKeptOnce) {
  const Timeline timeline = this->timeline();
  drm_.sticky = true;
  drm_.answer(timeline_wait, {ETIME});
  {
    ReleasePoint promise(timeline.at(5));
    ReleasePoint moved = std::move(promise);
    EXPECT_TRUE(moved.signal());
    EXPECT_FALSE(moved);
    ReleasePoint with_fence(timeline.at(6));
    EXPECT_TRUE(with_fence.signal_with(some_fence()));
  }
  EXPECT_EQ(drm_.count(timeline_signal), 1U);
  EXPECT_EQ(drm_.count(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE), 1U);
}

TEST_F(TimelineUnit, APromiseAssignedToIsKeptFirst) {
  const Timeline timeline = this->timeline();
  drm_.sticky = true;
  drm_.answer(timeline_wait, {ETIME});
  ReleasePoint promise(timeline.at(5));
  promise = ReleasePoint(timeline.at(6));
  EXPECT_EQ(drm_.count(timeline_signal), 1U);
  EXPECT_EQ(promise.point().value(), 6U);
}

TEST_F(TimelineUnit, APromiseWhoseKeepingFailedIsTriedAgain) {
  const Timeline timeline = this->timeline();
  drm_.answer(timeline_wait, {ETIME});
  drm_.answer(timeline_signal, {ENOMEM});
  {
    ReleasePoint promise(timeline.at(5));
    EXPECT_TRUE(fails_with(promise.signal(), ENOMEM));
    EXPECT_TRUE(promise);
  }
  EXPECT_EQ(drm_.count(timeline_signal), 2U);
}

TEST_F(TimelineUnit, APromiseOvertakenByALaterPointDisturbsNothing) {
  const Timeline timeline = this->timeline();
  {
    const ReleasePoint promise(timeline.at(5));
  }  // the wait's flag says that it is submitted
  EXPECT_EQ(drm_.count(timeline_signal), 0U);
}

TEST_F(TimelineUnit, APromiseKeepsItsTimelineAlive) {
  {
    ReleasePoint promise(timeline().at(5));
    EXPECT_EQ(drm_.alive.size(), 1U);
  }
  EXPECT_TRUE(drm_.alive.empty());
}

TEST_F(TimelineUnit, ALostHandleIsExplained) {
  const Timeline timeline = this->timeline();
  drm_.answer(timeline_signal, {ENOENT});
  const auto signalled = timeline.signal(5);
  ASSERT_TRUE(fails_with(signalled, ENOENT));
  EXPECT_TRUE(says(signalled.error(), "destroyed"));
  EXPECT_TRUE(says(signalled.error(), "pretend"));
}

}  // namespace
