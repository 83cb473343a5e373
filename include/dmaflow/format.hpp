// Pixel formats, modifiers and colour: what the bytes of a buffer mean.
//
// The kernel has two vocabularies for pixels. DRM (and Vulkan, Wayland, EGL) name a format by a DRM
// fourcc plus a modifier, the memory arrangement. V4L2 has its own codes, which sometimes differ in
// name for the same bytes (DRM's XRGB8888 is V4L2's XBGR32, DRM's RGB888 is V4L2's BGR24: DRM names a
// little-endian word, V4L2 the bytes in memory), say whether planes lie in separate buffers (NM12), and
// sometimes include the tiling. dmaflow uses DRM's names internally and translates V4L2's codes here.
//
// Sources: include/uapi/drm/drm_fourcc.h, include/uapi/linux/videodev2.h.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dmaflow {

/// The most planes a format has (DRM's limit).
inline constexpr std::size_t max_planes = 4;

/// A pixel format by its DRM fourcc. Any code can be stored, whether the table knows it or not.
struct PixelFormat {
  std::uint32_t fourcc = 0;  ///< DRM_FORMAT_*; 0 = none

  static constexpr PixelFormat of(char a, char b, char c, char d) noexcept {
    return {static_cast<std::uint32_t>(static_cast<unsigned char>(a)) |
            static_cast<std::uint32_t>(static_cast<unsigned char>(b)) << 8U |
            static_cast<std::uint32_t>(static_cast<unsigned char>(c)) << 16U |
            static_cast<std::uint32_t>(static_cast<unsigned char>(d)) << 24U};
  }
  /// The four characters, e.g. "XR24"; unprintable ones as '?'. Allocates nothing beyond the string's own storage.
  [[nodiscard]] std::string code() const;
  /// The table's name, e.g. "XRGB8888", or code() if the table has none.
  [[nodiscard]] std::string name() const;
  /// By either name, upper or lower case: "XRGB8888", "xr24".
  static std::optional<PixelFormat> parse(std::string_view text) noexcept;

  friend constexpr auto operator<=>(PixelFormat, PixelFormat) = default;
};

namespace formats {
inline constexpr PixelFormat xrgb8888 = PixelFormat::of('X', 'R', '2', '4');
inline constexpr PixelFormat argb8888 = PixelFormat::of('A', 'R', '2', '4');
inline constexpr PixelFormat xbgr8888 = PixelFormat::of('X', 'B', '2', '4');
inline constexpr PixelFormat abgr8888 = PixelFormat::of('A', 'B', '2', '4');
inline constexpr PixelFormat bgrx8888 = PixelFormat::of('B', 'X', '2', '4');
inline constexpr PixelFormat rgb565 = PixelFormat::of('R', 'G', '1', '6');
inline constexpr PixelFormat rgb888 = PixelFormat::of('R', 'G', '2', '4');
inline constexpr PixelFormat bgr888 = PixelFormat::of('B', 'G', '2', '4');
inline constexpr PixelFormat xrgb2101010 = PixelFormat::of('X', 'R', '3', '0');
inline constexpr PixelFormat r8 = PixelFormat::of('R', '8', ' ', ' ');
inline constexpr PixelFormat yuyv = PixelFormat::of('Y', 'U', 'Y', 'V');
inline constexpr PixelFormat uyvy = PixelFormat::of('U', 'Y', 'V', 'Y');
inline constexpr PixelFormat nv12 = PixelFormat::of('N', 'V', '1', '2');
inline constexpr PixelFormat nv21 = PixelFormat::of('N', 'V', '2', '1');
inline constexpr PixelFormat nv16 = PixelFormat::of('N', 'V', '1', '6');
inline constexpr PixelFormat yuv420 = PixelFormat::of('Y', 'U', '1', '2');
inline constexpr PixelFormat yvu420 = PixelFormat::of('Y', 'V', '1', '2');
inline constexpr PixelFormat p010 = PixelFormat::of('P', '0', '1', '0');
/// Opaque: compressed bytes, no planes of pixels. DRM has no codes for these; V4L2's are used.
inline constexpr PixelFormat mjpeg = PixelFormat::of('M', 'J', 'P', 'G');
inline constexpr PixelFormat h264 = PixelFormat::of('H', '2', '6', '4');
}  // namespace formats

/// One plane of a format: blocks of `block_width` x 1 samples, `block_bytes` each, after subsampling.
struct PlaneInfo {
  std::uint8_t block_bytes = 0;     ///< bytes of one block, e.g. 4 for YUYV (two pixels), 2 for NV12's UV
  std::uint8_t block_width = 1;     ///< samples of this plane in one block, e.g. 2 for YUYV
  std::uint8_t horizontal_sub = 1;  ///< pixels per sample, across
  std::uint8_t vertical_sub = 1;    ///< pixels per sample, down
};

/// What the table knows about a format.
struct FormatInfo {
  PixelFormat format;
  std::string_view name;  ///< "NV12"
  std::uint8_t plane_count = 0;
  std::uint8_t bits_per_pixel = 0;      ///< averaged over all planes; 0 for opaque formats
  std::uint8_t bits_per_component = 0;  ///< of the colour component with the fewest: 5 for RGB565
  bool is_yuv = false;
  bool is_opaque = false;  ///< compressed bytes (MJPEG, H264)
  bool has_alpha = false;
  std::array<PlaneInfo, max_planes> planes{};
};

/// The table's entry, or nullptr for a code it does not know. Costs no allocation.
[[nodiscard]] const FormatInfo* format_info(PixelFormat format) noexcept;
/// Every format the table knows, in a fixed order.
[[nodiscard]] std::span<const FormatInfo> known_formats() noexcept;

/// The arrangement of pixels in memory. Three kinds that never turn into each other silently:
/// linear (rows one after another), implicit (INVALID: only the driver that made the buffer knows, and it
/// finds out through the buffer itself), and explicit (a vendor's tiling or compression).
class Modifier {
 public:
  /// Implicit, as DRM_FORMAT_MOD_INVALID: the arrangement is not stated.
  constexpr Modifier() = default;
  static constexpr Modifier linear() noexcept { return Modifier(0); }
  static constexpr Modifier implicit() noexcept { return {}; }
  /// From a kernel value: 0 becomes linear(), DRM_FORMAT_MOD_INVALID becomes implicit().
  static constexpr Modifier from_value(std::uint64_t value) noexcept { return Modifier(value); }

  [[nodiscard]] constexpr bool is_linear() const noexcept { return value_ == 0; }
  [[nodiscard]] constexpr bool is_implicit() const noexcept { return value_ == invalid; }
  [[nodiscard]] constexpr bool is_vendor() const noexcept { return !is_linear() && !is_implicit(); }
  /// The kernel's value (DRM_FORMAT_MOD_*).
  [[nodiscard]] constexpr std::uint64_t value() const noexcept { return value_; }
  /// "LINEAR", "INVALID" or "0x0100000000000001".
  [[nodiscard]] std::string name() const;

  friend constexpr auto operator<=>(Modifier, Modifier) = default;

 private:
  static constexpr std::uint64_t invalid = 0x00ffffffffffffffULL;
  explicit constexpr Modifier(std::uint64_t value) noexcept : value_(value) {}
  std::uint64_t value_ = invalid;
};

/// A format with its arrangement: what a device offers and a buffer has.
struct FormatModifier {
  PixelFormat format;
  Modifier modifier;
  friend constexpr auto operator<=>(FormatModifier, FormatModifier) = default;
};

/// What a V4L2 pixel format code (V4L2_PIX_FMT_*) means in DRM's terms.
struct V4l2Meaning {
  PixelFormat format;             ///< an unknown code is carried; with a small first letter where DRM has the same
                                  ///< code for other pixels (V4L2's RG16 is Bayer, DRM's RGB565), never as those
  Modifier modifier;              ///< linear, or the tiling the code includes; implicit for unknown codes
  bool separate_objects = false;  ///< each plane in a separate buffer (NM12, YM12, ...)
  bool known = false;             ///< false: the table has no entry, and the code can only be passed on
};

/// Translates a V4L2 code. Never fails: an unknown code is passed on with known = false.
[[nodiscard]] V4l2Meaning from_v4l2(std::uint32_t code) noexcept;
/// Every V4L2 code that from_v4l2() knows, in a fixed order.
[[nodiscard]] std::span<const std::uint32_t> known_v4l2_codes() noexcept;
/// The V4L2 code for a format and modifier; @p separate_objects asks for the variant with each plane in a separate
/// buffer. Empty if V4L2 has no such code.
[[nodiscard]] std::optional<std::uint32_t> to_v4l2(PixelFormat format, Modifier modifier,
                                                   bool separate_objects = false) noexcept;

/// How colour values are encoded. Unspecified means not stated; it is not a default.
struct ColorInfo {
  enum class Matrix : std::uint8_t { unspecified, identity, bt601, bt709, bt2020, smpte240m };
  enum class Range : std::uint8_t { unspecified, full, limited };
  enum class Transfer : std::uint8_t { unspecified, linear, srgb, bt709, smpte240m, opRGB, dci_p3, pq, hlg };
  enum class Primaries : std::uint8_t { unspecified, bt601_525, bt601_625, bt709, bt2020, smpte240m, opRGB, dci_p3 };

  /// HDR static metadata (CTA-861.3, SMPTE ST 2086), in the units of struct hdr_metadata_infoframe.
  struct HdrMetadata {
    std::array<std::array<std::uint16_t, 2>, 3> display_primaries{};  ///< x, y in units of 0.00002
    std::array<std::uint16_t, 2> white_point{};                       ///< x, y in units of 0.00002
    std::uint16_t max_luminance = 0;                                  ///< cd/m2
    std::uint16_t min_luminance = 0;                                  ///< 0.0001 cd/m2
    std::uint16_t max_cll = 0;                                        ///< cd/m2
    std::uint16_t max_fall = 0;                                       ///< cd/m2
    friend bool operator==(const HdrMetadata&, const HdrMetadata&) = default;
  };

  Matrix matrix = Matrix::unspecified;
  Range range = Range::unspecified;
  Transfer transfer = Transfer::unspecified;
  Primaries primaries = Primaries::unspecified;
  std::optional<HdrMetadata> hdr;

  friend bool operator==(const ColorInfo&, const ColorInfo&) = default;
};

/// Names for reports: "bt709", "limited", ...
[[nodiscard]] std::string_view name(ColorInfo::Matrix value) noexcept;
[[nodiscard]] std::string_view name(ColorInfo::Range value) noexcept;
[[nodiscard]] std::string_view name(ColorInfo::Transfer value) noexcept;
[[nodiscard]] std::string_view name(ColorInfo::Primaries value) noexcept;

/// What the values of a V4L2 pixel format are. The defaults of its colour description depend on it.
enum class V4l2Values : std::uint8_t {
  unknown,  ///< dmaflow does not know the code: only the driver's own statements count
  rgb,      ///< R'G'B', and raw Bayer samples; full range by default
  hsv,      ///< full range by default; ColorInfo has no matrix for it
  yuv,      ///< Y'CbCr, and grey, which is its Y'; limited range by default, but full for V4L2_COLORSPACE_JPEG
  jpeg,     ///< JPEG and MJPEG: Y'CbCr, by default BT.601 in full range, whatever the colorspace
  video,    ///< H264, HEVC, VP8 and others: Y'CbCr, limited range by default, but full for V4L2_COLORSPACE_JPEG
};
/// By the code (V4L2_PIX_FMT_*).
[[nodiscard]] V4l2Values v4l2_values(std::uint32_t code) noexcept;

/// ColorInfo from struct v4l2_pix_format's colorspace, ycbcr_enc, quantization and xfer_func, each default
/// resolved as videodev2.h's V4L2_MAP_*_DEFAULT do, and for compressed formats as V4l2Values says. Unknown values
/// become unspecified.
[[nodiscard]] ColorInfo color_from_v4l2(std::uint32_t colorspace, std::uint32_t ycbcr_enc, std::uint32_t quantization,
                                        std::uint32_t xfer_func, V4l2Values values) noexcept;
/// The same for uncompressed formats. @p is_rgb: V4l2Values::rgb, else yuv.
[[nodiscard]] inline ColorInfo color_from_v4l2(std::uint32_t colorspace, std::uint32_t ycbcr_enc,
                                               std::uint32_t quantization, std::uint32_t xfer_func,
                                               bool is_rgb) noexcept {
  return color_from_v4l2(colorspace, ycbcr_enc, quantization, xfer_func, is_rgb ? V4l2Values::rgb : V4l2Values::yuv);
}

}  // namespace dmaflow
