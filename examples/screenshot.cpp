// dmaflow-screenshot: writes what a display shows now to a PNG, from another process than the one that shows it.
//
//     dmaflow-screenshot /dev/dri/card0 screen.png
//
// Asks the kernel for the framebuffer on the first active CRTC (DRM_IOCTL_MODE_GETFB2, which needs root), maps it and
// writes it out. Accepts only linear 32-bit RGB framebuffers, which any CPU can read.
#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <drm_fourcc.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

namespace {

struct Picture {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<std::uint8_t> rgb;
};

[[noreturn]] void fail(const std::string& what, int error = 0) {
  fmt::print(stderr, "error: {}{}{}\n", what, error != 0 ? ": " : "", error != 0 ? std::strerror(error) : "");
  std::exit(1);
}

// --- PNG (ISO 15948), without compression ----------------------------------------------------------------------------

std::uint32_t crc(const std::string& bytes) {
  std::uint32_t value = 0xffffffffU;
  for (const char c : bytes) {
    value ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) value = value >> 1U ^ ((value & 1U) != 0 ? 0xedb88320U : 0U);
  }
  return ~value;
}

std::string big_endian(std::uint32_t value) {
  return {static_cast<char>(value >> 24U), static_cast<char>(value >> 16U), static_cast<char>(value >> 8U),
          static_cast<char>(value)};
}

std::string chunk(const std::string& kind, const std::string& data) {
  return big_endian(static_cast<std::uint32_t>(data.size())) + kind + data + big_endian(crc(kind + data));
}

// A zlib stream of stored blocks.
std::string stored(const std::string& bytes) {
  std::string result = "\x78\x01";
  std::uint32_t a = 1;
  std::uint32_t b = 0;
  for (const char c : bytes) {
    a = (a + static_cast<unsigned char>(c)) % 65521;
    b = (b + a) % 65521;
  }
  constexpr std::size_t most = 65535;
  for (std::size_t start = 0; start < bytes.size(); start += most) {
    const std::size_t size = std::min(most, bytes.size() - start);
    result += start + size == bytes.size() ? '\1' : '\0';
    for (const std::size_t value : {size, ~size}) {
      result += static_cast<char>(value);
      result += static_cast<char>(value >> 8U);
    }
    result.append(bytes, start, size);
  }
  return result + big_endian(b << 16U | a);
}

std::string png(const Picture& picture) {
  std::string rows;
  const std::size_t row = std::size_t{picture.width} * 3;
  for (std::size_t y = 0; y < picture.height; ++y) {
    rows += '\0';  // no filter
    rows.append(reinterpret_cast<const char*>(picture.rgb.data()) + y * row, row);
  }
  return "\x89PNG\r\n\x1a\n" +
         chunk("IHDR", big_endian(picture.width) + big_endian(picture.height) + std::string("\x08\x02\0\0\0", 5)) +
         chunk("IDAT", stored(rows)) + chunk("IEND", "");
}

// --- KMS -------------------------------------------------------------------------------------------------------------

using Framebuffer = std::unique_ptr<drmModeFB2, void (*)(drmModeFB2Ptr)>;

Framebuffer on_screen(int card) {
  const std::unique_ptr<drmModeRes, void (*)(drmModeResPtr)> resources(drmModeGetResources(card), drmModeFreeResources);
  if (!resources) fail("not a display", errno);
  for (int i = 0; i < resources->count_crtcs; ++i) {
    const std::unique_ptr<drmModeCrtc, void (*)(drmModeCrtcPtr)> crtc(drmModeGetCrtc(card, resources->crtcs[i]),
                                                                      drmModeFreeCrtc);
    if (!crtc || crtc->buffer_id == 0) continue;
    Framebuffer framebuffer(drmModeGetFB2(card, crtc->buffer_id), drmModeFreeFB2);
    if (!framebuffer) fail("the framebuffer cannot be read", errno);
    if (framebuffer->handles[0] == 0) fail("only root may read what is on the screen");
    return framebuffer;
  }
  fail("nothing is on the screen");
}

// The indices of red, green and blue in a pixel's four bytes.
std::array<int, 3> bytes_of(std::uint32_t format) {
  switch (format) {
    case DRM_FORMAT_XRGB8888:
    case DRM_FORMAT_ARGB8888:
      return {2, 1, 0};
    case DRM_FORMAT_XBGR8888:
    case DRM_FORMAT_ABGR8888:
      return {0, 1, 2};
    case DRM_FORMAT_BGRX8888:
      return {1, 2, 3};
    default:
      fail(fmt::format("cannot read pixels of format {:.4}", std::string(reinterpret_cast<const char*>(&format), 4)));
  }
}

Picture read(int card, const drmModeFB2& framebuffer) {
  if ((framebuffer.flags & DRM_MODE_FB_MODIFIERS) != 0 && framebuffer.modifier != DRM_FORMAT_MOD_LINEAR) {
    fail(fmt::format("cannot read a framebuffer with modifier {:#x}", framebuffer.modifier));
  }
  const std::array<int, 3> at = bytes_of(framebuffer.pixel_format);
  int memory = -1;
  if (drmPrimeHandleToFD(card, framebuffer.handles[0], O_CLOEXEC, &memory) != 0)
    fail("the framebuffer cannot be exported", errno);
  const std::size_t size = framebuffer.offsets[0] + std::size_t{framebuffer.pitches[0]} * framebuffer.height;
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, memory, 0);
  if (mapped == MAP_FAILED) fail("the framebuffer cannot be mapped", errno);
  dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
  ::ioctl(memory, DMA_BUF_IOCTL_SYNC, &sync);
  Picture picture{.width = framebuffer.width, .height = framebuffer.height, .rgb = {}};
  picture.rgb.reserve(std::size_t{picture.width} * picture.height * 3);
  for (std::uint32_t y = 0; y < picture.height; ++y) {
    const auto* row =
        static_cast<const std::uint8_t*>(mapped) + framebuffer.offsets[0] + std::size_t{framebuffer.pitches[0]} * y;
    for (std::uint32_t x = 0; x < picture.width; ++x) {
      for (const int byte : at) picture.rgb.push_back(row[std::size_t{x} * 4 + static_cast<std::size_t>(byte)]);
    }
  }
  sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
  ::ioctl(memory, DMA_BUF_IOCTL_SYNC, &sync);
  return picture;  // the process ends now, which releases the mapping and the descriptors
}

}  // namespace

int main(int argc, char** argv) {
  std::string card;
  std::string file;
  CLI::App app("Writes what a display shows now to a PNG file. Needs root.");
  app.add_option("CARD", card, "such as /dev/dri/card0")->required();
  app.add_option("FILE", file, "the PNG file")->required();
  CLI11_PARSE(app, argc, argv);
  const int fd = ::open(card.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) fail(card, errno);
  // The first process that opens a card becomes its master, but programs that show frames must be able to become it.
  drmDropMaster(fd);
  std::ofstream out(file, std::ios::binary);
  out << png(read(fd, *on_screen(fd)));
  if (!out.flush()) fail(file, errno);
}
