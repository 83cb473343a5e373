#include "raw_file.hpp"

#include "json.hpp"

#include <algorithm>
#include <cstdio>
#include <span>

namespace dmaflow::raw_file {
namespace {

using detail::json::member;
using detail::json::object;
using detail::json::quote;

struct Name {
  PixelFormat format;
  std::string_view ffmpeg;
};

constexpr Name name_of(const char (&text)[5], std::string_view ffmpeg) noexcept {
  return {PixelFormat::of(text[0], text[1], text[2], text[3]), ffmpeg};
}

// DRM's names describe the bits of a little-endian word, FFmpeg's the bytes in memory (libavutil/pixfmt.h). For words
// of packed bits (rgb565le, x2rgb10le) both describe the word.
constexpr Name pixel_formats[] = {
    name_of("R8  ", "gray"),     name_of("R10 ", "gray10le"),  name_of("R12 ", "gray12le"),
    name_of("R16 ", "gray16le"), name_of("RGB8", "rgb8"),      name_of("BGR8", "bgr8"),
    name_of("XR12", "rgb444le"), name_of("XB12", "bgr444le"),  name_of("XR15", "rgb555le"),
    name_of("XB15", "bgr555le"), name_of("RG16", "rgb565le"),  name_of("BG16", "bgr565le"),
    name_of("RG24", "bgr24"),    name_of("BG24", "rgb24"),     name_of("XR24", "bgr0"),
    name_of("AR24", "bgra"),     name_of("XB24", "rgb0"),      name_of("AB24", "rgba"),
    name_of("RX24", "0bgr"),     name_of("RA24", "abgr"),      name_of("BX24", "0rgb"),
    name_of("BA24", "argb"),     name_of("XR30", "x2rgb10le"), name_of("XB30", "x2bgr10le"),
    name_of("AR48", "bgra64le"), name_of("AB48", "rgba64le"),  name_of("YUYV", "yuyv422"),
    name_of("YVYU", "yvyu422"),  name_of("UYVY", "uyvy422"),   name_of("Y210", "y210le"),
    name_of("Y212", "y212le"),   name_of("AYUV", "vuya"),      name_of("XYUV", "vuyx"),
    name_of("XV30", "xv30le"),   name_of("XV36", "xv36le"),    name_of("NV12", "nv12"),
    name_of("NV21", "nv21"),     name_of("NV16", "nv16"),      name_of("NV24", "nv24"),
    name_of("NV42", "nv42"),     name_of("P010", "p010le"),    name_of("P012", "p012le"),
    name_of("P016", "p016le"),   name_of("P210", "p210le"),    name_of("YUV9", "yuv410p"),
    name_of("YU11", "yuv411p"),  name_of("YU12", "yuv420p"),   name_of("YU16", "yuv422p"),
    name_of("YU24", "yuv444p"),
};

constexpr Name containers[] = {
    name_of("MJPG", "mjpeg"),     name_of("JPEG", "mjpeg"),     name_of("H264", "h264"), name_of("HEVC", "hevc"),
    name_of("MPG1", "mpegvideo"), name_of("MPG2", "mpegvideo"), name_of("MPG4", "m4v"),
};

std::string_view find(std::span<const Name> names, PixelFormat format) noexcept {
  const auto found = std::ranges::find(names, format, &Name::format);
  return found == names.end() ? std::string_view() : found->ffmpeg;
}

/// Quoted for a shell, no matter which characters the name contains; never mistaken for an option.
std::string shell_quoted(const std::string& path) {
  std::string text = path.starts_with('-') ? "'./" : "'";
  for (const char c : path) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// "-f rawvideo -pixel_format nv12 -video_size 1280x720 -framerate 30/1", or nothing.
std::string ffmpeg_options(const StreamConfig& stream, Size size) {
  const PixelFormat format = stream.layout.format;
  const Interval interval = stream.interval;
  std::string rate;
  if (interval.numerator != 0 && interval.denominator != 0) {
    rate = " -framerate " + std::to_string(interval.denominator) + "/" + std::to_string(interval.numerator);
  }
  if (const auto container = ffmpeg_container(format); !container.empty()) {
    return "-f " + std::string(container) + (container == "mpegvideo" ? "" : rate);
  }
  const auto pixels = ffmpeg_pixel_format(format);
  if (pixels.empty()) return {};
  return "-f rawvideo -pixel_format " + std::string(pixels) + " -video_size " + std::to_string(size.width) + "x" +
         std::to_string(size.height) + rate;
}

std::string planes_json(const Layout& layout) {
  std::string text = "[";
  for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
    text += i == 0 ? "" : ",";
    text += object({member("offset", layout.planes[i].offset), member("stride", layout.planes[i].stride),
                    member("rows", layout.rows(i))});
  }
  return text + "]";
}

}  // namespace

std::string_view ffmpeg_pixel_format(PixelFormat format) noexcept { return find(pixel_formats, format); }
std::string_view ffmpeg_container(PixelFormat format) noexcept { return find(containers, format); }

// Each plane has its own smallest stride, whereas Layout::linear() keeps a proportion to luma's within one dma-buf.
Result<Layout> frame_layout(PixelFormat format, Size size) noexcept {
  auto layout = Layout::linear(format, size);
  if (!layout) return layout;
  std::uint32_t offset = 0;
  for (std::uint32_t i = 0; i < layout->plane_count; ++i) {
    layout->planes[i] = {.object = 0, .offset = offset, .stride = layout->row_bytes(i)};
    offset += layout->row_bytes(i) * layout->rows(i);  // at most 16384 x 16384 x 8 bytes: 2 GiB
  }
  return layout;
}

std::string description(const std::string& path, const StreamConfig& stream, Size size,
                        std::optional<std::uint64_t> frames) {
  const PixelFormat format = stream.layout.format;
  const FormatInfo* info = format_info(format);
  const bool is_opaque = info == nullptr || info->is_opaque;
  const auto layout = is_opaque ? Layout() : frame_layout(format, size).value_or(Layout());
  const auto options = ffmpeg_options(stream, size);
  const auto command = [&](const char* before, const char* after) {
    return options.empty() ? std::string("null") : quote(before + options + " " + shell_quoted(path) + after);
  };
  char fourcc[16];
  std::snprintf(fourcc, sizeof fourcc, "0x%08x", format.fourcc);
  const auto pixels = ffmpeg_pixel_format(format);
  const std::string members[] = {
      member("file", quote(path)),
      member("width", size.width),
      member("height", size.height),
      member("format", quote(format.name())),
      member("fourcc", quote(format.code())),
      member("drm_fourcc", quote(fourcc)),
      member("compressed", is_opaque ? "true" : "false"),
      member("planes", planes_json(layout)),
      member("frame_bytes", is_opaque ? "null" : std::to_string(layout.pixel_bytes())),
      member("frames", frames ? std::to_string(*frames) : "null"),
      member("rate", stream.interval.numerator == 0 || stream.interval.denominator == 0
                         ? "null"
                         : object({member("numerator", stream.interval.denominator),
                                   member("denominator", stream.interval.numerator)})),
      member("color", object({member("matrix", quote(name(stream.color.matrix))),
                              member("range", quote(name(stream.color.range))),
                              member("transfer", quote(name(stream.color.transfer))),
                              member("primaries", quote(name(stream.color.primaries)))})),
      member("ffmpeg_pixel_format", pixels.empty() ? "null" : quote(pixels)),
      member("play", command("ffplay ", "")),
      member("convert", command("ffmpeg ", " OUTPUT.mkv")),
  };
  std::string text = "{\n";
  for (const std::string& one : members) text += (text.size() > 2 ? ",\n  " : "  ") + one;
  return text + "\n}\n";
}

}  // namespace dmaflow::raw_file
