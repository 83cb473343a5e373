// Which devices look at the implicit fences of a buffer, and which do not. docs/synchronization.md says what follows
// from that. Runs in the lab.
#include "fence_support.hpp"
#include "kms_support.hpp"
#include "v4l2_support.hpp"

#include <dmaflow/implicit_fences.hpp>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;
using namespace std::chrono_literals;

/// Whether a display shows a buffer while an implicit fence of this kind is pending on it.
bool shows(const std::string& driver, Access going_on) {
  auto screen = must(Screen::open(driver, {1024, 768}));
  must(screen.show());
  SwSync device;
  for (const Buffer& buffer : screen.buffers) EXPECT_TRUE(import_fence(buffer, device.fence(1), going_on));
  must(screen.plane->accept(screen.next())).release();
  must(screen.plane->flush());
  const auto shown = screen.plane->drain(Deadline::after(300ms));
  device.advance();
  must(screen.plane->drain(Screen::soon()));
  return bool{shown};
}

TEST(WhoWaits, DisplaysThatLookAtTheListWaitForWritersAndNotForReaders) {
  EXPECT_FALSE(shows("vkms", Access::write));
  EXPECT_TRUE(shows("vkms", Access::read));
  // 6.12's bochs moves memory, waits for whatever is on the list inside the commit, and after 15 seconds goes on.
  if (is_kernel_6_12()) return;
  EXPECT_FALSE(shows("bochs-drm", Access::write));
  EXPECT_TRUE(shows("bochs-drm", Access::read));
}

TEST(WhoWaits, WhetherADisplayLooksAtTheListDependsOnItsDriverAndOnItsAge) {
  EXPECT_EQ(shows("virtio_gpu", Access::write), is_kernel_6_12());
  EXPECT_TRUE(shows("virtio_gpu", Access::read));
}

TEST(WhoWaits, V4l2DevicesNeverDo) {
  for (const bool multiplanar : {false, true}) {
    auto camera = must(v4l2::Camera::open(vivid(Kind::capture, multiplanar)), "open");
    configure(*camera, {320, 180}, formats::xrgb8888);
    const auto buffers = heap_buffers(camera->output(), 4);
    SwSync display;
    for (const Buffer& buffer : buffers) ASSERT_TRUE(import_fence(buffer, display.fence(1), Access::read_write));
    must(camera->start(buffers), "start");
    EXPECT_EQ(capture(*camera, 4).size(), 4U) << "frames are written into buffers that others still use";
    must(camera->stop(), "stop");
  }
}

}  // namespace
