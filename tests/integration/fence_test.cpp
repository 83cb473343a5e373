// Fence, merge() and waiting, with fences of the kernel's own sw_sync, which signal or fail when the test wants. Runs
// in the lab.
#include "fence_support.hpp"

#include "uapi/sync_file.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/fence.hpp>
#include <dmaflow/frame.hpp>
#include <dmaflow/heap.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <new>
#include <optional>
#include <random>
#include <thread>

#include <linux/sync_file.h>
#include <signal.h>
#include <sys/time.h>

namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

// Counts every allocation of this program. Not inlined: otherwise GCC 14 reports a mismatch of new and free().
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace dmaflow;
using namespace dmaflow::test;
using namespace std::chrono_literals;
using enum Fence::State;

Deadline soon() { return Deadline::after(20s); }
constexpr const char* page = "docs/synchronization.md";

/// Sends SIGALRM every millisecond, with a handler that interrupts system calls.
class Signals {
 public:
  Signals() {
    struct sigaction action{};
    action.sa_handler = [](int) { ++count_; };  // without SA_RESTART
    ::sigaction(SIGALRM, &action, &old_);
    count_ = 0;
    const itimerval every{.it_interval = {0, 1000}, .it_value = {0, 1000}};
    ::setitimer(ITIMER_REAL, &every, nullptr);
  }
  ~Signals() {
    const itimerval never{};
    ::setitimer(ITIMER_REAL, &never, nullptr);
    ::sigaction(SIGALRM, &old_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  static int count() { return count_; }

 private:
  static inline std::atomic<int> count_{0};
  struct sigaction old_{};
};

// --- one fence

TEST(RealFence, IsActiveUntilItsWorkIsDone) {
  const LeakCheck leaks;
  SwSync device;
  const Fence fence = device.fence(2);
  EXPECT_EQ(must(fence.state()), active);
  EXPECT_TRUE(fails_with(fence.wait(Deadline::after(5ms)), ETIMEDOUT));
  device.advance();
  EXPECT_EQ(must(fence.state()), active) << "not that far yet";
  EXPECT_FALSE(must(fence.has_ended()));
  device.advance();
  EXPECT_EQ(must(fence.state()), signalled);
  EXPECT_TRUE(must(fence.has_ended()));
  EXPECT_TRUE(fence.wait(Deadline::immediate()));
}

TEST(RealFence, WaitingForASignalledOneCostsOneSystemCallAndNoMemory) {
  SwSync device;
  std::vector<Fence> inputs;
  for (std::uint32_t i = 0; i < 2; ++i) inputs.push_back(device.fence(i + 1));
  Fence last = device.fence(3);
  device.advance(3);
  const CountCalls calls;
  const std::uint64_t before = allocations;
  EXPECT_TRUE(last.wait(soon()));
  EXPECT_EQ(calls.calls(), 1U);
  EXPECT_TRUE(must(last.has_ended()));
  EXPECT_EQ(must(last.state()), signalled);
  EXPECT_EQ(calls.calls(), 3U);
  EXPECT_EQ(allocations, before);
}

TEST(RealFence, AFailedDeviceEndsTheWaitWithItsError) {
  const LeakCheck leaks;
  SwSync device;
  const Fence fence = device.fence(1);
  std::thread unplug([&] {
    std::this_thread::sleep_for(20ms);
    device.fail();
  });
  const auto result = fence.wait(soon());
  unplug.join();
  const int error = part_of(fence.poll_fd()).status;
  ASSERT_LT(error, 0) << "sw_sync gives no error";
  EXPECT_TRUE(fails_with(result, -error));
  EXPECT_EQ(must(fence.state()), failed);
  EXPECT_TRUE(must(fence.has_ended()));
  EXPECT_TRUE(fails_with(fence.wait(soon()), -error)) << "as often as one asks";
  EXPECT_EQ(must(fence.info()).at(0).status, error);
}

TEST(RealFence, InfoNamesDriverAndTimelineAndWhenItEnded) {
  SwSync device;
  const Fence fence = device.fence(1);
  auto info = must(fence.info());
  ASSERT_EQ(info.size(), 1U);
  const sync_fence_info kernels = part_of(fence.poll_fd());
  EXPECT_EQ(info[0].driver, kernels.driver_name);
  EXPECT_EQ(info[0].timeline, kernels.obj_name);
  EXPECT_FALSE(info[0].driver.empty());
  EXPECT_EQ(info[0].status, 0);
  EXPECT_EQ(info[0].timestamp, 0ns);
  const auto before = std::chrono::steady_clock::now().time_since_epoch();
  device.advance();
  const auto after = std::chrono::steady_clock::now().time_since_epoch();
  info = must(fence.info());
  EXPECT_EQ(info[0].status, 1);
  EXPECT_GE(info[0].timestamp, before);
  EXPECT_LE(info[0].timestamp, after);
}

TEST(RealFence, ItsDescriptorIsReadableOnceItHasEndedWellOrNot) {
  SwSync device;
  auto other = std::make_unique<SwSync>();
  const Fence good = device.fence(1);
  const Fence bad = other->fence(1);
  EXPECT_EQ(sys::wait(good.poll_fd(), POLLIN, Deadline::immediate()), 0);
  EXPECT_EQ(sys::wait(bad.poll_fd(), POLLIN, Deadline::immediate()), 0);
  device.advance();
  other->fail();
  EXPECT_EQ(sys::wait(good.poll_fd(), POLLIN, Deadline::immediate()), POLLIN);
  EXPECT_EQ(sys::wait(bad.poll_fd(), POLLIN, Deadline::immediate()), POLLIN) << "poll does not tell them apart";
}

/// The deadline of the last SYNC_IOC_SET_DEADLINE.
class HintWatch : public sys::Hook {
 public:
  HintWatch() { sys::set_hook(this); }
  ~HintWatch() override { sys::set_hook(nullptr); }
  int before(const sys::Call& call) noexcept override {
    if (call.request != SYNC_IOC_SET_DEADLINE) return proceed;
    hint = static_cast<std::int64_t>(static_cast<const uapi::sync_set_deadline*>(call.argument)->deadline_ns);
    return proceed;
  }
  std::int64_t hint = 0;
};

TEST(RealFence, ADeadlineHintReachesTheKernel) {
  SwSync first;
  SwSync second;
  Fence one = first.fence(1);
  EXPECT_LT(first.deadline_of(one), 0) << "none was told";
  HintWatch watch;
  const Deadline wanted = Deadline::after(1s);
  const auto point = std::chrono::nanoseconds(wanted.time().time_since_epoch()).count();
  const auto hinted = one.hint_deadline(wanted);
  EXPECT_EQ(watch.hint, point);
  if (!hinted) {
    EXPECT_EQ(hinted.error().code(), EOPNOTSUPP) << hinted.error().message();
    GTEST_SKIP() << hinted.error().message();
  }
  observe("a deadline hint reaches the driver of a fence", first.deadline_of(one) == point, page);

  const Fence kept = must(one.dup());
  const Fence other = second.fence(1);
  std::array<Fence, 2> both{std::move(one), must(other.dup())};
  const Fence merged = must(merge(both));
  const Deadline sooner = Deadline::at(wanted.time() - 500ms);
  ASSERT_TRUE(merged.hint_deadline(sooner));
  EXPECT_EQ(watch.hint, point - 500'000'000);
  observe("a deadline hint reaches the drivers of every part of a merged fence",
          first.deadline_of(kept) == point - 500'000'000 && second.deadline_of(other) == point - 500'000'000, page);
  EXPECT_TRUE(merged.hint_deadline(Deadline::immediate()));
  EXPECT_TRUE(merged.hint_deadline(Deadline::after(Deadline::Clock::duration::max())));
}

TEST(RealFence, ADmaBufOrADeviceIsNoFence) {
  const LeakCheck leaks;
  Vgem vgem;
  std::uint32_t handle = 0;
  Fd memory = vgem.dma_buf(1, handle);
  Fd card = Fd::adopt(::open("/dev/dri/card0", O_RDWR | O_CLOEXEC));
  Fd camera = Fd::adopt(::open("/dev/video0", O_RDWR | O_CLOEXEC));
  Fd timeline = Fd::adopt(::open("/sys/kernel/debug/sync/sw_sync", O_RDWR | O_CLOEXEC));
  for (Fd* fd : {&memory, &card, &camera, &timeline}) {
    ASSERT_TRUE(*fd);
    const int number = fd->get();
    const auto adopted = Fence::adopt(*fd);
    ASSERT_TRUE(fails_with(adopted, EINVAL));
    EXPECT_NE(adopted.error().message().find("not a sync_file"), std::string::npos) << adopted.error().message();
    EXPECT_EQ(fd->get(), number);
    EXPECT_GE(::fcntl(number, F_GETFD), 0) << "it was closed";
  }
}

TEST(RealFence, AFenceOutlivesTheDescriptorItWasMadeFrom) {
  const LeakCheck leaks;
  SwSync device;
  Fd raw = device.raw_fence(1);
  const Fence fence = must(Fence::dup_of(raw.get()));
  const Fence copy = must(fence.dup());
  raw.reset();
  device.advance();
  EXPECT_TRUE(fence.wait(soon()));
  EXPECT_TRUE(copy.wait(soon()));
}

// --- waiting

TEST(RealWait, UnderSignalsEveryMillisecondItEndsNeitherEarlyNorWithEintr) {
  SwSync device;
  const Fence fence = device.fence(1);
  const Signals signals;
  // Repeated with a longer wait if the machine was too busy to send enough signals.
  for (std::chrono::milliseconds length = 200ms; Signals::count() <= 10; length *= 2) {
    ASSERT_LT(length, 10s) << "it was not interrupted";
    const Deadline deadline = Deadline::after(length);
    EXPECT_TRUE(fails_with(fence.wait(deadline), ETIMEDOUT));
    EXPECT_GE(Deadline::Clock::now(), deadline.time()) << "never early";
  }

  std::atomic<bool> has_signalled{false};
  std::thread worker([&] {
    const auto until = Deadline::Clock::now() + 100ms;
    while (Deadline::Clock::now() < until) std::this_thread::sleep_until(until);
    has_signalled = true;
    device.advance();
  });
  const auto result = fence.wait(soon());
  EXPECT_TRUE(has_signalled) << "not before it signalled";
  worker.join();
  EXPECT_TRUE(result) << result.error().message();
}

TEST(RealWait, UnderSignalsEveryMillisecondEveryOtherCallWorksToo) {
  const LeakCheck leaks;
  const Signals signals;
  SwSync device;
  for (std::uint32_t i = 1; Signals::count() < 100; ++i) {
    SwSync other;
    std::array<Fence, 3> inputs{device.fence(i), other.fence(1), device.fence(i + 1)};
    const Fence copy = must(inputs[0].dup());
    const Fence merged = must(merge(inputs));
    ASSERT_EQ(must(merged.state()), active);
    ASSERT_EQ(must(merged.info()).size(), 2U);
    device.advance();
    ASSERT_TRUE(copy.wait(soon()));
  }
}

TEST(RealWait, AnotherThreadEndsIt) {
  const LeakCheck leaks;
  SwSync device;
  const Fence fence = device.fence(1);
  const Cancel cancel = must(Cancel::create());
  std::atomic<bool> is_cancelled{false};
  std::thread other([&] {
    std::this_thread::sleep_for(20ms);
    is_cancelled = true;
    cancel.cancel();
  });
  const auto result = fence.wait(soon(), &cancel);
  EXPECT_TRUE(is_cancelled);
  other.join();
  EXPECT_TRUE(fails_with(result, ECANCELED));
  EXPECT_EQ(must(fence.state()), active) << "the wait is cancelled, not the work";
  device.advance();
  EXPECT_TRUE(fence.wait(soon(), &cancel)) << "what is done is reported as done";
}

TEST(RealWait, ManyThreadsWaitForOneFence) {
  const LeakCheck leaks;
  SwSync device;
  const Fence fence = device.fence(1);
  std::atomic<int> woken{0};
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      if (fence.wait(soon())) ++woken;
    });
  }
  std::this_thread::sleep_for(10ms);
  EXPECT_EQ(woken, 0);
  device.advance();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(woken, 8);
}

// --- merging

TEST(RealMerge, EndsWhenAllHaveEnded) {
  for (const std::size_t count : {1U, 2U, 3U, 16U, 17U, 64U, 256U}) {
    const LeakCheck leaks;
    std::vector<std::unique_ptr<SwSync>> devices;
    std::vector<Fence> inputs;
    for (std::size_t i = 0; i < count; ++i) {
      devices.push_back(std::make_unique<SwSync>());
      inputs.push_back(devices.back()->fence(1));
    }
    std::optional<CountCalls> merges;
    merges.emplace("ioctl", SYNC_IOC_MERGE);
    const Fence merged = must(merge(inputs));
    EXPECT_EQ(merges->calls(), count - 1);
    merges.reset();
    EXPECT_TRUE(std::ranges::all_of(inputs, &Fence::is_null));
    EXPECT_EQ(must(merged.info()).size(), count);
    for (auto& device : devices) {
      ASSERT_EQ(must(merged.state()), active);
      device->advance();
    }
    EXPECT_EQ(must(merged.state()), signalled);
    EXPECT_TRUE(merged.wait(soon()));
  }
}

TEST(RealMerge, TheSameFenceTwiceIsThatFence) {
  const LeakCheck leaks;
  SwSync device;
  Fence fence = device.fence(1);
  std::array<Fence, 3> inputs{must(fence.dup()), must(fence.dup()), std::move(fence)};
  const Fence merged = must(merge(inputs));
  observe("a fence merged with itself stays one part", must(merged.info()).size() == 1);
  EXPECT_EQ(must(merged.state()), active);
  device.advance();
  EXPECT_TRUE(merged.wait(soon()));
}

TEST(RealMerge, OfOneTimelineTheLatestDecidesForTheyEndInOrder) {
  SwSync device;
  std::array<Fence, 2> inputs{device.fence(2), device.fence(1)};
  const Fence merged = must(merge(inputs));
  observe("of two fences of one timeline a merge keeps the later", must(merged.info()).size() == 1, page);
  device.advance();
  EXPECT_EQ(must(merged.state()), active);
  device.advance();
  EXPECT_EQ(must(merged.state()), signalled);
}

TEST(RealMerge, WhatHasSignalledIsLeftOutAndNullIsLeftOfNothing) {
  const LeakCheck leaks;
  SwSync device;
  std::array<Fence, 3> inputs{device.fence(1), Fence(), device.fence(2)};
  const int last = inputs[2].poll_fd();
  device.advance();
  Fence one = must(merge(inputs));
  EXPECT_EQ(one.poll_fd(), last) << "one is left: that one, moved";
  device.advance();
  EXPECT_TRUE(must(merge(std::span(&one, 1))).is_null());
  EXPECT_TRUE(one.is_null());
}

TEST(RealMerge, AFenceThatFailedBeforeIsTheErrorThoughTheKernelForgetsIt) {
  const LeakCheck leaks;
  SwSync good;
  auto bad = std::make_unique<SwSync>();
  std::array<Fence, 2> inputs{good.fence(1), bad->fence(1)};
  bad->fail();
  EXPECT_TRUE(fails_with(merge(inputs), error_of_sw_sync()));
  EXPECT_EQ(must(inputs[0].state()), active) << "still the caller's";
  EXPECT_EQ(must(inputs[1].state()), failed);

  // The kernel's own result, which is the reason why merge() checks the states first.
  sync_merge_data data{};
  data.fd2 = inputs[1].poll_fd();
  ASSERT_EQ(::ioctl(inputs[0].poll_fd(), SYNC_IOC_MERGE, &data), 0);
  const Fence forgetful = Fence::adopt_unchecked(Fd::adopt(data.fence));
  good.advance();
  observe("SYNC_IOC_MERGE keeps the error of a fence that had failed", must(forgetful.state()) == failed, page);
}

TEST(RealMerge, AFenceThatFailsAfterwardsFailsTheMergedOne) {
  for (const bool bad_first : {false, true}) {
    const LeakCheck leaks;
    SwSync good;
    auto bad = std::make_unique<SwSync>();
    std::array<Fence, 2> inputs{good.fence(1), bad->fence(1)};
    if (bad_first) std::swap(inputs[0], inputs[1]);
    const Fence merged = must(merge(inputs));
    bad->fail();
    EXPECT_EQ(must(merged.state()), failed) << "the worst part counts";
    EXPECT_FALSE(must(merged.has_ended())) << "the other device is at work still";
    EXPECT_TRUE(fails_with(merged.wait(Deadline::after(5ms)), ETIMEDOUT));
    good.advance();
    EXPECT_TRUE(must(merged.has_ended()));
    EXPECT_TRUE(fails_with(merged.wait(soon()), error_of_sw_sync()));
    EXPECT_EQ(must(merged.state()), failed);
  }
}

TEST(RealMerge, AClosedInputIsAnErrorAndNothingOfTheOthersIsLost) {
  SwSync device;
  SwSync other;
  std::array<Fence, 3> inputs{device.fence(1), other.fence(1), other.fence(2)};
  ::close(inputs[1].poll_fd());
  EXPECT_TRUE(fails_with(merge(inputs), EBADF));
  EXPECT_EQ(must(inputs[0].state()), active);
  EXPECT_EQ(must(inputs[2].state()), active);
  static_cast<void>(std::move(inputs[1]).take_fd().release());  // it is already closed
}

TEST(RealMerge, WithoutDescriptorsLeftEveryInputIsStillTheCallers) {
  const LeakCheck leaks;
  std::array<SwSync, 4> devices;
  std::vector<Fence> inputs;
  for (SwSync& device : devices) inputs.push_back(device.fence(1));
  for (std::size_t nth = 1; nth <= 3; ++nth) {
    const FailNth fail(nth, EMFILE, "ioctl", SYNC_IOC_MERGE);
    EXPECT_TRUE(fails_with(merge(inputs), EMFILE));
    EXPECT_TRUE(std::ranges::none_of(inputs, &Fence::is_null));
  }
  EXPECT_FALSE(must(merge(inputs)).is_null());
}

/// Fences of a few timelines, merged at random, compared with a model of sets of {timeline, value}: the state must
/// always be the same.
class MergeModel {
 public:
  explicit MergeModel(unsigned seed) : random_(seed) {
    for (auto& timeline : timelines_) timeline.device = std::make_unique<SwSync>();
  }

  void step() {
    switch (pick(6)) {
      case 0:
      case 1:
        create();
        break;
      case 2:
        advance();
        break;
      case 3:
        if (pick(30) == 0) fail();
        break;
      default:
        merge_some();
        break;
    }
    if (all_.size() > 40) all_.erase(all_.begin(), all_.begin() + 20);
  }
  void check() const {
    for (const Modelled& one : all_) {
      const bool pending = any(one, 0);
      const auto expected = has_failed(one) ? failed : pending ? active : signalled;
      ASSERT_EQ(must(one.fence.state()), expected);
      ASSERT_EQ(must(one.fence.has_ended()), !pending);
    }
  }

 private:
  struct Timeline {
    std::unique_ptr<SwSync> device;
    std::uint32_t now = 0;
    std::uint32_t failed_after = ~0U;  // fences with higher values failed
  };
  struct Part {
    std::size_t timeline;
    std::uint32_t value;
  };
  struct Modelled {
    Fence fence;
    std::vector<Part> parts;
  };

  std::size_t pick(std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_); }
  /// -1 failed, 0 active, 1 signalled.
  int state(const Part& part) const {
    const Timeline& timeline = timelines_[part.timeline];
    if (part.value <= std::min(timeline.now, timeline.failed_after)) return 1;
    return timeline.failed_after == ~0U ? 0 : -1;
  }
  bool any(const Modelled& one, int wanted) const {
    return std::ranges::any_of(one.parts, [&](const Part& part) { return state(part) == wanted; });
  }
  bool has_failed(const Modelled& one) const { return any(one, -1); }

  void create() {
    const std::size_t index = pick(timelines_.size());
    Timeline& timeline = timelines_[index];
    if (timeline.failed_after != ~0U) return;
    const auto value = timeline.now + static_cast<std::uint32_t>(pick(4));
    all_.push_back({timeline.device->fence(value), {{index, value}}});
  }
  void advance() {
    Timeline& timeline = timelines_[pick(timelines_.size())];
    if (timeline.failed_after != ~0U) return;
    timeline.device->advance();
    ++timeline.now;
  }
  void fail() {
    Timeline& timeline = timelines_[pick(timelines_.size())];
    if (timeline.failed_after != ~0U) return;
    timeline.failed_after = timeline.now;
    timeline.device->fail();
  }
  void merge_some() {
    std::vector<Fence> inputs;
    std::vector<Part> parts;
    bool bad = false;
    for (std::size_t count = pick(7); count > 0 && !all_.empty(); --count) {
      const Modelled& one = all_[pick(all_.size())];
      inputs.push_back(must(one.fence.dup()));
      bad = bad || has_failed(one);
      std::ranges::copy_if(one.parts, std::back_inserter(parts), [&](const Part& part) { return state(part) == 0; });
    }
    const std::size_t given = inputs.size();
    const auto nulls = std::ranges::count_if(inputs, &Fence::is_null);
    auto merged = merge(inputs);
    if (bad) {
      ASSERT_TRUE(fails_with(merged, error_of_sw_sync()));
      ASSERT_EQ(std::ranges::count_if(inputs, &Fence::is_null), nulls);
      return;
    }
    ASSERT_TRUE(merged) << merged.error().message();
    ASSERT_EQ(std::ranges::count_if(inputs, &Fence::is_null), static_cast<std::ptrdiff_t>(given));
    if (parts.empty()) {
      ASSERT_TRUE(merged->is_null());
    }
    drop_earlier(parts);
    all_.push_back({std::move(*merged), std::move(parts)});
  }
  /// Of several fences of one timeline the kernel keeps only the latest.
  static void drop_earlier(std::vector<Part>& parts) {
    std::vector<Part> latest;
    for (const Part& part : parts) {
      auto same = std::ranges::find(latest, part.timeline, &Part::timeline);
      if (same == latest.end()) {
        latest.push_back(part);
      } else {
        same->value = std::max(same->value, part.value);
      }
    }
    parts = std::move(latest);
  }

  std::mt19937 random_;
  std::array<Timeline, 6> timelines_;
  std::deque<Modelled> all_;
};

TEST(RealMerge, RandomMergesBehaveAsAModelOfSets) {
  const LeakCheck leaks;
  const unsigned first = std::random_device{}();
  for (unsigned seed = first; seed < first + 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    MergeModel model(seed);
    for (int i = 0; i < 200; ++i) {
      model.step();
      if (i % 5 == 0) model.check();
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(RealFence, AHundredThousandOfThemLeaveNoDescriptor) {
  const LeakCheck leaks;
  SwSync left;
  SwSync right;
  for (int i = 1; i <= 50'000; ++i) {
    std::array<Fence, 2> inputs{left.fence(static_cast<std::uint32_t>(i)), right.fence(static_cast<std::uint32_t>(i))};
    const Fence merged = must(merge(inputs));
    ASSERT_LT(merged.poll_fd(), 64) << "descriptors grow";
    left.advance();
    right.advance();
    ASSERT_TRUE(merged.wait(soon()));
  }
}

/// Each frame has a ready fence, and a release fence for each of its two holders.
TEST(RealFence, AHundredThousandFramesWithFencesLeaveNoDescriptor) {
  const LeakCheck leaks;
  const auto heap = must(heap::Allocator::open("system"));
  const auto holds =
      must(HoldSet::create(must(heap->allocate({.size = {64, 64}, .format = formats::xrgb8888, .count = 3}))));
  SwSync work;
  for (std::uint32_t i = 0; i < 100'000; ++i) {
    Frame frame = must(holds->lend(i % 3, {.sequence = i}, work.fence(2 * i + 1)));
    ASSERT_TRUE(frame) << i;
    ASSERT_LT(frame.ready().poll_fd(), 64) << "descriptors grow";
    Frame other = must(frame.split());
    work.advance();
    ASSERT_TRUE(frame.ready().wait(soon()));
    frame.release(work.fence(2 * i + 2));
    other.release(work.fence(2 * i + 2));
    work.advance();
    const auto returned = holds->take_returned();
    ASSERT_TRUE(returned);
    ASSERT_EQ(returned->fences.size(), 2U);
    for (const Fence& fence : returned->fences) ASSERT_TRUE(fence.wait(soon()));
  }
}

}  // namespace
