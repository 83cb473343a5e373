// Displays that never finish: every call ends by its deadline, and the program can always be ended.
//
// Whatever might hang runs in a child process. The fences belong to the parent, which signals them in any case, so that
// the machine is as before afterwards.
#include "fence_support.hpp"
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <optional>
#include <thread>

#include <linux/vt.h>
#include <sys/wait.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

/// Far more than all the deadlines inside together, also on a slow machine.
constexpr seconds patience{40};

/// In the child: prints the checks that failed, and continues.
class Checks {
 public:
  void that(bool is_so, const char* what) {
    if (is_so) return;
    ++failed_;
    std::fprintf(stderr, "not so: %s\n", what);
  }
  [[nodiscard]] int status() const { return failed_ == 0 ? 0 : 1; }

 private:
  int failed_ = 0;
};

bool has_ended(pid_t child, seconds within, int& status) {
  const auto until = Clock::now() + within;
  while (true) {
    if (waitpid(child, &status, WNOHANG) == child) return true;
    if (Clock::now() > until) return false;
    std::this_thread::sleep_for(milliseconds(20));
  }
}

/// The kernel is asked to wait for fences only if it can release framebuffers.
const std::vector<std::string>& displays_that_hang() {
  static const bool can = has_closefb("vkms");
  static const std::vector<std::string> none;
  observe("the kernel has DRM_IOCTL_MODE_CLOSEFB", can, "docs/kms.md");
  return can ? displays() : none;
}

/// If a flip did not end, a screen stays as it is. Here all are turned off, for the tests that follow.
void turn_screens_off() {
  for (const std::string& driver : displays()) {
    const Fd card = Fd::adopt(::open(card_path(driver).c_str(), O_RDWR | O_CLOEXEC));
    std::array<std::uint32_t, 16> crtcs{};
    drm_mode_card_res resources{};
    resources.crtc_id_ptr = reinterpret_cast<std::uintptr_t>(crtcs.data());
    resources.count_crtcs = crtcs.size();
    EXPECT_EQ(::ioctl(card.get(), DRM_IOCTL_MODE_GETRESOURCES, &resources), 0);
    for (std::uint32_t i = 0; i < resources.count_crtcs; ++i) {
      drm_mode_crtc off{};
      off.crtc_id = crtcs.at(i);
      EXPECT_EQ(::ioctl(card.get(), DRM_IOCTL_MODE_SETCRTC, &off), 0) << driver;
    }
  }
}

/// Runs @p work in a child process, which must end by itself, or else by SIGKILL; then signals @p timeline's fences.
void expect_the_program_ends(SwSync& timeline, const std::string& name, const std::function<void(Checks&)>& work) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Checks checks;
    work(checks);
    _exit(checks.status());
  }
  int status = -1;
  bool ended = has_ended(child, patience, status);
  EXPECT_TRUE(ended) << name << ": it does not end by itself";
  if (!ended) {
    kill(child, SIGKILL);
    ended = has_ended(child, seconds(10), status);
    EXPECT_TRUE(ended) << name << ": not even SIGKILL ends it";
  } else {
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << name << ": status " << status;
  }
  timeline.advance(1000);
  if (!ended) waitpid(child, &status, 0);
  turn_screens_off();
}

/// Another open file of the card, as a session manager has one. It keeps the kernel from restoring its console when the
/// child closes the card.
Fd held_open(const std::string& driver) {
  Fd fd = Fd::adopt(::open(card_path(driver).c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(fd);
  ::ioctl(fd.get(), DRM_IOCTL_DROP_MASTER, 0);
  return fd;
}

Frame frame_of(Screen& screen, Fence ready) {
  Frame frame = screen.next();
  if (frame) (void)frame.set_info(frame.info(), std::move(ready));
  return frame;
}

constexpr kms::PlaneOptions in_kernel = {.fences_in_kernel = true};

/// Commits a frame whose fence the kernel waits for: a flip that does not end.
bool hang(Screen& screen, Fence never) {
  if (!screen.plane->accept(frame_of(screen, std::move(never))) || !screen.plane->flush()) return false;
  return fails_with(screen.plane->drain(Deadline::after(milliseconds(300))), ETIMEDOUT) &&
         screen.plane->waiting_fence() < 0;
}

Result<Screen> lit(const std::string& driver, const kms::PlaneOptions& options = {}) {
  auto screen = Screen::open(driver, {1024, 768}, options);
  if (!screen) return screen;
  if (auto shown = screen->show(); !shown) return std::unexpected(shown.error());
  return screen;
}

/// A screen with a flip that does not end; nullopt if that failed, which is recorded.
std::optional<Screen> hung(Checks& so, Result<Screen> screen, SwSync& timeline) {
  so.that(screen.has_value(), screen ? "a screen" : screen.error().message().c_str());
  if (!screen) return std::nullopt;
  const bool hangs = hang(*screen, timeline.fence(1));
  so.that(hangs, "a flip that does not end");
  if (!hangs) return std::nullopt;
  return std::move(*screen);
}

template <typename Work>
seconds time_of(Work&& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration_cast<seconds>(Clock::now() - begin);
}

TEST(KmsHang, AProgramWhoseFenceNeverSignalsStopsAndEnds) {
  for (const std::string& driver : displays()) {
    SwSync timeline;
    expect_the_program_ends(timeline, driver, [&](Checks& so) {
      auto screen = lit(driver);
      so.that(screen.has_value(), screen ? "a screen" : screen.error().message().c_str());
      if (!screen) return;
      so.that(screen->plane->accept(frame_of(*screen, timeline.fence(1))).has_value(), "the frame is accepted");
      so.that(screen->plane->flush().has_value(), "flush() does not wait");
      so.that(fails_with(screen->plane->drain(Deadline::after(milliseconds(200))), ETIMEDOUT), "drain() times out");
      so.that(time_of([&] { (void)screen->plane->stop(); }) < seconds(10), "stop() has a deadline");
    });
  }
}

TEST(KmsHang, NorDoesItNeedToStop) {
  for (const std::string& driver : displays()) {
    SwSync timeline;
    expect_the_program_ends(timeline, driver, [&](Checks& so) {
      auto screen = lit(driver);
      so.that(screen.has_value(), screen ? "a screen" : screen.error().message().c_str());
      if (!screen) return;
      (void)screen->plane->accept(frame_of(*screen, timeline.fence(1)));
      (void)screen->plane->flush();
    });
    SwSync other;
    expect_the_program_ends(other, driver + ", without destructors", [&](Checks&) {
      auto screen = lit(driver);
      if (!screen) return;
      (void)screen->plane->accept(frame_of(*screen, other.fence(1)));
      (void)screen->plane->flush();
      _exit(0);
    });
  }
}

TEST(KmsHang, AFlipThatNeverEndsIsOneClearErrorAndTheProgramEnds) {
  for (const std::string& driver : displays_that_hang()) {
    const Fd other = held_open(driver);
    SwSync timeline;
    expect_the_program_ends(timeline, driver, [&](Checks& so) {
      auto screen = hung(so, lit(driver, in_kernel), timeline);
      if (!screen) return;
      Result<void> stopped;
      so.that(time_of([&] { stopped = screen->plane->stop(); }) < seconds(15), "stop() has a deadline");
      so.that(fails_with(stopped, ETIMEDOUT), "stop() says that it timed out");
      if (!stopped) {
        const std::string message = stopped.error().message();
        so.that(message.find("the screen is left as it is") != std::string::npos, message.c_str());
      }
      so.that(screen->holds->lent() == 2, "what is on the screen and what is under way stay held");
      const auto holds = screen->holds;
      so.that(time_of([&] { screen->device.reset(); }) < seconds(15), "the destructors have deadlines");
      so.that(holds->lent() == 0, "nothing is held without a device");
    });
  }
}

TEST(KmsHang, WhenTheFlipEndsAfterAllEverythingGoesOn) {
  for (const std::string& driver : displays_that_hang()) {
    const Fd other = held_open(driver);
    SwSync timeline;
    expect_the_program_ends(timeline, driver, [&](Checks& so) {
      auto screen = hung(so, lit(driver, in_kernel), timeline);
      if (!screen) return;
      so.that(fails_with(screen->plane->stop(), ETIMEDOUT), "stop() times out");
      so.that(screen->plane->accept(screen->next()).has_value(), "a frame more");
      so.that(screen->plane->flush().has_value(), "it waits its turn");
      timeline.advance();
      so.that(screen->plane->drain(Screen::soon()).has_value(), "it is shown");
      so.that(screen->show().has_value(), "and another");
      so.that(screen->plane->stop().has_value(), "stop() succeeds");
      so.that(screen->holds->lent() == 0, "nothing is held");
      so.that(screen->show().has_value(), "and again from the beginning");
    });
  }
}

TEST(KmsHang, FramesOfAnOutputThatIsGoneStayHeldWhileTheDisplayMayReadThem) {
  for (const std::string& driver : displays_that_hang()) {
    const Fd other = held_open(driver);
    SwSync timeline;
    expect_the_program_ends(timeline, driver, [&](Checks& so) {
      auto screen = hung(so, lit(driver, in_kernel), timeline);
      if (!screen) return;
      screen->device->remove(screen->output);
      so.that(screen->holds->lent() == 2, "both are held");
      so.that(screen->device->poll_events() == POLLIN, "the device asks for the flip");
      timeline.advance();
      const int ready = sys::wait(screen->device->poll_fd(), POLLIN, Screen::soon());
      so.that(ready > 0 && screen->device->dispatch(static_cast<short>(ready)).has_value(), "the flip ends");
      so.that(screen->holds->lent() == 1, "the one that was replaced is let go");
      screen->device.reset();
      so.that(screen->holds->lent() == 0, "with the device, all");
    });
  }
}

TEST(KmsHang, WritingTheScreenBackHasADeadline) {
  if (displays_that_hang().empty()) return;
  const Fd other = held_open("vkms");
  SwSync timeline;
  expect_the_program_ends(timeline, "vkms", [&](Checks& so) {
    auto device = kms::Device::open(card_path("vkms"));
    so.that(device.has_value(), "a device");
    if (!device) return;
    auto monitor = (*device)->output();
    so.that(monitor.has_value(), "a monitor");
    if (!monitor) return;
    const std::uint32_t crtc = (*monitor)->crtc_id();
    (*device)->remove(*monitor);
    auto output = (*device)->output({.connector = "Writeback-1", .mode = Size{1024, 768}, .crtc_id = crtc});
    auto screen =
        output ? Screen::on(**output, {1024, 768}, in_kernel) : Result<Screen>(std::unexpected(output.error()));
    so.that(screen.has_value(), screen ? "a screen" : screen.error().message().c_str());
    if (!screen || !screen->show()) return;
    const bool hangs = hang(*screen, timeline.fence(1));
    so.that(hangs, "a flip that does not end");
    if (!hangs) return;
    auto target = screen->plane->input_allocator()->allocate({.size = {1024, 768}, .format = formats::xrgb8888});
    so.that(target.has_value(), "a target");
    if (!target) return;
    so.that(fails_with(screen->output->capture(target->front()), ETIMEDOUT), "capture() times out");
  });
}

TEST(KmsHang, AnotherProgramsFlipThatNeverEndsIsOneClearErrorToo) {
  for (const std::string& driver : displays_that_hang()) {
    const Fd other = held_open(driver);
    SwSync timeline;
    expect_the_program_ends(timeline, driver, [&](Checks& so) {
      auto first = hung(so, lit(driver, in_kernel), timeline);
      if (!first) return;
      so.that(first->device->pause().has_value(), "mastership is given away");
      auto second = Screen::open(driver, {1024, 768}, {.may_show_to_try = false});
      so.that(second.has_value(), "another program's screen");
      if (!second) return;
      so.that(second->plane->accept(second->next()).has_value(), "a frame");
      so.that(second->plane->flush().has_value(), "the loop goes on");
      so.that(second->plane->wake_by().has_value(), "it is tried again");
      so.that(fails_with(second->plane->drain(Deadline::after(milliseconds(200))), ETIMEDOUT), "drain() times out");
      Result<void> served;
      const auto until = Clock::now() + seconds(20);
      while (served && second->plane->wake_by() && Clock::now() < until) {
        sys::wait(std::span<pollfd>{}, *second->plane->wake_by());
        served = second->plane->dispatch(0);
      }
      so.that(fails_with(served, ETIMEDOUT), "in the end it is an error");
      so.that(second->holds->lent() == 0 && second->plane->dropped() == 1, "the frame is let go");
      timeline.advance();
      so.that(second->show().has_value(), "once the other's flip has ended, frames are shown");
      so.that(second->plane->stop().has_value(), "and the screen is put back");
    });
  }
}

TEST(KmsHang, AwayToAnotherVtWhileAFlipHangs) {
  if (displays_that_hang().empty()) return;
  if (!in_lab()) GTEST_SKIP() << "switches VTs";
  const Fd console = Fd::adopt(::open("/dev/tty0", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(console);
  ASSERT_EQ(::ioctl(console.get(), VT_ACTIVATE, 5), 0);
  ASSERT_EQ(::ioctl(console.get(), VT_WAITACTIVE, 5), 0);
  const Fd other = held_open("vkms");
  SwSync timeline;
  expect_the_program_ends(timeline, "vkms", [&](Checks& so) {
    auto screen = lit("vkms", in_kernel);
    so.that(screen.has_value(), screen ? "a screen" : screen.error().message().c_str());
    if (!screen) return;
    auto vt = kms::VtSwitch::open(*screen->device, "/dev/tty5");
    so.that(vt.has_value(), "a VT");
    if (!vt) return;
    const bool hangs = hang(*screen, timeline.fence(1));
    so.that(hangs, "a flip that does not end");
    if (!hangs) return;
    so.that(::ioctl(console.get(), VT_ACTIVATE, 6) == 0, "the user goes");
    so.that(sys::wait((*vt)->poll_fd(), POLLIN, Screen::soon()) > 0, "the kernel asks");
    so.that(time_of([&] { (void)(*vt)->dispatch(POLLIN); }) < seconds(10), "the answer has a deadline");
    vt_stat state{};
    so.that(::ioctl(console.get(), VT_GETSTATE, &state) == 0 && state.v_active == 6, "the other VT is there");
    so.that(screen->plane->is_waiting(), "the plane waits for its VT");
    so.that(time_of([&] { (void)screen->plane->stop(); }) < seconds(10), "stop() has a deadline");
  });
  ASSERT_EQ(::ioctl(console.get(), VT_ACTIVATE, 1), 0);
}

// ---- at the seam: behaviour that no kernel here shows ----

bool commits(const Recorder::Entry& entry) {
  return entry.request == DRM_IOCTL_MODE_ATOMIC && (entry.value & DRM_MODE_ATOMIC_TEST_ONLY) == 0;
}

TEST(KmsHang, NoCommitIsABlockingOne) {
  for (const std::string& driver : displays()) {
    Recorder calls;
    {
      auto screen = must(lit(driver));
      must(screen.show());
      const auto formats = screen.output->capture_formats();
      if (!formats.empty()) {
        const Buffer target =
            must(screen.plane->input_allocator()->allocate({.size = {1024, 768}, .format = formats::xrgb8888})).front();
        if (auto written = screen.output->capture(target)) must(written->wait(Screen::soon()));
      }
      must(screen.device->pause());
      must(screen.device->resume());
      must(screen.show());
      must(screen.plane->stop());
      must(screen.show());
    }
    for (const Recorder::Entry& entry : calls.entries()) {
      if (!commits(entry)) continue;
      EXPECT_NE(entry.value & DRM_MODE_ATOMIC_NONBLOCK, 0U) << driver;
    }
  }
}

TEST(KmsHang, WhereTheKernelCannotLetGoOfAFramebufferFencesAreWaitedForHere) {
  for (const std::string& driver : displays()) {
    Recorder old;
    old.fail = [](const Recorder::Entry& entry) { return entry.request == ioctl_closefb ? EINVAL : 0; };
    auto screen = must(lit(driver));
    SwSync work;
    const auto before = screen.output->commits();
    must(screen.plane->accept(frame_of(screen, work.fence(1)))).release();
    must(screen.plane->flush());
    EXPECT_EQ(screen.output->commits(), before) << driver;
    EXPECT_GE(screen.plane->waiting_fence(), 0) << driver;
    must(screen.plane->stop());
    EXPECT_EQ(screen.plane->dropped(), 1U);
    EXPECT_EQ(screen.holds->lent(), 0U);
    screen.buffers.clear();
    screen.device.reset();
    EXPECT_EQ(old.count(DRM_IOCTL_MODE_RMFB), old.count(DRM_IOCTL_MODE_ADDFB2)) << driver;
  }
}

TEST(KmsHang, ADisplayThatIsAlwaysBusyIsAnErrorAtTheDeadline) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  Recorder busy;
  busy.fail = [](const Recorder::Entry& entry) { return commits(entry) ? EBUSY : 0; };
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  EXPECT_TRUE(fails_with(screen.plane->drain(Deadline::after(milliseconds(100))), ETIMEDOUT));
  const auto first = screen.plane->wake_by();
  ASSERT_TRUE(first);
  sys::wait(std::span<pollfd>{}, *first);
  must(screen.plane->dispatch(0));
  EXPECT_GT(screen.plane->wake_by()->time(), first->time()) << "else the loop would spin";
  EXPECT_TRUE(fails_with(screen.plane->drain(Screen::soon()), ETIMEDOUT));
  EXPECT_EQ(screen.holds->lent(), 0U);
  busy.fail = nullptr;
  must(screen.show());
  busy.fail = [](const Recorder::Entry& entry) { return commits(entry) ? EBUSY : 0; };
  EXPECT_TRUE(fails_with(screen.plane->stop(), ETIMEDOUT));
  EXPECT_EQ(screen.holds->lent(), 1U) << "it is on the screen";
  busy.fail = nullptr;
  must(screen.plane->stop());
  EXPECT_EQ(screen.holds->lent(), 0U);
}

// ---- what a plane reports to the pipeline ----

TEST(KmsPlane, SaysWhatItNeedsOfBuffers) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    drm_mode_create_dumb dumb{};
    dumb.width = dumb.height = 1;
    dumb.bpp = 32;
    ASSERT_EQ(::ioctl(screen.device->fd(), DRM_IOCTL_MODE_CREATE_DUMB, &dumb), 0);
    drm_mode_destroy_dumb destroy{.handle = dumb.handle};
    ASSERT_EQ(::ioctl(screen.device->fd(), DRM_IOCTL_MODE_DESTROY_DUMB, &destroy), 0);
    const Needs needs = screen.plane->needs();
    EXPECT_TRUE(needs.usage.scanout);
    EXPECT_EQ(needs.constraints.stride_alignment, dumb.pitch > 4 ? dumb.pitch : 0U) << driver;
    for (const Modifier modifier : needs.modifiers) {
      const FormatModifier pair{formats::xrgb8888, modifier};
      const auto all = screen.plane->formats();
      EXPECT_NE(std::ranges::find(all, pair), all.end()) << driver;
    }
    CountCalls calls;
    (void)screen.plane->needs();
    EXPECT_EQ(calls.calls(), 0U) << "found out once";
  }
}

TEST(KmsPlane, WaitsWhileAnotherIsMaster) {
  auto screen = must(lit("vkms"));
  EXPECT_FALSE(screen.plane->is_waiting());
  must(screen.device->pause());
  EXPECT_TRUE(screen.plane->is_waiting());
  must(screen.device->resume());
  EXPECT_FALSE(screen.plane->is_waiting());
}

TEST(KmsPlane, CountsTheFramesItDropped) {
  auto screen = must(lit("vkms"));
  EXPECT_EQ(screen.plane->dropped(), 0U);
  {
    SwSync work;
    Fence fails = work.fence(1);
    work.fail();
    must(screen.plane->accept(frame_of(screen, std::move(fails)))).release();
    must(screen.plane->flush());
    EXPECT_EQ(screen.plane->dropped(), 1U) << "its fence failed";
  }
  {
    const FailNth refuses(1, EIO, "ioctl", DRM_IOCTL_MODE_ATOMIC);
    must(screen.plane->accept(screen.next())).release();
    EXPECT_TRUE(fails_with(screen.plane->flush(), EIO));
    EXPECT_EQ(screen.plane->dropped(), 2U) << "its commit failed";
  }
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->stop());
  EXPECT_EQ(screen.plane->dropped(), 3U) << "it was never flushed";
}

}  // namespace
