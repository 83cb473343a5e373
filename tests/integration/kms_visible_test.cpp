// Frames whose image is only a part of the buffer (FrameInfo::visible), and what the screen then shows.
#include "kms_support.hpp"
#include "screen_support.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/kms.hpp>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

constexpr Size size{1024, 768};
constexpr Rect whole{0, 0, 1024, 768};
constexpr Rect upper_right{512, 0, 512, 384};
constexpr std::uint32_t red = 0xff0000, green = 0x00ff00, blue = 0x0000ff, white = 0xffffff, black = 0;
constexpr std::array<std::uint32_t, 4> colours{red, green, blue, white};

/// Accepts and shows a frame with this visible part, and returns the number of atomic ioctls that this took.
std::size_t show(Screen& screen, const Rect& visible) {
  Frame frame = screen.next();
  paint(frame.buffer(), colours);
  FrameInfo info = frame.info();
  info.visible = visible;
  must(frame.set_info(info));
  Recorder calls;
  must(screen.plane->accept(std::move(frame))).release();
  must(screen.plane->flush());
  const std::size_t asked = calls.count(DRM_IOCTL_MODE_ATOMIC);
  must(screen.plane->drain(Screen::soon()));
  return asked;
}

class Captured {
 public:
  explicit Captured(Screen& screen) {
    const Buffer target =
        must(screen.plane->input_allocator()->allocate({.size = size, .format = formats::xrgb8888})).front();
    must(must(screen.output->capture(target)).wait(Screen::soon()));
    stride_ = target.layout().planes[0].stride;
    auto access = must(CpuAccess::begin(target, CpuAccess::Mode::read, Screen::soon()));
    const auto bytes = access.object(0);
    bytes_.assign(bytes.begin(), bytes.end());
  }
  [[nodiscard]] std::uint32_t at(std::size_t x, std::size_t y) const {
    std::uint32_t pixel = 0;
    std::memcpy(&pixel, &bytes_[y * stride_ + 4 * x], sizeof pixel);
    return pixel & 0xffffffU;
  }

 private:
  std::vector<std::byte> bytes_;
  std::size_t stride_ = 0;
};

/// Vkms's writeback connector: returns the composed picture, pixel for pixel.
struct Composed {
  std::unique_ptr<kms::Device> device = must(kms::Device::open(card_path("vkms")));
  kms::Output* output = must(device->output({.connector = "Writeback-1", .mode = size}));
};

TEST(KmsVisible, OnlyTheVisiblePartIsShownInTheMiddleAndFollowsTheFrames) {
  const Composed on;
  auto screen = must(Screen::on(*on.output, size));
  EXPECT_EQ(show(screen, whole), 1U);
  EXPECT_EQ(Captured(screen).at(0, 0), red);

  EXPECT_EQ(show(screen, upper_right), 2U) << "asked first, then shown";
  const Captured part(screen);
  EXPECT_EQ(screen.plane->position(), (Rect{256, 192, 512, 384}));
  EXPECT_EQ(part.at(255, 300), black);
  EXPECT_EQ(part.at(500, 191), black);
  EXPECT_EQ(part.at(256, 192), green);
  EXPECT_EQ(part.at(767, 575), green);
  EXPECT_EQ(part.at(768, 575), black);
  EXPECT_EQ(part.at(767, 576), black);

  EXPECT_EQ(show(screen, upper_right), 1U) << "as before: nothing is asked";
  EXPECT_EQ(Captured(screen).at(400, 300), green);

  EXPECT_EQ(show(screen, whole), 1U);
  const Captured again(screen);
  EXPECT_EQ(again.at(0, 0), red);
  EXPECT_EQ(again.at(1023, 0), green);
  EXPECT_EQ(again.at(0, 767), blue);
  EXPECT_EQ(again.at(1023, 767), white);
}

TEST(KmsVisible, AFrameThatSaysNothingOrNonsenseIsShownWhole) {
  const Composed on;
  auto screen = must(Screen::on(*on.output, size));
  for (const Rect visible : {Rect{}, Rect{512, 0, 513, 384}, Rect{-1, 0, 512, 384}, Rect{0, 0, 0, 384}}) {
    show(screen, upper_right);
    EXPECT_EQ(show(screen, visible), 1U);
    EXPECT_EQ(screen.plane->position(), whole);
    EXPECT_EQ(Captured(screen).at(0, 0), red);
  }
}

TEST(KmsVisible, WhatTheUserChoseStays) {
  const Composed on;
  auto screen = must(Screen::on(*on.output, size, {.source = Rect{0, 384, 512, 384}}));
  show(screen, upper_right);
  EXPECT_EQ(Captured(screen).at(512, 384), blue);
}

// virtio-gpu's only plane must cover the screen, and cannot scale.
TEST(KmsVisible, ADisplayThatCannotShowAPartShowsAllAndIsAskedOnce) {
  auto screen = must(Screen::open("virtio_gpu", size));
  show(screen, whole);
  EXPECT_GT(show(screen, upper_right), 1U);
  const bool can = screen.plane->position() != whole;
  observe("virtio_gpu shows a part of a frame", can, "docs/kms.md");
  if (can) GTEST_SKIP() << "this virtio_gpu can show a part, and the other displays can too";
  EXPECT_EQ(show(screen, upper_right), 1U);
  EXPECT_EQ(look("virtio", "100,100 900,100 100,700 900,700"), "1024x768\nff0000\n00ff00\n0000ff\nffffff\n");
}

}  // namespace
