// Whether a device waits for the implicit fences of a buffer depends on its driver, and changes from one kernel to the
// next (virtio-gpu began to within Debian's 6.12). So it is observed here, not asserted; docs/synchronization.md has
// the table. kms_fence_test.cpp asserts that dmaflow waits if a driver does not. Runs in the lab.
#include "fence_support.hpp"
#include "kms_support.hpp"
#include "v4l2_support.hpp"

#include <dmaflow/implicit_fences.hpp>

#include <atomic>
#include <thread>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;
using namespace std::chrono_literals;

constexpr std::string_view page = "docs/synchronization.md";

/// How a display treats a buffer on which an implicit fence of this kind is pending.
std::string what_happens(const std::string& driver, Access going_on) {
  auto screen = must(Screen::open(driver, {1024, 768}));
  must(screen.show());
  SwSync device;
  for (const Buffer& buffer : screen.buffers) EXPECT_TRUE(import_fence(buffer, device.fence(1), going_on));
  std::atomic<bool> has_ended{false};
  std::thread work([&] {  // must end while a commit may be waiting for it
    std::this_thread::sleep_for(1500ms);
    has_ended = true;
    device.advance();
  });
  const auto accepted = screen.plane->accept(screen.next());
  const auto flushed = screen.plane->flush();
  const bool call_waited = has_ended;
  const bool is_shown = bool{screen.plane->drain(Deadline::after(500ms))};
  const bool shown_early = is_shown && !has_ended;
  work.join();
  EXPECT_TRUE(accepted && flushed) << driver;
  EXPECT_TRUE(screen.plane->drain(Screen::soon())) << driver << " shows it in the end";
  return call_waited ? "the commit call waits" : shown_early ? "shows it at once" : "waits";
}

TEST(WhoWaits, WhatDisplaysDoIsObservedAndEachFrameIsShownInTheEnd) {
  for (const std::string& driver : displays()) {
    observe(driver + " with a write pending on the list", what_happens(driver, Access::write), page);
    observe(driver + " with a read pending on the list", what_happens(driver, Access::read), page);
  }
}

TEST(WhoWaits, WhetherV4l2DevicesDoIsObserved) {
  for (const bool multiplanar : {false, true}) {
    auto camera = must(v4l2::Camera::open(vivid(Kind::capture, multiplanar)), "open");
    set_input(*camera, {320, 180}, formats::xrgb8888);
    const auto buffers = heap_buffers(camera->output(), 4);
    SwSync display;
    for (const Buffer& buffer : buffers) ASSERT_TRUE(import_fence(buffer, display.fence(1), Access::read_write));
    must(camera->start(buffers), "start");
    const std::size_t early = capture(*camera, 4).size();
    observe(
        std::string("vivid, ") + (multiplanar ? "multi" : "single") + "-planar, with others' work pending on the list",
        early > 0 ? "writes at once" : "waits", page);
    display.advance();
    EXPECT_EQ(early + capture(*camera, 4 - early).size(), 4U) << "frames come once the others are done";
    must(camera->stop(), "stop");
  }
}

}  // namespace
