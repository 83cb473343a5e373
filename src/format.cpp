// The tables: DRM formats, V4L2 codes, colour. The source of every row is drm_fourcc.h or videodev2.h. A unit test
// compares the tables with the installed headers, and with the kernel's own arithmetic for formats that both know.
#include <dmaflow/format.hpp>

#include <algorithm>
#include <cctype>
#include <cstdio>

namespace dmaflow {
namespace {

// --- DRM formats ----------------------------------------------------------------------------------------------------

constexpr std::uint32_t code(const char (&text)[5]) noexcept {
  return PixelFormat::of(text[0], text[1], text[2], text[3]).fourcc;
}

constexpr FormatInfo single(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes, std::uint8_t bits,
                            bool has_alpha = false) noexcept {
  return {.format = {code(fourcc)},
          .name = name,
          .plane_count = 1,
          .bits_per_pixel = static_cast<std::uint8_t>(bytes * 8),
          .bits_per_component = bits,
          .has_alpha = has_alpha,
          .planes = {PlaneInfo{.block_bytes = bytes}}};
}

constexpr FormatInfo rgb(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes,
                         std::uint8_t bits) noexcept {
  return single(fourcc, name, bytes, bits);
}

constexpr FormatInfo rgba(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes,
                          std::uint8_t bits) noexcept {
  return single(fourcc, name, bytes, bits, true);
}

/// All components of a pixel side by side in one plane.
constexpr FormatInfo yuv444_packed(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes,
                                   std::uint8_t bits, bool has_alpha) noexcept {
  FormatInfo info = single(fourcc, name, bytes, bits, has_alpha);
  info.is_yuv = true;
  return info;
}

/// Two pixels share their chroma, in one plane.
constexpr FormatInfo yuv422_packed(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes_per_pair,
                                   std::uint8_t bits) noexcept {
  FormatInfo info = single(fourcc, name, bytes_per_pair, bits);
  info.is_yuv = true;
  info.bits_per_pixel = static_cast<std::uint8_t>(bytes_per_pair * 4);
  info.planes[0].block_width = 2;
  return info;
}

constexpr FormatInfo planar(const char (&fourcc)[5], std::string_view name, std::uint8_t bits, PlaneInfo luma,
                            PlaneInfo chroma, std::uint8_t plane_count) noexcept {
  FormatInfo info{
      .format = {code(fourcc)}, .name = name, .plane_count = plane_count, .bits_per_component = bits, .is_yuv = true};
  info.planes[0] = luma;
  for (std::size_t plane = 1; plane < plane_count; ++plane) info.planes[plane] = chroma;
  // Sums of fractions of a pixel, on one denominator: P030's planes have 10 2/3 and 5 1/3 bits.
  const int chroma_bits = chroma.block_bytes * 8 * (plane_count - 1);
  const int chroma_pixels = chroma.block_width * chroma.horizontal_sub * chroma.vertical_sub;
  info.bits_per_pixel = static_cast<std::uint8_t>(
      (luma.block_bytes * 8 * chroma_pixels + chroma_bits * luma.block_width) / (luma.block_width * chroma_pixels));
  return info;
}

/// A luma plane and a plane of interleaved chroma pairs, with `bytes` bytes per component.
constexpr FormatInfo semi_planar(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes, std::uint8_t bits,
                                 std::uint8_t horizontal_sub, std::uint8_t vertical_sub) noexcept {
  const auto pair = static_cast<std::uint8_t>(bytes * 2);
  return planar(fourcc, name, bits, {.block_bytes = bytes},
                {.block_bytes = pair, .block_width = 1, .horizontal_sub = horizontal_sub, .vertical_sub = vertical_sub},
                2);
}

/// Three planes, one per component.
constexpr FormatInfo three_planes(const char (&fourcc)[5], std::string_view name, std::uint8_t bytes, std::uint8_t bits,
                                  std::uint8_t horizontal_sub, std::uint8_t vertical_sub) noexcept {
  return planar(
      fourcc, name, bits, {.block_bytes = bytes},
      {.block_bytes = bytes, .block_width = 1, .horizontal_sub = horizontal_sub, .vertical_sub = vertical_sub}, 3);
}

constexpr FormatInfo opaque(const char (&fourcc)[5], std::string_view name) noexcept {
  return {.format = {code(fourcc)}, .name = name, .plane_count = 1, .is_opaque = true};
}

constexpr FormatInfo format_table[] = {
    single("C8  ", "C8", 1, 8),
    single("R8  ", "R8", 1, 8),
    single("R10 ", "R10", 2, 10),
    single("R12 ", "R12", 2, 12),
    single("R16 ", "R16", 2, 16),
    single("RG88", "RG88", 2, 8),
    single("GR88", "GR88", 2, 8),
    single("RG32", "RG1616", 4, 16),
    single("GR32", "GR1616", 4, 16),

    rgb("RGB8", "RGB332", 1, 2),
    rgb("BGR8", "BGR233", 1, 2),
    rgb("XR12", "XRGB4444", 2, 4),
    rgb("XB12", "XBGR4444", 2, 4),
    rgb("RX12", "RGBX4444", 2, 4),
    rgb("BX12", "BGRX4444", 2, 4),
    rgba("AR12", "ARGB4444", 2, 4),
    rgba("AB12", "ABGR4444", 2, 4),
    rgba("RA12", "RGBA4444", 2, 4),
    rgba("BA12", "BGRA4444", 2, 4),
    rgb("XR15", "XRGB1555", 2, 5),
    rgb("XB15", "XBGR1555", 2, 5),
    rgb("RX15", "RGBX5551", 2, 5),
    rgb("BX15", "BGRX5551", 2, 5),
    rgba("AR15", "ARGB1555", 2, 5),
    rgba("AB15", "ABGR1555", 2, 5),
    rgba("RA15", "RGBA5551", 2, 5),
    rgba("BA15", "BGRA5551", 2, 5),
    rgb("RG16", "RGB565", 2, 5),
    rgb("BG16", "BGR565", 2, 5),
    rgb("RG24", "RGB888", 3, 8),
    rgb("BG24", "BGR888", 3, 8),
    rgb("XR24", "XRGB8888", 4, 8),
    rgb("XB24", "XBGR8888", 4, 8),
    rgb("RX24", "RGBX8888", 4, 8),
    rgb("BX24", "BGRX8888", 4, 8),
    rgba("AR24", "ARGB8888", 4, 8),
    rgba("AB24", "ABGR8888", 4, 8),
    rgba("RA24", "RGBA8888", 4, 8),
    rgba("BA24", "BGRA8888", 4, 8),
    rgb("XR30", "XRGB2101010", 4, 10),
    rgb("XB30", "XBGR2101010", 4, 10),
    rgb("RX30", "RGBX1010102", 4, 10),
    rgb("BX30", "BGRX1010102", 4, 10),
    rgba("AR30", "ARGB2101010", 4, 10),
    rgba("AB30", "ABGR2101010", 4, 10),
    rgba("RA30", "RGBA1010102", 4, 10),
    rgba("BA30", "BGRA1010102", 4, 10),
    rgb("XR48", "XRGB16161616", 8, 16),
    rgb("XB48", "XBGR16161616", 8, 16),
    rgba("AR48", "ARGB16161616", 8, 16),
    rgba("AB48", "ABGR16161616", 8, 16),
    rgb("XR4H", "XRGB16161616F", 8, 16),
    rgb("XB4H", "XBGR16161616F", 8, 16),
    rgba("AR4H", "ARGB16161616F", 8, 16),
    rgba("AB4H", "ABGR16161616F", 8, 16),

    yuv422_packed("YUYV", "YUYV", 4, 8),
    yuv422_packed("YVYU", "YVYU", 4, 8),
    yuv422_packed("UYVY", "UYVY", 4, 8),
    yuv422_packed("VYUY", "VYUY", 4, 8),
    yuv422_packed("Y210", "Y210", 8, 10),
    yuv422_packed("Y212", "Y212", 8, 12),
    yuv422_packed("Y216", "Y216", 8, 16),
    yuv444_packed("AYUV", "AYUV", 4, 8, true),
    yuv444_packed("AVUY", "AVUY8888", 4, 8, true),
    yuv444_packed("XYUV", "XYUV8888", 4, 8, false),
    yuv444_packed("XVUY", "XVUY8888", 4, 8, false),
    yuv444_packed("VU24", "VUY888", 3, 8, false),
    yuv444_packed("Y410", "Y410", 4, 10, true),
    yuv444_packed("Y412", "Y412", 8, 12, true),
    yuv444_packed("Y416", "Y416", 8, 16, true),
    yuv444_packed("XV30", "XVYU2101010", 4, 10, false),
    yuv444_packed("XV36", "XVYU12_16161616", 8, 12, false),
    yuv444_packed("XV48", "XVYU16161616", 8, 16, false),

    semi_planar("NV12", "NV12", 1, 8, 2, 2),
    semi_planar("NV21", "NV21", 1, 8, 2, 2),
    semi_planar("NV16", "NV16", 1, 8, 2, 1),
    semi_planar("NV61", "NV61", 1, 8, 2, 1),
    semi_planar("NV24", "NV24", 1, 8, 1, 1),
    semi_planar("NV42", "NV42", 1, 8, 1, 1),
    semi_planar("P010", "P010", 2, 10, 2, 2),
    semi_planar("P012", "P012", 2, 12, 2, 2),
    semi_planar("P016", "P016", 2, 16, 2, 2),
    semi_planar("P210", "P210", 2, 10, 2, 1),
    // Packed without padding: four 10-bit samples in five bytes, and three in four.
    planar("NV15", "NV15", 10, {.block_bytes = 5, .block_width = 4},
           {.block_bytes = 5, .block_width = 2, .horizontal_sub = 2, .vertical_sub = 2}, 2),
    planar("NV20", "NV20", 10, {.block_bytes = 5, .block_width = 4},
           {.block_bytes = 5, .block_width = 2, .horizontal_sub = 2, .vertical_sub = 1}, 2),
    planar("NV30", "NV30", 10, {.block_bytes = 5, .block_width = 4},
           {.block_bytes = 5, .block_width = 2, .horizontal_sub = 1, .vertical_sub = 1}, 2),
    planar("P030", "P030", 10, {.block_bytes = 4, .block_width = 3},
           {.block_bytes = 8, .block_width = 3, .horizontal_sub = 2, .vertical_sub = 2}, 2),

    three_planes("YUV9", "YUV410", 1, 8, 4, 4),
    three_planes("YVU9", "YVU410", 1, 8, 4, 4),
    three_planes("YU11", "YUV411", 1, 8, 4, 1),
    three_planes("YV11", "YVU411", 1, 8, 4, 1),
    three_planes("YU12", "YUV420", 1, 8, 2, 2),
    three_planes("YV12", "YVU420", 1, 8, 2, 2),
    three_planes("YU16", "YUV422", 1, 8, 2, 1),
    three_planes("YV16", "YVU422", 1, 8, 2, 1),
    three_planes("YU24", "YUV444", 1, 8, 1, 1),
    three_planes("YV24", "YVU444", 1, 8, 1, 1),
    three_planes("Q410", "Q410", 2, 10, 1, 1),
    three_planes("Q401", "Q401", 2, 10, 1, 1),

    opaque("MJPG", "MJPEG"),
    opaque("JPEG", "JPEG"),
    opaque("H264", "H264"),
    opaque("AVC1", "H264_NO_SC"),
    opaque("S264", "H264_SLICE"),
    opaque("HEVC", "HEVC"),
    opaque("S265", "HEVC_SLICE"),
    opaque("VP80", "VP8"),
    opaque("VP8F", "VP8_FRAME"),
    opaque("VP90", "VP9"),
    opaque("VP9F", "VP9_FRAME"),
    opaque("AV1F", "AV1_FRAME"),
    opaque("MPG1", "MPEG1"),
    opaque("MPG2", "MPEG2"),
    opaque("MPG4", "MPEG4"),
    opaque("FWHT", "FWHT"),
};

// --- V4L2 codes -----------------------------------------------------------------------------------------------------

/// How the pixels are arranged, if the code implies it.
enum class Tiling : std::uint8_t {
  none,
  samsung_64_32,
  samsung_16_16,
  allwinner,
  mediatek_16l32s,
  qualcomm_compressed
};

constexpr Modifier modifier_of(Tiling tiling) noexcept {
  constexpr auto vendor = [](std::uint64_t id, std::uint64_t value) { return Modifier::from_value(id << 56U | value); };
  switch (tiling) {
    case Tiling::none:
      break;
    case Tiling::samsung_64_32:
      return vendor(0x04, 1);  // DRM_FORMAT_MOD_SAMSUNG_64_32_TILE
    case Tiling::samsung_16_16:
      return vendor(0x04, 2);  // DRM_FORMAT_MOD_SAMSUNG_16_16_TILE
    case Tiling::qualcomm_compressed:
      return vendor(0x05, 1);  // DRM_FORMAT_MOD_QCOM_COMPRESSED
    case Tiling::allwinner:
      return vendor(0x09, 1);  // DRM_FORMAT_MOD_ALLWINNER_TILED
    case Tiling::mediatek_16l32s:
      return vendor(0x0b, 1);  // DRM_FORMAT_MOD_MTK_16L_32S_TILE (Linux 6.14)
  }
  return Modifier::linear();
}

enum class Objects : std::uint8_t { one, separate };

struct V4l2Row {
  std::uint32_t v4l2 = 0;
  std::uint32_t drm = 0;
  Objects objects = Objects::one;
  Tiling tiling = Tiling::none;
};

constexpr V4l2Row row(const char (&v4l2)[5], const char (&drm)[5], Objects objects = Objects::one,
                      Tiling tiling = Tiling::none) noexcept {
  return {code(v4l2), code(drm), objects, tiling};
}

/// If several codes mean the same, to_v4l2() returns the first.
// clang-format off: families read best side by side
constexpr V4l2Row v4l2_table[] = {
    // 32 bits. V4L2's names follow the bytes in memory, DRM's the little-endian word; the four characters mostly agree.
    row("XR24", "XR24"),  // V4L2 XBGR32, DRM XRGB8888: B, G, R, x
    row("AR24", "AR24"),  // ABGR32, ARGB8888
    row("XB24", "XB24"),  // RGBX32, XBGR8888: R, G, B, x
    row("AB24", "AB24"),  // RGBA32, ABGR8888
    row("RX24", "RX24"),  // BGRX32, RGBX8888: x, B, G, R
    row("RA24", "RA24"),  // BGRA32, RGBA8888
    row("BX24", "BX24"),  // XRGB32, BGRX8888: x, R, G, B
    row("BA24", "BA24"),  // ARGB32, BGRA8888
    // Deprecated. What the fourth byte holds is not documented; it is treated as padding.
    row("BGR4", "XR24"),  // BGR32: B, G, R, x
    row("RGB4", "BX24"),  // RGB32: x, R, G, B

    row("BGR3", "RG24"),  // V4L2 BGR24, DRM RGB888: B, G, R
    row("RGB3", "BG24"),  // V4L2 RGB24, DRM BGR888: R, G, B

    row("RGBP", "RG16"),
    row("RGB1", "RGB8"),
    row("AR12", "AR12"), row("XR12", "XR12"), row("AB12", "AB12"), row("XB12", "XB12"),
    row("RA12", "RA12"), row("RX12", "RX12"), row("GA12", "BA12"), row("BX12", "BX12"),
    row("AR15", "AR15"), row("XR15", "XR15"), row("AB15", "AB15"), row("XB15", "XB15"),
    row("RA15", "RA15"), row("RX15", "RX15"), row("BA15", "BA15"), row("BX15", "BX15"),
    row("R444", "XR12"), row("RGBO", "XR15"),                      // deprecated, as above
    row("AR30", "AR30"), row("RA30", "RA30"), row("RX30", "RX30"),  // Linux 6.2

    row("GREY", "R8  "), row("Y10 ", "R10 "), row("Y12 ", "R12 "), row("Y16 ", "R16 "),

    row("YUYV", "YUYV"), row("YVYU", "YVYU"), row("UYVY", "UYVY"), row("VYUY", "VYUY"),
    row("Y210", "Y210"), row("Y212", "Y212"), row("Y216", "Y216"),  // Linux 6.3
    row("YUV3", "VU24"),  // V4L2 YUV24: Y, Cb, Cr
    row("VUYA", "AYUV"),  // V4L2 VUYA32: Cr, Cb, Y, A. V4L2's own "AYUV" is the other way round: see misleads()
    row("VUYX", "XYUV"),
    row("YUVA", "AVUY"), row("YUVX", "XVUY"),  // Y, Cb, Cr, A

    row("NV12", "NV12"), row("NM12", "NV12", Objects::separate),
    row("NV21", "NV21"), row("NM21", "NV21", Objects::separate),
    row("NV16", "NV16"), row("NM16", "NV16", Objects::separate),
    row("NV61", "NV61"), row("NM61", "NV61", Objects::separate),
    row("NV24", "NV24"), row("NV42", "NV42"),
    row("NV15", "NV15"), row("NV20", "NV20"),                       // Linux 6.14
    row("P010", "P010"),
    row("P012", "P012"), row("PM12", "P012", Objects::separate),    // Linux 6.3

    row("YU12", "YU12"), row("YM12", "YU12", Objects::separate),
    row("YV12", "YV12"), row("YM21", "YV12", Objects::separate),
    row("422P", "YU16"), row("YM16", "YU16", Objects::separate), row("YM61", "YV16", Objects::separate),
    row("YM24", "YU24", Objects::separate), row("YM42", "YV24", Objects::separate),
    row("411P", "YU11"), row("YUV9", "YUV9"), row("YVU9", "YVU9"),

    // Tiled formats for which DRM has a modifier with the same arrangement.
    row("ST12", "NV12", Objects::one, Tiling::allwinner),               // NV12_32L32, once SUNXI_TILED_NV12
    row("TM12", "NV12", Objects::separate, Tiling::samsung_64_32),      // NV12MT
    row("VM12", "NV12", Objects::separate, Tiling::samsung_16_16),      // NV12MT_16X16
    row("MM21", "NV12", Objects::separate, Tiling::mediatek_16l32s),    // MM21
    row("Q08C", "NV12", Objects::one, Tiling::qualcomm_compressed),     // QC08C

    row("MJPG", "MJPG"), row("JPEG", "JPEG"), row("H264", "H264"), row("AVC1", "AVC1"), row("S264", "S264"),
    row("HEVC", "HEVC"), row("S265", "S265"), row("VP80", "VP80"), row("VP8F", "VP8F"), row("VP90", "VP90"),
    row("VP9F", "VP9F"), row("AV1F", "AV1F"), row("MPG1", "MPG1"), row("MPG2", "MPG2"), row("MPG4", "MPG4"),
    row("FWHT", "FWHT"),
};
// clang-format on

constexpr auto v4l2_codes = [] {
  std::array<std::uint32_t, std::size(v4l2_table)> codes{};
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = v4l2_table[i].v4l2;
  return codes;
}();

const V4l2Row* find_code(std::uint32_t v4l2) noexcept {
  const auto found = std::ranges::find(v4l2_table, v4l2, &V4l2Row::v4l2);
  return found == std::end(v4l2_table) ? nullptr : found;
}

/// V4L2 has codes that mean other pixels in DRM: RG16 is Bayer data in V4L2 and RGB565 in DRM; AYUV begins with alpha
/// in one and ends with it in the other. Such a code is represented with a lower-case first letter, so that it is not
/// mistaken for the DRM format. No kernel header has a code that equals the result.
constexpr std::uint32_t disguise = 0x20;  // from 'R' to 'r'

bool misleads(std::uint32_t v4l2) noexcept { return find_code(v4l2) == nullptr && format_info({v4l2}) != nullptr; }

bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept {
  return std::ranges::equal(a, b, [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

}  // namespace

// --- PixelFormat and Modifier ---------------------------------------------------------------------------------------

std::string PixelFormat::code() const {
  std::string text(4, '?');
  for (unsigned i = 0; i < 4; ++i) {
    const auto byte = static_cast<unsigned char>(fourcc >> (8 * i));
    if (byte >= 0x20 && byte < 0x7f) text[i] = static_cast<char>(byte);
  }
  return text;
}

std::string PixelFormat::name() const {
  const FormatInfo* info = format_info(*this);
  return info != nullptr ? std::string(info->name) : code();
}

std::optional<PixelFormat> PixelFormat::parse(std::string_view text) noexcept {
  // Names first: "C8" and "R8" are also the beginnings of codes, and "RGB8" is a code while "RGB888" is a name.
  for (const FormatInfo& info : format_table) {
    if (equal_ignoring_case(text, info.name)) return info.format;
  }
  for (const FormatInfo& info : format_table) {
    char letters[4];
    for (unsigned i = 0; i < 4; ++i) letters[i] = static_cast<char>(info.format.fourcc >> (8 * i));
    if (equal_ignoring_case(text, {letters, 4})) return info.format;
  }
  return std::nullopt;
}

const FormatInfo* format_info(PixelFormat format) noexcept {
  const auto found = std::ranges::find(format_table, format, &FormatInfo::format);
  return found == std::end(format_table) ? nullptr : found;
}

std::span<const FormatInfo> known_formats() noexcept { return format_table; }

std::string Modifier::name() const {
  if (is_linear()) return "LINEAR";
  if (is_implicit()) return "INVALID";
  char text[24];
  std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(value_));
  return text;
}

// --- V4L2 -----------------------------------------------------------------------------------------------------------

V4l2Meaning from_v4l2(std::uint32_t code) noexcept {
  if (const V4l2Row* row = find_code(code)) {
    return {{row->drm}, modifier_of(row->tiling), row->objects == Objects::separate, true};
  }
  return {{misleads(code) ? code | disguise : code}, Modifier::implicit(), false, false};
}

std::span<const std::uint32_t> known_v4l2_codes() noexcept { return v4l2_codes; }

std::optional<std::uint32_t> to_v4l2(PixelFormat format, Modifier modifier, bool separate_objects) noexcept {
  for (const V4l2Row& row : v4l2_table) {
    if (row.drm == format.fourcc && modifier_of(row.tiling) == modifier &&
        (row.objects == Objects::separate) == separate_objects) {
      return row.v4l2;
    }
  }
  if (format_info(format) != nullptr || !modifier.is_implicit() || separate_objects) return std::nullopt;
  // A code that from_v4l2() disguised is restored.
  const std::uint32_t plain = format.fourcc & ~disguise;
  if (plain != format.fourcc && misleads(plain)) return plain;
  return format.fourcc != 0 && find_code(format.fourcc) == nullptr ? std::optional(format.fourcc) : std::nullopt;
}

// --- Colour ---------------------------------------------------------------------------------------------------------

std::string_view name(ColorInfo::Matrix value) noexcept {
  switch (value) {
    case ColorInfo::Matrix::unspecified:
      break;
    case ColorInfo::Matrix::identity:
      return "identity";
    case ColorInfo::Matrix::bt601:
      return "bt601";
    case ColorInfo::Matrix::bt709:
      return "bt709";
    case ColorInfo::Matrix::bt2020:
      return "bt2020";
    case ColorInfo::Matrix::smpte240m:
      return "smpte240m";
  }
  return "unspecified";
}

std::string_view name(ColorInfo::Range value) noexcept {
  switch (value) {
    case ColorInfo::Range::unspecified:
      break;
    case ColorInfo::Range::full:
      return "full";
    case ColorInfo::Range::limited:
      return "limited";
  }
  return "unspecified";
}

std::string_view name(ColorInfo::Transfer value) noexcept {
  switch (value) {
    case ColorInfo::Transfer::unspecified:
      break;
    case ColorInfo::Transfer::linear:
      return "linear";
    case ColorInfo::Transfer::srgb:
      return "srgb";
    case ColorInfo::Transfer::bt709:
      return "bt709";
    case ColorInfo::Transfer::smpte240m:
      return "smpte240m";
    case ColorInfo::Transfer::opRGB:
      return "opRGB";
    case ColorInfo::Transfer::dci_p3:
      return "dci_p3";
    case ColorInfo::Transfer::pq:
      return "pq";
    case ColorInfo::Transfer::hlg:
      return "hlg";
  }
  return "unspecified";
}

std::string_view name(ColorInfo::Primaries value) noexcept {
  switch (value) {
    case ColorInfo::Primaries::unspecified:
      break;
    case ColorInfo::Primaries::bt601_525:
      return "bt601_525";
    case ColorInfo::Primaries::bt601_625:
      return "bt601_625";
    case ColorInfo::Primaries::bt709:
      return "bt709";
    case ColorInfo::Primaries::bt2020:
      return "bt2020";
    case ColorInfo::Primaries::smpte240m:
      return "smpte240m";
    case ColorInfo::Primaries::opRGB:
      return "opRGB";
    case ColorInfo::Primaries::dci_p3:
      return "dci_p3";
  }
  return "unspecified";
}

namespace {

// The values of videodev2.h's enums, which are uapi and never change.
enum Colorspace : std::uint32_t {
  cs_default = 0,
  cs_smpte170m = 1,
  cs_smpte240m = 2,
  cs_rec709 = 3,
  cs_470_m = 5,
  cs_470_bg = 6,
  cs_jpeg = 7,
  cs_srgb = 8,
  cs_oprgb = 9,
  cs_bt2020 = 10,
  cs_raw = 11,
  cs_dci_p3 = 12
};
enum YcbcrEnc : std::uint32_t {
  enc_default = 0,
  enc_601 = 1,
  enc_709 = 2,
  enc_xv601 = 3,
  enc_xv709 = 4,
  enc_sycc = 5,
  enc_bt2020 = 6,
  enc_bt2020_const_lum = 7,
  enc_smpte240m = 8
};
enum Quantization : std::uint32_t { quant_default = 0, quant_full = 1, quant_limited = 2 };
enum XferFunc : std::uint32_t {
  xfer_default = 0,
  xfer_709 = 1,
  xfer_srgb = 2,
  xfer_oprgb = 3,
  xfer_smpte240m = 4,
  xfer_none = 5,
  xfer_dci_p3 = 6,
  xfer_smpte2084 = 7
};

ColorInfo::Primaries primaries_of(std::uint32_t colorspace) noexcept {
  using enum ColorInfo::Primaries;
  switch (colorspace) {
    case cs_smpte170m:
      return bt601_525;
    case cs_470_bg:
      return bt601_625;
    case cs_rec709:
    case cs_srgb:
    case cs_jpeg:
      return bt709;
    case cs_smpte240m:
      return smpte240m;
    case cs_oprgb:
      return opRGB;
    case cs_bt2020:
      return bt2020;
    case cs_dci_p3:
      return dci_p3;
    default:
      return unspecified;  // RAW, and 470_SYSTEM_M (NTSC 1953), which ColorInfo has no name for
  }
}

ColorInfo::Matrix matrix_of(std::uint32_t colorspace, std::uint32_t encoding) noexcept {
  using enum ColorInfo::Matrix;
  switch (encoding) {
    case enc_601:
    case enc_xv601:
    case enc_sycc:
      return bt601;
    case enc_709:
    case enc_xv709:
      return bt709;
    case enc_bt2020:
      return bt2020;
    case enc_smpte240m:
      return smpte240m;
    case enc_default:
      break;
    default:
      return unspecified;  // constant luminance uses a different equation than bt2020
  }
  switch (colorspace) {  // V4L2_MAP_YCBCR_ENC_DEFAULT
    case cs_rec709:
    case cs_dci_p3:
      return bt709;
    case cs_bt2020:
      return bt2020;
    case cs_smpte240m:
      return smpte240m;
    default:
      return bt601;
  }
}

ColorInfo::Range range_of(std::uint32_t colorspace, std::uint32_t quantization, V4l2Values values) noexcept {
  using enum ColorInfo::Range;
  switch (quantization) {
    case quant_full:
      return full;
    case quant_limited:
      return limited;
    case quant_default:
      break;
    default:
      return unspecified;
  }
  switch (values) {  // V4L2_MAP_QUANTIZATION_DEFAULT
    case V4l2Values::rgb:
    case V4l2Values::hsv:
    case V4l2Values::jpeg:
      return full;
    case V4l2Values::yuv:
    case V4l2Values::video:
      return colorspace == cs_jpeg ? full : limited;
    case V4l2Values::unknown:
      break;
  }
  return unspecified;
}

ColorInfo::Transfer transfer_of(std::uint32_t colorspace, std::uint32_t xfer_func) noexcept {
  using enum ColorInfo::Transfer;
  switch (xfer_func) {
    case xfer_709:
      return bt709;
    case xfer_srgb:
      return srgb;
    case xfer_oprgb:
      return opRGB;
    case xfer_smpte240m:
      return smpte240m;
    case xfer_none:
      return linear;
    case xfer_dci_p3:
      return dci_p3;
    case xfer_smpte2084:
      return pq;
    case xfer_default:
      break;
    default:
      return unspecified;
  }
  switch (colorspace) {  // V4L2_MAP_XFER_FUNC_DEFAULT
    case cs_oprgb:
      return opRGB;
    case cs_smpte240m:
      return smpte240m;
    case cs_dci_p3:
      return dci_p3;
    case cs_raw:
      return linear;
    case cs_srgb:
    case cs_jpeg:
      return srgb;
    default:
      return bt709;
  }
}

}  // namespace

ColorInfo color_from_v4l2(std::uint32_t colorspace, std::uint32_t ycbcr_enc, std::uint32_t quantization,
                          std::uint32_t xfer_func, V4l2Values values) noexcept {
  // If a driver does not state the colorspace, nothing is known, because the defaults of the other fields depend on it.
  // Compressed formats have defaults of their own: a JPEG file is BT.601 and full range (JFIF), video is limited range.
  const bool silent = colorspace == cs_default || colorspace > cs_dci_p3;
  const bool is_jpeg = values == V4l2Values::jpeg;
  const bool has_own_range = is_jpeg || values == V4l2Values::video;
  ColorInfo color;
  color.primaries = primaries_of(colorspace);
  if (values == V4l2Values::rgb) {
    color.matrix = ColorInfo::Matrix::identity;
  } else if (is_jpeg && ycbcr_enc == enc_default) {
    color.matrix = ColorInfo::Matrix::bt601;
  } else if (values != V4l2Values::hsv && (ycbcr_enc != enc_default || (!silent && values != V4l2Values::unknown))) {
    color.matrix = matrix_of(colorspace, ycbcr_enc);  // for HSV the same field holds hsv_enc, which is not a matrix
  }
  if (!silent || has_own_range || quantization != quant_default) {
    color.range = range_of(colorspace, quantization, values);
  }
  if (!silent || xfer_func != xfer_default) color.transfer = transfer_of(colorspace, xfer_func);
  return color;
}

// --- What V4L2's codes hold -----------------------------------------------------------------------------------------

namespace {

constexpr std::uint32_t big_endian = 1U << 31U;  // v4l2_fourcc_be()

// Codes for which the table has no entry; videodev2.h has them all.
// clang-format off: families read best side by side
constexpr std::uint32_t other_rgb[] = {
    code("RGBQ"), code("RGBR"), code("AR15") | big_endian, code("XR15") | big_endian, code("BGRH"),
    code("PAL8"), code("RGB6"), code("BGR6"), code("B312"), code("B412"),
    // Bayer: raw samples of red, green and blue
    code("BA81"), code("GBRG"), code("GRBG"), code("RGGB"), code("BG10"), code("GB10"), code("BA10"), code("RG10"),
    code("pBAA"), code("pGAA"), code("pgAA"), code("pRAA"), code("aBA8"), code("aGA8"), code("agA8"), code("aRA8"),
    code("bBA8"), code("bGA8"), code("BD10"), code("bRA8"), code("BG12"), code("GB12"), code("BA12"), code("RG12"),
    code("pBCC"), code("pGCC"), code("pgCC"), code("pRCC"), code("BG14"), code("GB14"), code("GR14"), code("RG14"),
    code("pBEE"), code("pGEE"), code("pgEE"), code("pREE"), code("BYR2"), code("GB16"), code("GR16"), code("RG16"),
    code("ip3b"), code("ip3g"), code("ip3G"), code("ip3r"),
};
constexpr std::uint32_t other_yuv[] = {
    // Grey is the Y' of Y'CbCr, even if DRM calls it R8.
    code("GREY"), code("Y04 "), code("Y06 "), code("Y10 "), code("Y12 "), code("Y012"), code("Y14 "), code("Y16 "),
    code("Y16 ") | big_endian, code("Y10B"), code("Y10P"), code("Y12P"), code("Y14P"), code("ip3y"), code("Y8I "),
    code("Y12I"), code("Y16I"),
    code("UV8 "), code("YYUV"), code("Y41P"), code("Y444"), code("YUVO"), code("YUVP"), code("YUV4"), code("AYUV"),
    code("XYUV"), code("M420"), code("VT12"), code("HM12"), code("T010"), code("NA12"), code("NT12") | big_endian,
    code("HI24"), code("S920"), code("CITV"), code("KONI"), code("MT21"), code("Q10C"), code("MT2T"), code("MT2R"),
};
constexpr std::uint32_t jpeg_codes[] = {code("MJPG"), code("JPEG"), code("PJPG"), code("JPGL")};
constexpr std::uint32_t other_video[] = {
    code("dvsd"), code("MPEG"), code("M264"), code("H263"), code("MG2S"), code("XVID"), code("VC1G"), code("VC1L"),
    code("SFWH"), code("RV30"), code("RV40"), code("AV01"),
};
// clang-format on

bool is_among(std::span<const std::uint32_t> codes, std::uint32_t code) noexcept {
  return std::ranges::find(codes, code) != codes.end();
}

}  // namespace

V4l2Values v4l2_values(std::uint32_t v4l2) noexcept {
  using enum V4l2Values;
  if (is_among(jpeg_codes, v4l2)) return jpeg;
  if (is_among(other_yuv, v4l2)) return yuv;
  if (is_among(other_rgb, v4l2)) return rgb;
  if (is_among(other_video, v4l2)) return video;
  if (v4l2 == code("HSV3") || v4l2 == code("HSV4")) return hsv;
  const V4l2Row* row = find_code(v4l2);
  const FormatInfo* info = row != nullptr ? format_info({row->drm}) : nullptr;
  if (info == nullptr) return unknown;
  if (info->is_opaque) return video;
  return info->is_yuv ? yuv : rgb;
}

}  // namespace dmaflow
