// What a viewer sees, read from outside the machine without any code of the library: proof that a frame arrived on the
// screen.
#include "kms_support.hpp"
#include "screen_support.hpp"

#include <dmaflow/kms.hpp>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

TEST(KmsScreen, WhatWasCommittedIsWhatIsSeen) {
  for (const auto& [driver, display] : {std::pair{"virtio_gpu", "virtio"}, std::pair{"bochs-drm", "bochs"}}) {
    for (const Size size : {Size{1280, 720}, Size{640, 480}}) {
      auto screen = must(Screen::open(driver, size, {}, 4));
      const std::array<std::array<std::uint32_t, 4>, 2> pictures = {
          {{0xff0000, 0x00ff00, 0x0000ff, 0xffff00}, {0x102030, 0x405060, 0x708090, 0xa0b0c0}}};
      const std::string points = "1,1 " + std::to_string(size.width - 2) + ",1 1," + std::to_string(size.height - 2) +
                                 " " + std::to_string(size.width - 2) + "," + std::to_string(size.height - 2);
      for (std::size_t i = 0; i < (size.width == 640 ? 2U : 1U); ++i) {
        paint(screen.buffers[i], pictures[i]);
        must(screen.show());
        const std::string wanted =
            std::to_string(size.width) + "x" + std::to_string(size.height) +
            (i == 0 ? "\nff0000\n00ff00\n0000ff\nffff00\n" : "\n102030\n405060\n708090\na0b0c0\n");
        EXPECT_EQ(look(display, points), wanted) << driver << " picture " << i;
      }
    }
  }
}

}  // namespace
