// What a viewer sees, read from outside the machine: proof by no code of ours that a frame arrived on the screen.
#include "kms_support.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/kms.hpp>

#include <cstdio>
#include <filesystem>

#include <sys/mman.h>
#include <unistd.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

/// Four quarters of different colours, so that turned, moved or half-drawn pictures are seen.
void paint(const Buffer& buffer, const std::array<std::uint32_t, 4>& colours) {
  const Layout& layout = buffer.layout();
  const std::uint64_t size = buffer.size(0);
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, buffer.fd(0), 0);
  ASSERT_NE(memory, MAP_FAILED);
  for (std::uint32_t y = 0; y < layout.size.height; ++y) {
    auto* row =
        reinterpret_cast<std::uint32_t*>(static_cast<std::byte*>(memory) + std::size_t{y} * layout.planes[0].stride);
    for (std::uint32_t x = 0; x < layout.size.width; ++x) {
      row[x] = colours[(y >= layout.size.height / 2 ? 2U : 0U) + (x >= layout.size.width / 2 ? 1U : 0U)];
    }
  }
  ::munmap(memory, size);
}

/// The screenshot's size and some of its pixels, one a line.
std::string look(const std::string& display, const std::string& points) {
  const auto directory = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  const auto shots = directory / "build";
  std::filesystem::create_directories(shots);
  const std::string file = (shots / ("kms-screen-" + display + "-" + std::to_string(getpid()) + ".png")).string();
  const std::string script = (directory / "tests/support/png_pixels.py").string();
  const std::string command =
      "lab-screenshot '" + file + "' " + display + " && python3 '" + script + "' '" + file + "' " + points + " 2>&1";
  std::string result;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return "no shell";
  std::array<char, 256> some;
  while (const std::size_t count = std::fread(some.data(), 1, some.size(), pipe)) result.append(some.data(), count);
  ::pclose(pipe);
  std::filesystem::remove(file);
  return result;
}

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
