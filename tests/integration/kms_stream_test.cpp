// The path of frames to the screen: order, holds, flip events, the cost of a frame, and failures.
#include "fence_support.hpp"
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

#include <atomic>
#include <cstdlib>
#include <new>
#include <set>
#include <thread>

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

std::vector<Presentation> take_all(kms::Plane& plane) {
  std::vector<Presentation> all;
  std::array<Presentation, 16> some;
  while (const std::size_t count = plane.take_presented(some))
    all.insert(all.end(), some.begin(), some.begin() + count);
  return all;
}

/// Offers frames faster than the display shows them, until one must wait; returns false if none ever does.
bool park_one(Screen& screen) {
  const Deadline deadline = Screen::soon();
  while (screen.plane->poll_events() == 0 && deadline.remaining().count() > 0) {
    must(screen.plane->accept(screen.next())).release();
    must(screen.plane->flush());
  }
  return screen.plane->poll_events() != 0;
}

std::chrono::nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

TEST(KmsStream, FramesArePresentedInOrderEachOnceWithTheTimeOfTheFlip) {
  for (const std::string& driver : displays()) {
    const LeakCheck leaks;
    auto screen = must(Screen::open(driver, {1024, 768}));
    const auto begin = now();
    for (int i = 0; i < 40; ++i) must(screen.stream());
    must(screen.plane->drain(Screen::soon()));
    const auto shown = take_all(*screen.plane);
    ASSERT_FALSE(shown.empty());
    EXPECT_EQ(shown.size(), screen.output->commits()) << driver;
    EXPECT_EQ(shown.back().sequence, 40U) << "the newest frame is shown in the end";
    auto last = Presentation{.sequence = 0, .captured = {}, .presented = begin};
    for (const Presentation& one : shown) {
      EXPECT_GT(one.sequence, last.sequence) << driver;
      EXPECT_GE(one.presented, last.presented) << driver;
      EXPECT_EQ(one.captured, std::chrono::milliseconds(10 * one.sequence));
      last = one;
    }
    EXPECT_LE(last.presented, now());
  }
}

TEST(KmsStream, ABusyDisplayParksTheNewestFrameAndShowsItAfterTheFlip) {
  for (const char* driver : {"bochs-drm", "vkms"}) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    EXPECT_EQ(screen.plane->poll_events(), 0) << "nothing waits, so the loop need not wake";
    std::set<std::uint64_t> displaced;
    if (!park_one(screen)) GTEST_SKIP() << driver << " is done with each frame before the next comes";
    const auto parked = screen.sequence;
    EXPECT_FALSE(screen.plane->ready());
    for (int i = 0; i < 2; ++i) {
      Frame old = must(screen.plane->accept(screen.next()));
      ASSERT_TRUE(old);
      displaced.insert(old.info().sequence);
      must(screen.plane->flush());
    }
    EXPECT_EQ(displaced, (std::set<std::uint64_t>{parked, parked + 1})) << "the older one is given back";
    must(screen.plane->drain(Screen::soon()));
    EXPECT_EQ(take_all(*screen.plane).back().sequence, parked + 2);
    EXPECT_TRUE(screen.plane->ready());
  }
}

TEST(KmsStream, WhileParkedFlushingCostsNothing) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  if (!park_one(screen)) GTEST_SKIP() << "vkms is done with each frame before the next comes";
  const CountCalls calls;
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  must(screen.plane->dispatch(0));
  EXPECT_EQ(calls.calls(), 0U);
}

TEST(KmsStream, AFrameIsHeldUntilItsSuccessorIsOnTheScreen) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    EXPECT_EQ(screen.holds->lent(), 1U) << "what is on the screen is held, however long ago it was shown";
    must(screen.plane->accept(screen.next())).release();
    must(screen.plane->flush());
    EXPECT_EQ(screen.holds->lent(), 2U) << "committed is not yet on the screen: both are held";
    EXPECT_FALSE(screen.holds->take_returned());
    must(screen.plane->drain(Screen::soon()));
    EXPECT_EQ(screen.holds->lent(), 1U);
    const auto returned = screen.holds->take_returned();
    ASSERT_TRUE(returned);
    EXPECT_EQ(returned->index, 0U) << "the older one came back";
  }
}

TEST(KmsStream, NeverMoreFramesAreHeldThanSaid) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}, {}, 8));
    std::uint32_t most = 0;
    for (int i = 0; i < 30; ++i) {
      must(screen.plane->accept(screen.next())).release();
      must(screen.plane->flush());
      most = std::max(most, screen.holds->lent());
      if (i % 3 == 2) must(screen.stream());
    }
    EXPECT_LE(most, screen.plane->max_held()) << driver;
  }
}

TEST(KmsStream, AFrameCostsOneCommitAndEventsAreReadInBatches) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    Recorder calls;
    std::size_t busy = 0;
    std::size_t flushes = 0;
    const std::uint64_t before = screen.output->commits();
    while (screen.output->commits() < before + 96) {
      must(screen.plane->accept(screen.next())).release();
      must(screen.plane->flush());
      ++flushes;
      while (screen.plane->poll_events() != 0) {  // the event shows its frame, at the cost of a poll and a read
        ++busy;
        const int ready = sys::wait(screen.plane->poll_fd(), POLLIN, Screen::soon());
        ASSERT_GT(ready, 0);
        must(screen.plane->dispatch(static_cast<short>(ready)));
      }
    }
    const std::size_t commits = calls.count(DRM_IOCTL_MODE_ATOMIC);
    EXPECT_LE(commits, flushes + busy) << driver << ": one commit a frame, and one more for each that had to wait";
    EXPECT_LE(calls.count_named("read"), busy + 96 / 32) << driver;
    EXPECT_EQ(calls.count_named("poll"), busy) << driver;
    EXPECT_EQ(calls.entries().size(), commits + calls.count_named("read") + calls.count_named("poll")) << driver;
  }
}

TEST(KmsStream, InStepWithItsSourceFramesGoOnTheirWayWithTheNextOneAndNoneIsLost) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    const std::uint64_t first = screen.sequence + 1;
    (void)take_all(*screen.plane);
    Recorder calls;
    const auto offer = [&](int answer) {
      calls.fail = [answer](const Recorder::Entry& entry) {
        return entry.request == DRM_IOCTL_MODE_ATOMIC ? answer : 0;
      };
      EXPECT_FALSE(must(screen.plane->accept(screen.next()))) << driver << ": nothing was displaced";
      must(screen.plane->flush());
      calls.fail = nullptr;
    };
    const auto flip = [&] { return sys::wait(screen.device->fd(), POLLIN, Screen::soon()); };
    offer(0);
    for (int refused = 1; refused <= 3; ++refused) {  // the previous flip is pending
      offer(EBUSY);
      const bool is_in_step = refused == 3;
      EXPECT_EQ(screen.plane->poll_events(), is_in_step ? 0 : POLLIN) << driver;
      EXPECT_EQ(screen.plane->wake_by().has_value(), is_in_step) << driver << ": a source may fall silent";
      ASSERT_GT(flip(), 0);
      if (!is_in_step) must(screen.plane->dispatch(POLLIN));
    }
    for (int i = 0; i < 12; ++i) {
      calls.clear();
      const std::uint64_t before = screen.output->commits();
      offer(0);
      EXPECT_EQ(screen.output->commits(), before + 1) << driver;
      EXPECT_EQ(calls.entries().size(), 1U) << driver << ": one commit, no wait, no event";
      EXPECT_LE(screen.holds->lent(), screen.plane->max_held());
      // The flip has ended before the next commit, as with a camera's next frame.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ASSERT_TRUE(screen.plane->wake_by()) << driver;
    std::this_thread::sleep_until(screen.plane->wake_by()->time());
    must(screen.plane->dispatch(0));  // no other frame arrives: the last one is presented nevertheless
    EXPECT_TRUE(screen.plane->ready());
    must(screen.plane->drain(Screen::soon()));
    const auto shown = take_all(*screen.plane);
    ASSERT_EQ(shown.size(), screen.sequence - first + 1) << driver;
    for (std::size_t i = 0; i < shown.size(); ++i) EXPECT_EQ(shown[i].sequence, first + i) << driver;
  }
}

TEST(KmsStream, UnreadEventsNeverFillTheKernelsRoomForThem) {
  auto screen = must(Screen::open("virtio_gpu", {1280, 720}));
  for (int i = 0; i < 400; ++i) {  // the kernel's event queue has room for 128
    must(screen.plane->accept(screen.next())).release();
    const auto flushed = screen.plane->flush();
    ASSERT_TRUE(flushed) << i << ": " << flushed.error().message();
    if (screen.plane->poll_events() != 0) must(screen.plane->drain(Screen::soon()));
  }
}

TEST(KmsStream, AStreamAllocatesNothing) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    std::array<Presentation, 64> reports;
    const std::uint64_t before = allocations;
    for (int i = 0; i < 70; ++i) {
      must(screen.stream());
      (void)screen.plane->take_presented(reports);
    }
    EXPECT_EQ(allocations, before) << driver;
  }
}

TEST(KmsStream, ABufferThatWasNotImportedIsRefusedAndNothingIsImported) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  const auto foreign = must(screen.device->allocator()->allocate({.size = {1024, 768}, .format = formats::xrgb8888}));
  const auto holds = must(HoldSet::create(foreign));
  const CountCalls calls;
  EXPECT_TRUE(fails_with(screen.plane->accept(must(holds->lend(0, {}))), EINVAL));
  EXPECT_TRUE(fails_with(screen.plane->accept(Frame()), EINVAL));
  EXPECT_EQ(calls.calls(), 0U);
  EXPECT_EQ(holds->lent(), 0U);
}

TEST(KmsStream, ARefusedCommitIsReportedAndTheFrameLetGo) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  must(screen.plane->accept(screen.next())).release();
  {
    const FailNth failure(1, ENOSPC, "ioctl", DRM_IOCTL_MODE_ATOMIC);
    const auto flushed = screen.plane->flush();
    ASSERT_TRUE(fails_with(flushed, ENOSPC));
    EXPECT_EQ(flushed.error().operation(), "DRM_IOCTL_MODE_ATOMIC");
  }
  EXPECT_EQ(screen.holds->lent(), 1U) << "only what is on the screen";
  EXPECT_TRUE(screen.show()) << "the next one works";
}

TEST(KmsStream, DrainGivesUpAtItsDeadline) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  Recorder calls;
  calls.fail = [](const Recorder::Entry& entry) { return entry.request == DRM_IOCTL_MODE_ATOMIC ? EBUSY : 0; };
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  EXPECT_TRUE(screen.plane->wake_by()) << "no flip of ours is awaited, so no event would ever come";
  EXPECT_TRUE(fails_with(screen.plane->drain(Deadline::immediate()), ETIMEDOUT));
  calls.fail = nullptr;
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->drain(Screen::soon()));
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  EXPECT_TRUE(fails_with(screen.plane->drain(Deadline::immediate()), ETIMEDOUT));
  EXPECT_TRUE(screen.plane->drain(Screen::soon()));
}

TEST(KmsStream, ASlowSourceIsToldOfItsFlipsAtOnce) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  screen.sequence += 50;  // half a second later
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  EXPECT_EQ(screen.plane->poll_events(), POLLIN);
  must(screen.stream());
}

TEST(KmsStream, EveryFailingCallLeavesNothingBehind) {
  for (const std::string& driver : displays()) {
    for (std::size_t n = 1;; ++n) {
      ASSERT_LT(n, 2000U);
      const LeakCheck leaks;
      bool is_over = false;
      {
        auto screen = must(Screen::open(driver, {1024, 768}, {}, 4));
        const FailNth failure(n, EIO);
        bool worked = true;
        for (int i = 0; i < 4; ++i) {
          Frame frame = screen.next();
          if (!frame) break;
          auto displaced = screen.plane->accept(std::move(frame));
          worked = worked && displaced && screen.plane->flush();
        }
        worked = worked && screen.plane->drain(Screen::soon()) && screen.plane->stop();
        is_over = !failure.fired();
        EXPECT_TRUE(worked || !is_over);
        (void)screen.plane->stop();
        EXPECT_EQ(screen.holds->lent(), 0U) << driver << " call " << n;
      }
      if (is_over) break;
    }
  }
}

TEST(KmsFence, AFrameIsNotShownBeforeItsFenceSignals) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    (void)take_all(*screen.plane);
    SwSync timeline;
    Frame frame = must(screen.holds->lend(screen.free.back(), {.sequence = 100}, timeline.fence(1)));
    screen.free.pop_back();
    must(screen.plane->accept(std::move(frame))).release();
    must(screen.plane->flush());
    EXPECT_TRUE(fails_with(screen.plane->drain(Deadline::after(std::chrono::milliseconds(100))), ETIMEDOUT)) << driver;
    EXPECT_TRUE(take_all(*screen.plane).empty());
    timeline.advance(1);
    EXPECT_TRUE(screen.plane->drain(Screen::soon()));
    const auto shown = take_all(*screen.plane);
    ASSERT_EQ(shown.size(), 1U);
    EXPECT_EQ(shown[0].sequence, 100U);
  }
}

TEST(KmsPause, WithoutMastershipFramesAreReplacedAndAfterwardsTheNewestIsShown) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    must(screen.show());
    ASSERT_EQ(ioctl(screen.device->fd(), DRM_IOCTL_DROP_MASTER, 0), 0);  // as a VT switch does
    for (int i = 0; i < 20; ++i) {
      must(screen.plane->accept(screen.next())).release();
      EXPECT_TRUE(screen.plane->flush()) << "no error: the frames wait";
    }
    EXPECT_TRUE(screen.output->paused());
    EXPECT_EQ(screen.plane->poll_events(), 0);
    EXPECT_LE(screen.holds->lent(), 2U);
    const std::uint64_t before = screen.output->commits();
    must(screen.device->resume());
    must(screen.plane->drain(Screen::soon()));
    EXPECT_FALSE(screen.output->paused());
    EXPECT_EQ(screen.output->commits(), before + 1);
    EXPECT_EQ(take_all(*screen.plane).back().sequence, screen.sequence) << driver;
    EXPECT_TRUE(screen.stream());
  }
}

TEST(KmsPause, WhatAnotherMasterLeftIsOverwrittenByResume) {
  const std::string path = card_path("vkms");
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  must(screen.device->pause());
  {
    auto other = must(Screen::open("vkms", {800, 600}));
    must(other.show());
    EXPECT_TRUE(fails_with(screen.device->resume(), EBUSY)) << "still another's";
  }
  must(screen.device->resume());  // nothing new was accepted, so the old frame is shown again
  must(screen.plane->drain(Screen::soon()));
  drm_mode_crtc crtc{};
  crtc.crtc_id = screen.output->crtc_id();
  ASSERT_EQ(ioctl(screen.device->fd(), DRM_IOCTL_MODE_GETCRTC, &crtc), 0);
  EXPECT_EQ(crtc.mode_valid, 1U);
  EXPECT_EQ(crtc.mode.hdisplay, 1024);
  EXPECT_TRUE(screen.stream());
}

TEST(KmsRestore, StopPutsBackWhatWasThereBefore) {
  for (const std::string& driver : displays()) {
    auto before = must(Screen::open(driver, {800, 600}));  // the previous user of the screen
    must(before.show());
    const Shown was = read_crtc(before.device->fd(), before.output->crtc_id());
    EXPECT_EQ(was.width, 800U);
    must(before.device->pause());
    for (const bool by_destructor : {false, true}) {
      {
        auto screen = must(Screen::open(driver, {1024, 768}));
        for (int i = 0; i < 3; ++i) must(screen.stream());
        EXPECT_EQ(read_crtc(screen.device->fd(), screen.output->crtc_id()).width, 1024U);
        if (!by_destructor) {
          must(screen.plane->stop());
          EXPECT_EQ(read_crtc(screen.device->fd(), screen.output->crtc_id()), was) << driver;
          EXPECT_EQ(screen.holds->lent(), 0U);
          must(screen.plane->stop());
          EXPECT_TRUE(screen.show()) << "it can go on after a stop";
        }
      }
      EXPECT_EQ(read_crtc(before.device->fd(), before.output->crtc_id()), was) << driver << by_destructor;
    }
    must(before.device->resume());
  }
}

TEST(KmsRestore, AScreenThatWasOffIsOffAgain) {
  for (const std::string& driver : displays()) {
    const std::string path = card_path(driver);
    std::uint32_t crtc = 0;
    {
      auto screen = must(Screen::open(driver, {1024, 768}));
      must(screen.show());
      crtc = screen.output->crtc_id();
    }
    const Fd look = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(read_crtc(look.get(), crtc), Shown{}) << driver;
  }
}

TEST(KmsRestore, WhatIsGoneIsNotPutBackAndTheScreenIsOff) {
  const std::string path = card_path("vkms");
  auto before = std::make_unique<Screen>(must(Screen::open("vkms", {800, 600})));
  must(before->show());
  must(before->device->pause());
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  before.reset();  // its framebuffers are destroyed with it, once no earlier state refers to them
  for (int i = 0; i < 3; ++i) must(screen.show());
  EXPECT_TRUE(screen.plane->stop());
  EXPECT_EQ(read_crtc(screen.device->fd(), screen.output->crtc_id()), Shown{});
}

TEST(KmsPlanes, SeveralPlanesGoInOneCommit) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  auto overlay = must(Screen::on(*screen.output, {320, 240}, {.position = Rect{100, 50, 320, 240}}));
  auto second = must(Screen::on(*screen.output, {320, 240}, {.position = Rect{600, 450, 320, 240}}));
  EXPECT_NE(overlay.plane->plane_id(), screen.plane->plane_id());
  EXPECT_NE(overlay.plane->plane_id(), second.plane->plane_id());
  EXPECT_EQ(screen.output->mode()->size, (Size{1024, 768})) << "the first plane's mode stays";
  for (int i = 0; i < 5; ++i) {
    for (Screen* one : {&screen, &overlay, &second}) must(one->plane->accept(one->next())).release();
    Recorder calls;
    must(second.plane->flush());
    must(overlay.plane->flush());
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_ATOMIC), 1U);
    for (const std::uint32_t id : {screen.plane->plane_id(), overlay.plane->plane_id(), second.plane->plane_id()}) {
      const auto& objects = calls.entries()[0].objects;
      EXPECT_NE(std::find(objects.begin(), objects.end(), id), objects.end());
    }
    must(screen.plane->drain(Screen::soon()));
    for (Screen* one : {&screen, &overlay, &second}) EXPECT_EQ(take_all(*one->plane).size(), 1U);
  }
  must(overlay.plane->stop());
  EXPECT_EQ(overlay.holds->lent(), 0U);
  EXPECT_EQ(read_crtc(screen.device->fd(), screen.output->crtc_id()).width, 1024U) << "the others go on";
  EXPECT_TRUE(screen.show());
}

TEST(KmsPlanes, PlanesOfOneOutputAreFedAtTheirOwnPace) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  auto overlay = must(Screen::on(*screen.output, {320, 240}, {.position = Rect{100, 50, 320, 240}}));
  for (int i = 0; i < 12; ++i) {
    if (i % 4 == 0) must(overlay.stream());
    must(screen.stream());
  }
  must(screen.plane->drain(Screen::soon()));
  EXPECT_EQ(take_all(*overlay.plane).size(), 3U);
  EXPECT_EQ(overlay.holds->lent(), 1U) << "its last frame stays on the screen";
  EXPECT_EQ(take_all(*screen.plane).back().sequence, 12U);
}

TEST(KmsReconfigure, AStreamOfAnotherSizeFollowsWithoutAStopAndOldFramesStayHeld) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  auto old_holds = screen.holds;
  must(screen.plane->set_input(stream_of({800, 600})));
  EXPECT_EQ(old_holds->lent(), 1U) << "it is still on the screen";
  screen.buffers =
      must(screen.device->allocator()->allocate({.size = {800, 600}, .format = formats::xrgb8888, .count = 4}));
  must(screen.plane->start(screen.buffers));
  screen.holds = must(HoldSet::create(screen.buffers));
  screen.free = {3, 2, 1, 0};
  must(screen.show());
  EXPECT_EQ(old_holds->lent(), 0U);
  EXPECT_EQ(read_crtc(screen.device->fd(), screen.output->crtc_id()).width, 800U);
  must(screen.plane->stop());
  EXPECT_EQ(read_crtc(screen.device->fd(), screen.output->crtc_id()), Shown{}) << "back to before the first stream";
}

}  // namespace
