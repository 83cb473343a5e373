// Pictures to show, and what a viewer sees of them: read from outside the machine, without any code of the library.
#pragma once

#include "support.hpp"

#include <dmaflow/cpu_access.hpp>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>

#include <unistd.h>

namespace dmaflow::test {

/// Four quadrants of different colours, so that rotated, moved or half-drawn pictures are noticed.
inline void paint(const Buffer& buffer, const std::array<std::uint32_t, 4>& colours) {
  const Layout& layout = buffer.layout();
  const auto access =
      must(CpuAccess::begin(buffer, CpuAccess::Mode::write, Deadline::after(std::chrono::seconds(5))), "CpuAccess");
  const auto bytes = access.writable_object(0);
  for (std::uint32_t y = 0; y < layout.size.height; ++y) {
    std::byte* const row = bytes.data() + layout.planes[0].offset + std::size_t{y} * layout.planes[0].stride;
    for (std::uint32_t x = 0; x < layout.size.width; ++x) {
      const std::uint32_t colour =
          colours[(y >= layout.size.height / 2 ? 2U : 0U) + (x >= layout.size.width / 2 ? 1U : 0U)];
      std::memcpy(row + std::size_t{x} * sizeof colour, &colour, sizeof colour);
    }
  }
}

/// The checkout that this program was built in: __FILE__ may be relative (a compiler cache makes it so).
inline std::filesystem::path checkout() {
  auto directory = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  while (directory.has_relative_path() && !std::filesystem::exists(directory / "tests/support/png_pixels.py")) {
    directory = directory.parent_path();
  }
  return directory;
}

/// The screenshot's size and some of its pixels, one per line.
inline std::string look(const std::string& display, const std::string& points) {
  const auto directory = checkout();
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

}  // namespace dmaflow::test
