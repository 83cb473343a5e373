// Real VT switches: away from the program's VT and back.
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

#include <linux/vt.h>
#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

constexpr int our_vt = 5;
constexpr int other_vt = 6;

class KmsVt : public testing::Test {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "switches VTs";
    console = Fd::adopt(::open("/dev/tty0", O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(console);
    activate(our_vt);
    EXPECT_EQ(ioctl(console.get(), VT_WAITACTIVE, our_vt), 0);
  }
  void TearDown() override {
    if (console) activate(1);
  }
  void activate(int vt) const { EXPECT_EQ(ioctl(console.get(), VT_ACTIVATE, vt), 0) << vt; }
  [[nodiscard]] int active() const {
    vt_stat state{};
    EXPECT_EQ(ioctl(console.get(), VT_GETSTATE, &state), 0);
    return state.v_active;
  }
  static void serve(kms::VtSwitch& vt) {
    ASSERT_GT(sys::wait(vt.poll_fd(), vt.poll_events(), Screen::soon()), 0) << "the kernel asked nothing";
    must(vt.dispatch(POLLIN));
  }
  Fd console;
};

TEST_F(KmsVt, SwitchingAwayPausesTheDisplayAndSwitchingBackShowsTheNewestFrame) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    const auto vt = must(kms::VtSwitch::open(*screen.device, "/dev/tty5"));
    must(screen.show());

    activate(other_vt);
    serve(*vt);
    EXPECT_EQ(active(), other_vt);
    EXPECT_TRUE(screen.device->paused());
    for (int i = 0; i < 10; ++i) {
      must(screen.plane->accept(screen.next())).release();
      EXPECT_TRUE(screen.plane->flush()) << "frames keep flowing, and nobody sees them";
    }
    // Another program can be master meanwhile.
    EXPECT_TRUE(Screen::open(driver, {1024, 768})) << driver;

    activate(our_vt);
    serve(*vt);
    EXPECT_EQ(active(), our_vt);
    EXPECT_FALSE(screen.device->paused());
    must(screen.plane->drain(Screen::soon()));
    std::array<Presentation, 64> shown;
    const std::size_t count = screen.plane->take_presented(shown);
    ASSERT_GT(count, 0U);
    EXPECT_EQ(shown[count - 1].sequence, screen.sequence) << driver;
    EXPECT_TRUE(screen.stream());
  }
}

TEST_F(KmsVt, AfterwardsTheKernelSwitchesAlone) {
  const auto screen = must(Screen::open("vkms", {1024, 768}));
  {
    const auto vt = must(kms::VtSwitch::open(*screen.device, "/dev/tty5"));
  }
  activate(other_vt);
  EXPECT_EQ(ioctl(console.get(), VT_WAITACTIVE, other_vt), 0);
  EXPECT_EQ(active(), other_vt);
}

TEST_F(KmsVt, WhatIsNoVtIsRefusedAndNothingIsLost) {
  const auto screen = must(Screen::open("vkms", {1024, 768}));
  const LeakCheck leaks;
  EXPECT_TRUE(fails_with(kms::VtSwitch::open(*screen.device, "/dev/null"), ENOTTY));
  EXPECT_TRUE(fails_with(kms::VtSwitch::open(*screen.device, "/dev/no-such"), ENOENT));
  const auto first = must(kms::VtSwitch::open(*screen.device, "/dev/tty5"));
  EXPECT_TRUE(fails_with(kms::VtSwitch::open(*screen.device, "/dev/tty6"), EBUSY));
}

// Like a session manager: it drops and takes mastership on a copy of the file that it handed out, and sends no message.
TEST(KmsSession, MastershipGivenBackInSilenceIsSeen) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  must(screen.show());
  ASSERT_EQ(ioctl(screen.device->fd(), DRM_IOCTL_DROP_MASTER, 0), 0);
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  ASSERT_TRUE(screen.device->paused());
  ASSERT_TRUE(screen.plane->wake_by());
  must(screen.plane->dispatch(0));
  EXPECT_TRUE(screen.device->paused()) << "it is never taken: somebody else may be about to";
  ASSERT_EQ(ioctl(screen.device->fd(), DRM_IOCTL_SET_MASTER, 0), 0);
  while (screen.device->paused()) {
    const auto by = screen.plane->wake_by();
    ASSERT_TRUE(by);
    sys::wait(std::span<pollfd>{}, *by);
    must(screen.plane->dispatch(0));
  }
  must(screen.plane->drain(Screen::soon()));
  EXPECT_TRUE(screen.stream());
}

}  // namespace
