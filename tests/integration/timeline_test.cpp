// Timelines on a real DRM device (virtio-gpu in the lab), with real pending and failing fences (sw_sync).
#include "allocator_checks.hpp"
#include "fence_support.hpp"

#include "uapi/drm_syncobj.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/timeline.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {
thread_local std::size_t allocations = 0;
}  // namespace

// Of this whole program: what asks for memory is counted. Not inlined: GCC 12 would see free() meet its own new.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new[](std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  ++allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace dmaflow {
namespace {

using test::error_of_sw_sync;
using test::fails_with;
using test::mentions;
using test::must;
using test::SwSync;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

Deadline soon() { return Deadline::after(20s); }
Deadline shortly() { return Deadline::after(30ms); }
constexpr const char* page = "docs/timelines.md";

/// Every node in /dev/dri, render nodes first.
std::vector<std::string> nodes() {
  std::vector<std::string> result;
  for (const char* kind : {"renderD", "card"}) {
    for (int i = 0; i < 192; ++i) {
      const std::string path = std::string("/dev/dri/") + kind + std::to_string(i);
      if (std::filesystem::exists(path)) result.push_back(path);
    }
  }
  return result;
}

/// The first node with timelines; empty where there is none.
std::string node_with_timelines() {
  for (const std::string& path : nodes()) {
    const auto device = SyncobjDevice::open(path);
    if (device && device->has_timelines()) return path;
  }
  return {};
}

class Timelines : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(!nodes().empty() || !test::in_lab()) << "the lab has DRM devices: --display virtio";
    path_ = node_with_timelines();
    if (path_.empty()) GTEST_SKIP() << "no DRM device with timelines here";
    device_.emplace(must(SyncobjDevice::open(path_)));
  }
  Timeline timeline() { return must(Timeline::create(*device_), "create"); }
  bool readable(const Fd& event) { return sys::wait(event.get(), POLLIN, Deadline::passed()) > 0; }
  bool readable_soon(const Fd& event) { return sys::wait(event.get(), POLLIN, soon()) > 0; }

  std::string path_;
  std::optional<SyncobjDevice> device_;
};

/// A thread whose call ends with an errno (0: success), asked for when it is over.
class Waiter {
 public:
  explicit Waiter(std::function<Result<void>()> call)
      : thread_([this, call = std::move(call)] {
          id_ = ::gettid();
          const auto result = call();
          code_ = result ? 0 : result.error().code();
          over_ = true;
        }) {}
  ~Waiter() {
    if (thread_.joinable()) thread_.join();
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  /// Once the thread sleeps in a wait for points: not for a lock, nor before it began.
  Waiter& asleep() {
    while (id_ == 0) std::this_thread::yield();
    const std::string path = "/proc/self/task/" + std::to_string(id_) + "/syscall";
    while (!over_) {
      std::ifstream file(path);  // "16 0x3 0xc03064ca ...", "running"
      long number = -1;
      unsigned long descriptor = 0;
      unsigned long request = 0;
      file >> number >> std::hex >> descriptor >> request;
#ifdef SYS_poll
      if (number == SYS_poll) break;
#endif
      if (number == SYS_ppoll ||
          (number == SYS_ioctl && _IOC_NR(request) == _IOC_NR(DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT))) {
        break;
      }
      std::this_thread::sleep_for(1ms);
    }
    return *this;
  }
  bool is_over() const { return over_; }
  pthread_t handle() { return thread_.native_handle(); }
  int code() {
    thread_.join();
    return code_;
  }

 private:
  std::atomic<pid_t> id_ = 0;
  std::atomic<bool> over_ = false;
  int code_ = -1;
  std::thread thread_;
};

// --- Devices ---

TEST_F(Timelines, EveryNodeSaysWhatItHasAndADriverWithoutSaysWhatHelps) {
  for (const std::string& path : nodes()) {
    const auto device = SyncobjDevice::open(path);
    const std::string name(device ? device->name() : device.error().device());  // "/dev/dri/card0 (virtio_gpu)"
    const auto driver = name.rfind('(');
    if (driver != std::string::npos) {
      test::observe(name.substr(driver + 1, name.size() - driver - 2) + " has timelines",
                    device && device->has_timelines(), page);
    }
    if (device) {
      EXPECT_TRUE(name.starts_with(path)) << name;
      continue;
    }
    if (device.error().operation() == "open" && !test::in_lab()) continue;  // not ours to open
    EXPECT_EQ(device.error().code(), EOPNOTSUPP) << device.error().message();
    EXPECT_TRUE(mentions(device.error(), path)) << device.error().message();
    EXPECT_TRUE(mentions(device.error(), "another DRM device")) << device.error().message();
  }
}

TEST_F(Timelines, WhatIsNoDrmDeviceIsRefused) {
  const auto device = SyncobjDevice::open("/dev/null");
  ASSERT_TRUE(fails_with(device, ENOTTY));
  EXPECT_TRUE(mentions(device.error(), "/dev/null"));
}

TEST_F(Timelines, NoPermissionNamesTheGroupThatMay) {
  if (!test::in_lab()) GTEST_SKIP() << "needs the lab's users and permissions";
  const std::string path = path_;
  const std::string said = test::as_user(1000, {1000}, [&] {
    const auto device = SyncobjDevice::open(path);
    return device ? std::string("opened") : device.error().message();
  });
  EXPECT_NE(said.find("EACCES"), std::string::npos) << said;
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  const group* owner = ::getgrgid(status.st_gid);
  ASSERT_NE(owner, nullptr);
  EXPECT_NE(said.find(std::string("usermod -aG ") + owner->gr_name), std::string::npos) << said;
}

TEST_F(Timelines, AFileOfTheUsersIsAdoptedOrCopied) {
  const test::LeakCheck leaks;
  Fd fd = Fd::adopt(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  const SyncobjDevice copied = must(SyncobjDevice::dup_of(fd.get()));
  const Timeline timeline = must(Timeline::create(copied));
  EXPECT_TRUE(timeline.signal(1));
  EXPECT_TRUE(timeline.at(1).fence());  // what the library makes for itself is made now, and does not take the number
  // The same DRM file: the user's own calls know the handle.
  drm_syncobj_destroy destroy{.handle = timeline.handle(), .pad = 0};
  EXPECT_EQ(::ioctl(fd.get(), DRM_IOCTL_SYNCOBJ_DESTROY, &destroy), 0);
  EXPECT_TRUE(fails_with(timeline.signal(2), ENOENT));
  EXPECT_TRUE(fails_with(timeline.wait(1, soon()), ENOENT));
  EXPECT_TRUE(fails_with(timeline.query(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.reset(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.at(1).fence(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.at(1).event(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.export_fd(), ENOENT));
  EXPECT_TRUE(fails_with(timeline.at(2).transfer_from(timeline.at(1)), ENOENT));
  const SyncobjDevice adopted = must(SyncobjDevice::adopt(fd));
  EXPECT_FALSE(fd);
  EXPECT_TRUE(Timeline::create(adopted));
}

// --- Points ---

TEST_F(Timelines, ANewOneHasNothingSubmitted) {
  const Timeline timeline = this->timeline();
  EXPECT_EQ(must(timeline.query()), 0U);
  EXPECT_EQ(must(timeline.query_submitted()), 0U);
  EXPECT_TRUE(fails_with(timeline.wait(1, soon(), {.for_submit = false}), EINVAL));
  EXPECT_TRUE(fails_with(timeline.wait(0, soon(), {.for_submit = false}), EINVAL)) << "nor is there a fence at all";
  EXPECT_TRUE(must(Timeline::create(*device_, true)).wait(0, Deadline::passed(), {.for_submit = false}));
}

TEST_F(Timelines, ASignalledPointCoversAllBelow) {
  const Timeline timeline = this->timeline();
  must(timeline.signal(5));
  EXPECT_EQ(must(timeline.query()), 5U);
  for (const std::uint64_t point : {0U, 1U, 4U, 5U}) EXPECT_TRUE(timeline.wait(point, Deadline::passed())) << point;
  EXPECT_TRUE(fails_with(timeline.wait(6, shortly()), ETIMEDOUT));
}

TEST_F(Timelines, PointsOutOfOrderNeverGoBack) {
  const Timeline timeline = this->timeline();
  must(timeline.signal(5));
  must(timeline.signal(3));
  must(timeline.signal(5));
  EXPECT_EQ(must(timeline.query()), 5U);
  EXPECT_EQ(must(timeline.query_submitted()), 5U);
  EXPECT_TRUE(timeline.wait(5, Deadline::passed()));
  EXPECT_TRUE(fails_with(timeline.wait(6, Deadline::passed()), ETIMEDOUT));
  must(timeline.signal(7));
  EXPECT_TRUE(timeline.wait(6, Deadline::passed())) << "between two points: as the next higher";
}

TEST_F(Timelines, ALowerPointSubmittedLateWaitsForTheHigherOne) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  must(timeline.signal(3));
  EXPECT_TRUE(fails_with(timeline.wait(3, shortly()), ETIMEDOUT)) << "it is behind point 5 in the kernel's chain";
  fences.advance();
  EXPECT_TRUE(timeline.wait(3, soon()));
}

TEST_F(Timelines, PointsHave64Bits) {
  const Timeline timeline = this->timeline();
  for (const std::uint64_t point : {std::uint64_t{1}, std::uint64_t{1} << 32U, (std::uint64_t{1} << 32U) + 1,
                                    std::uint64_t{1} << 63U, UINT64_MAX - 1, UINT64_MAX}) {
    EXPECT_TRUE(fails_with(timeline.wait(point, Deadline::passed()), ETIMEDOUT)) << point;
    must(timeline.signal(point));
    EXPECT_EQ(must(timeline.query()), point);
    EXPECT_EQ(must(timeline.query_submitted()), point);
    EXPECT_TRUE(timeline.wait(point, Deadline::passed()));
    EXPECT_TRUE(timeline.at(point).fence());
    if (point == UINT64_MAX) break;
    EXPECT_TRUE(fails_with(timeline.wait(point + 1, Deadline::passed()), ETIMEDOUT));
  }
}

TEST_F(Timelines, PointZeroIsABinarySyncobj) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(0, fences.fence(1)));
  EXPECT_TRUE(fails_with(timeline.wait(0, shortly()), ETIMEDOUT));
  EXPECT_FALSE(must(must(timeline.at(0).fence()).has_ended()));
  must(timeline.signal(0));
  EXPECT_TRUE(timeline.wait(0, Deadline::passed())) << "the signalled fence has replaced the pending one";
  must(timeline.reset());
  EXPECT_TRUE(fails_with(timeline.wait(0, shortly()), ETIMEDOUT));
  must(timeline.import_fence(0, fences.fence(2)));
  fences.advance(2);
  EXPECT_TRUE(timeline.wait(0, soon()));
}

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
  must(timeline.import_fence(7, fence));  // finds out what this kernel can
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
  must(timeline.import_fence(4, fence));  // what is made once is made
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
    // Longer where the machine was too busy to send signals.
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

/// A kernel before 6.6: it does not know syncobj eventfds.
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

// --- Fences ---

TEST_F(Timelines, FencesGoInAndComeOut) {
  const test::LeakCheck leaks;
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  must(timeline.import_fence(6, fences.fence(2)));
  const Fence five = must(timeline.at(5).fence());
  const Fence six = must(timeline.at(6).fence());
  EXPECT_FALSE(must(five.has_ended()));
  fences.advance();
  EXPECT_TRUE(timeline.wait(5, soon()));
  EXPECT_TRUE(five.wait(soon()));
  EXPECT_TRUE(fails_with(timeline.wait(6, shortly()), ETIMEDOUT));
  EXPECT_EQ(must(timeline.query()), 5U);
  EXPECT_EQ(must(timeline.query_submitted()), 6U);
  must(timeline.reset());
  EXPECT_FALSE(must(six.has_ended())) << "what was taken out stays what it was";
  fences.advance();
  EXPECT_TRUE(six.wait(soon()));
  must(timeline.import_fence(9, Fence()));
  EXPECT_EQ(must(timeline.query()), 9U) << "a null fence has signalled";
}

TEST_F(Timelines, APointThatIsNotSubmittedHasNoFence) {
  const Timeline timeline = this->timeline();
  for (int i = 0; i < 2; ++i) {
    const auto fence = timeline.at(5).fence();
    ASSERT_TRUE(fails_with(fence, EINVAL));
    EXPECT_TRUE(mentions(fence.error(), "not submitted"));
    must(timeline.signal(1));
    EXPECT_TRUE(timeline.at(1).fence());
  }
}

TEST_F(Timelines, AWaitEndsWithTheErrorOfTheFence) {
  for (const std::uint64_t point : {0U, 5U}) {
    const Timeline timeline = this->timeline();
    const Cancel cancel = must(Cancel::create());
    SwSync fences;
    must(timeline.import_fence(point, fences.fence(1)));
    Waiter before([&] { return timeline.wait(point, soon()); });
    Waiter cancellable([&] { return timeline.wait(point, soon(), {.cancel = &cancel}); });
    Waiter all([&] { return wait_all(std::array{timeline.at(point), timeline.at(point)}, soon()); });
    Waiter any([&]() -> Result<void> {
      auto result = wait_any(std::array{timeline.at(99), timeline.at(point)}, soon());
      if (!result) return std::unexpected(result.error());
      return {};
    });
    if (point == 0) must(timeline.wait(0, soon(), {.available = true}));
    for (Waiter* waiter : {&before, &cancellable, &all}) waiter->asleep();
    if (point != 0) any.asleep();
    fences.fail();
    const int error = error_of_sw_sync();
    EXPECT_EQ(before.code(), error);
    EXPECT_EQ(cancellable.code(), error);
    EXPECT_EQ(all.code(), error);
    EXPECT_EQ(any.code(), error);
    EXPECT_TRUE(fails_with(timeline.wait(point, soon()), error)) << "also who comes later";
    const auto kernels_own = timeline.wait(point, soon(), {.report_failure = false});
    test::observe(std::string("the kernel's wait for ") + (point == 0 ? "a binary syncobj" : "a timeline point") +
                      " tells that its fence failed",
                  !kernels_own, page);
    EXPECT_TRUE(kernels_own || fails_with(kernels_own, error));
  }
}

TEST_F(Timelines, WhoWaitsKeepsTheErrorThatTheKernelForgets) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  must(timeline.import_fence(5, fences.fence(1)));
  Waiter waiter([&] { return timeline.wait(5, soon()); });
  waiter.asleep();
  must(timeline.signal(6));
  fences.fail();
  EXPECT_EQ(waiter.code(), error_of_sw_sync());
  const auto late = timeline.wait(5, soon());
  test::observe("drm_syncobj keeps the error of a point that is followed by another", !late, page);
  EXPECT_TRUE(late || fails_with(late, error_of_sw_sync()));
  EXPECT_TRUE(timeline.wait(6, soon())) << "the failure of a lower point is not that of a higher one";
}

TEST_F(Timelines, AWaitThatBeganBeforeTheSubmissionLearnsOfTheErrorToo) {
  const Timeline timeline = this->timeline();
  EXPECT_NE(timeline.handle(), 0U);  // fences may come from elsewhere
  SwSync fences;
  Waiter waiter([&] { return timeline.wait(5, soon()); });
  waiter.asleep();
  must(timeline.import_fence(5, fences.fence(1)));
  fences.fail();
  EXPECT_EQ(waiter.code(), error_of_sw_sync());
}

TEST_F(Timelines, AFenceThatHasFailedAlreadyIsNotImportedInSilence) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  const Fence fence = fences.fence(1);
  fences.fail();
  const auto imported = timeline.import_fence(5, fence);
  test::observe("a timeline point keeps the error of a fence that had failed before", imported.has_value(), page);
  if (imported) {
    EXPECT_TRUE(fails_with(timeline.wait(5, soon()), error_of_sw_sync()));
  } else {  // the kernel forgets it, so the import has to report it
    EXPECT_EQ(imported.error().code(), error_of_sw_sync());
    EXPECT_TRUE(timeline.wait(5, Deadline::passed())) << "and yet nobody waits for ever";
  }
}

TEST_F(Timelines, TransfersBetweenPointsTimelinesAndDevices) {
  const Timeline source = timeline();
  const Timeline target = timeline();
  const SyncobjDevice other_device = must(SyncobjDevice::open(path_));
  const Timeline elsewhere = must(Timeline::create(other_device));
  SwSync fences;
  const auto refused = target.at(1).transfer_from(source.at(5));
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_TRUE(mentions(refused.error(), "point 5 is not submitted"));
  must(source.import_fence(5, fences.fence(1)));
  must(source.at(7).transfer_from(source.at(5)));  // to itself
  must(target.at(3).transfer_from(source.at(5)));
  must(elsewhere.at(9).transfer_from(source.at(5)));
  must(target.at(0).transfer_from(target.at(3)));
  const std::array points{source.at(7), target.at(0)};
  EXPECT_TRUE(fails_with(wait_any(points, shortly()), ETIMEDOUT));
  EXPECT_EQ(must(source.query_submitted()), 7U);
  fences.advance();
  EXPECT_TRUE(wait_all(points, soon()));
  EXPECT_TRUE(elsewhere.wait(9, soon()));
}

TEST_F(Timelines, ATransferredFailureArrives) {
  const Timeline source = timeline();
  const Timeline target = timeline();
  SwSync fences;
  must(source.import_fence(5, fences.fence(1)));
  must(target.at(3).transfer_from(source.at(5)));
  fences.fail();
  EXPECT_TRUE(fails_with(target.wait(3, soon()), error_of_sw_sync()));
}

// --- Passing on ---

TEST_F(Timelines, ATimelinePassesBetweenDevicesByDescriptor) {
  const test::LeakCheck leaks;
  const Timeline here = timeline();
  const Fd fd = must(here.export_fd());
  EXPECT_EQ(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  std::vector<Timeline> there;
  for (const std::string& path : nodes()) {
    const auto device = SyncobjDevice::open(path);
    if (device) there.push_back(must(Timeline::import_fd(*device, fd.get()), path.c_str()));
  }
  ASSERT_FALSE(there.empty());
  EXPECT_GE(::fcntl(fd.get(), F_GETFD), 0) << "it is still the caller's";
  for (const Timeline& each : there) {
    const std::uint64_t next = must(here.query()) + 1;
    Waiter waiter([&] { return here.wait(next, soon()); });
    waiter.asleep();
    must(each.signal(next));
    EXPECT_EQ(waiter.code(), 0);
    EXPECT_EQ(must(each.query()), next);
  }
}

TEST_F(Timelines, AFailureInAnotherProcesssHandsIsSeenToo) {
  const Timeline here = timeline();
  const SyncobjDevice device = must(SyncobjDevice::open(path_));
  const Timeline peer = must(Timeline::import_fd(device, must(here.export_fd()).get()));
  SwSync fences;
  must(peer.import_fence(5, fences.fence(1)));
  fences.fail();
  EXPECT_TRUE(fails_with(here.wait(5, soon()), error_of_sw_sync()));
}

TEST_F(Timelines, WrongDescriptorsAreNamedAndNeverClosed) {
  const test::LeakCheck leaks;
  const Timeline timeline = this->timeline();
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd read_end = Fd::adopt(ends[0]);
  const Fd write_end = Fd::adopt(ends[1]);
  test::Vgem vgem;
  std::uint32_t handle = 0;
  const Fd dma_buf = vgem.dma_buf(1, handle);
  SwSync fences;
  const Fd sync_file = fences.raw_fence(1);
  const struct {
    int fd;
    const char* words;
  } wrong[] = {{read_end.get(), "is not a syncobj"},
               {dma_buf.get(), "a dma-buf"},
               {sync_file.get(), "import_fence()"},
               {device_->fd(), "is not a syncobj"}};
  for (const auto& [fd, words] : wrong) {
    const auto imported = Timeline::import_fd(*device_, fd);
    ASSERT_TRUE(fails_with(imported, EINVAL));
    EXPECT_TRUE(mentions(imported.error(), words)) << imported.error().message();
    EXPECT_TRUE(mentions(imported.error(), "descriptor " + std::to_string(fd))) << imported.error().message();
    EXPECT_GE(::fcntl(fd, F_GETFD), 0);
  }
  for (const int closed : {987, -1}) EXPECT_TRUE(fails_with(Timeline::import_fd(*device_, closed), EBADF));
}

// --- Promises ---

TEST_F(Timelines, APromiseForgottenWakesThePeer) {
  const Timeline timeline = this->timeline();
  const SyncobjDevice device = must(SyncobjDevice::open(path_));
  const Timeline peer = must(Timeline::import_fd(device, must(timeline.export_fd()).get()));
  std::optional<ReleasePoint> promise(timeline.at(5));
  Waiter waiter([&] { return peer.wait(5, soon()); });
  waiter.asleep();
  EXPECT_FALSE(waiter.is_over());
  promise.reset();
  EXPECT_EQ(waiter.code(), 0);
}

TEST_F(Timelines, APromiseKeptWithAFenceIsSignalledByIt) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  {
    ReleasePoint promise(timeline.at(5));
    must(promise.signal_with(fences.fence(1)));
  }
  EXPECT_TRUE(fails_with(timeline.wait(5, shortly()), ETIMEDOUT)) << "not by being destroyed";
  fences.advance();
  EXPECT_TRUE(timeline.wait(5, soon()));
}

TEST_F(Timelines, APromiseOvertakenChangesNothing) {
  const Timeline timeline = this->timeline();
  SwSync fences;
  {
    const ReleasePoint promise(timeline.at(5));
    must(timeline.import_fence(6, fences.fence(1)));
  }
  must(timeline.signal(7));
  EXPECT_EQ(must(timeline.query()), 0U) << "a value out of order would make the kernel claim point 6";
  fences.advance();
  EXPECT_TRUE(timeline.wait(5, soon()));
}

// --- Leaks ---

TEST_F(Timelines, HandlesAreGivenBack) {
  const auto next_handle = [&] { return timeline().handle(); };
  const std::uint32_t first = next_handle();
  if (next_handle() != first) GTEST_SKIP() << "this kernel does not give the lowest free handle";
  SwSync fences;
  for (int i = 0; i < 200; ++i) {
    const Timeline timeline = this->timeline();
    must(timeline.import_fence(5, fences.fence(1)));
    EXPECT_TRUE(timeline.at(5).fence());
    EXPECT_FALSE(timeline.wait(6, Deadline::passed()));
    EXPECT_TRUE(Timeline::import_fd(*device_, must(timeline.export_fd()).get()));
    EXPECT_FALSE(Timeline::import_fd(*device_, 987));
  }
  EXPECT_LE(next_handle(), first + 1) << "the scratch may have been made meanwhile";
}

TEST_F(Timelines, NothingIsLeftBehindWhicheverCallFails) {
  const Cancel cancel = must(Cancel::create());
  SwSync fences;
  const Fence fence = fences.fence(1);
  const auto everything = [&]() -> Result<void> {
    const auto device = SyncobjDevice::open(path_);
    if (!device) return std::unexpected(device.error());
    const auto timeline = Timeline::create(*device);
    if (!timeline) return std::unexpected(timeline.error());
    ReleasePoint promise(timeline->at(9));
    if (auto done = timeline->import_fence(5, fence); !done) return done;
    const auto out = timeline->at(5).fence();
    if (!out) return std::unexpected(out.error());
    const auto fd = timeline->export_fd();
    if (!fd) return std::unexpected(fd.error());
    const auto copy = Timeline::import_fd(*device, fd->get());
    if (!copy) return std::unexpected(copy.error());
    const auto event = copy->at(5).event();
    if (!event) return std::unexpected(event.error());
    const auto waited = copy->wait(5, shortly(), {.cancel = &cancel});
    if (!waited && waited.error().code() != ETIMEDOUT) return waited;
    return promise.signal();
  };
  std::size_t total = 0;
  {
    const test::CountCalls count;
    ASSERT_TRUE(everything());
    total = count.calls();
  }
  for (std::size_t n = 1; n <= total; ++n) {
    const test::LeakCheck leaks;
    const test::FailNth fail(n, EIO);
    const auto result = everything();
    EXPECT_TRUE(result || !result.error().operation().empty());
    ASSERT_TRUE(fail.fired()) << "call " << n << " of " << total;
  }
}

// --- Stress ---

TEST_F(Timelines, EightThreads100000StepsAndThreadSanitizerHasNothingToSay) {
  const std::string steps = test::in_lab() ? "100000" : "2000";
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    ::personality(ADDR_NO_RANDOMIZE);  // ThreadSanitizer of this age does not know newer kernels' address layouts
    ::execl(DMAFLOW_TIMELINE_STRESS, "timeline_stress", path_.c_str(), steps.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  std::string said;
  char part[512];
  for (ssize_t length = 0; (length = ::read(ends[0], part, sizeof part)) > 0;)
    said.append(part, static_cast<std::size_t>(length));
  ::close(ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << said;
  EXPECT_NE(said.find(steps + " steps"), std::string::npos) << said;
  EXPECT_EQ(said.find("ThreadSanitizer"), std::string::npos) << said;
  std::printf("%s", said.c_str());
}

}  // namespace
}  // namespace dmaflow
