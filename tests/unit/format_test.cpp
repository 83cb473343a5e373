// The tables are compared with those codes that the installed kernel headers define.
#include <dmaflow/format.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <libdrm/drm_fourcc.h>
#include <linux/videodev2.h>

namespace dmaflow {
namespace {

constexpr PixelFormat drm(std::uint32_t fourcc) { return {fourcc}; }

// --- the table ------------------------------------------------------------------------------------------------------

TEST(Format, NamedConstantsAreTheKernelsCodes) {
  EXPECT_EQ(formats::xrgb8888, drm(DRM_FORMAT_XRGB8888));
  EXPECT_EQ(formats::argb8888, drm(DRM_FORMAT_ARGB8888));
  EXPECT_EQ(formats::xbgr8888, drm(DRM_FORMAT_XBGR8888));
  EXPECT_EQ(formats::abgr8888, drm(DRM_FORMAT_ABGR8888));
  EXPECT_EQ(formats::bgrx8888, drm(DRM_FORMAT_BGRX8888));
  EXPECT_EQ(formats::rgb565, drm(DRM_FORMAT_RGB565));
  EXPECT_EQ(formats::rgb888, drm(DRM_FORMAT_RGB888));
  EXPECT_EQ(formats::bgr888, drm(DRM_FORMAT_BGR888));
  EXPECT_EQ(formats::xrgb2101010, drm(DRM_FORMAT_XRGB2101010));
  EXPECT_EQ(formats::r8, drm(DRM_FORMAT_R8));
  EXPECT_EQ(formats::yuyv, drm(DRM_FORMAT_YUYV));
  EXPECT_EQ(formats::uyvy, drm(DRM_FORMAT_UYVY));
  EXPECT_EQ(formats::nv12, drm(DRM_FORMAT_NV12));
  EXPECT_EQ(formats::nv21, drm(DRM_FORMAT_NV21));
  EXPECT_EQ(formats::nv16, drm(DRM_FORMAT_NV16));
  EXPECT_EQ(formats::yuv420, drm(DRM_FORMAT_YUV420));
  EXPECT_EQ(formats::yvu420, drm(DRM_FORMAT_YVU420));
  EXPECT_EQ(formats::p010, drm(DRM_FORMAT_P010));
  EXPECT_EQ(formats::mjpeg, drm(V4L2_PIX_FMT_MJPEG));
  EXPECT_EQ(formats::h264, drm(V4L2_PIX_FMT_H264));
}

/// Every name in our table, with the code that the header defines for it.
const std::map<std::string, std::uint32_t>& header_codes() {
#define CODE(name) {#name, DRM_FORMAT_##name}
  static const std::map<std::string, std::uint32_t> codes = {
      CODE(C8),
      CODE(R8),
      CODE(R10),
      CODE(R12),
      CODE(R16),
      CODE(RG88),
      CODE(GR88),
      CODE(RG1616),
      CODE(GR1616),
      CODE(RGB332),
      CODE(BGR233),
      CODE(XRGB4444),
      CODE(XBGR4444),
      CODE(RGBX4444),
      CODE(BGRX4444),
      CODE(ARGB4444),
      CODE(ABGR4444),
      CODE(RGBA4444),
      CODE(BGRA4444),
      CODE(XRGB1555),
      CODE(XBGR1555),
      CODE(RGBX5551),
      CODE(BGRX5551),
      CODE(ARGB1555),
      CODE(ABGR1555),
      CODE(RGBA5551),
      CODE(BGRA5551),
      CODE(RGB565),
      CODE(BGR565),
      CODE(RGB888),
      CODE(BGR888),
      CODE(XRGB8888),
      CODE(XBGR8888),
      CODE(RGBX8888),
      CODE(BGRX8888),
      CODE(ARGB8888),
      CODE(ABGR8888),
      CODE(RGBA8888),
      CODE(BGRA8888),
      CODE(XRGB2101010),
      CODE(XBGR2101010),
      CODE(RGBX1010102),
      CODE(BGRX1010102),
      CODE(ARGB2101010),
      CODE(ABGR2101010),
      CODE(RGBA1010102),
      CODE(BGRA1010102),
      CODE(XRGB16161616),
      CODE(XBGR16161616),
      CODE(ARGB16161616),
      CODE(ABGR16161616),
      CODE(XRGB16161616F),
      CODE(XBGR16161616F),
      CODE(ARGB16161616F),
      CODE(ABGR16161616F),
      CODE(YUYV),
      CODE(YVYU),
      CODE(UYVY),
      CODE(VYUY),
      CODE(Y210),
      CODE(Y212),
      CODE(Y216),
      CODE(AYUV),
      CODE(XYUV8888),
      CODE(VUY888),
      CODE(Y410),
      CODE(Y412),
      CODE(Y416),
      CODE(XVYU2101010),
      CODE(XVYU12_16161616),
      CODE(XVYU16161616),
      CODE(NV12),
      CODE(NV21),
      CODE(NV16),
      CODE(NV61),
      CODE(NV24),
      CODE(NV42),
      CODE(P010),
      CODE(P012),
      CODE(P016),
      CODE(P210),
      CODE(NV15),
      CODE(P030),
      CODE(YUV410),
      CODE(YVU410),
      CODE(YUV411),
      CODE(YVU411),
      CODE(YUV420),
      CODE(YVU420),
      CODE(YUV422),
      CODE(YVU422),
      CODE(YUV444),
      CODE(YVU444),
      CODE(Q410),
      CODE(Q401),
  };
#undef CODE
  return codes;
}

/// Debian 12's libdrm (2.4.114) has no names for these.
bool younger_than_headers(std::string_view name) {
  return name == "NV20" || name == "NV30" || name == "AVUY8888" || name == "XVUY8888";
}

TEST(Format, EveryNameAndCodeIsTheKernels) {
  std::size_t compared = 0;
  for (const FormatInfo& info : known_formats()) {
    if (info.is_opaque || younger_than_headers(info.name)) continue;
    ASSERT_TRUE(header_codes().contains(std::string(info.name))) << info.name;
    EXPECT_EQ(info.format.fourcc, header_codes().at(std::string(info.name))) << info.name;
    ++compared;
  }
  EXPECT_EQ(compared, header_codes().size());
}

TEST(Format, TheTableHasEveryFormatOnceAndIsConsistent) {
  std::set<PixelFormat> codes;
  std::set<std::string_view> names;
  for (const FormatInfo& info : known_formats()) {
    EXPECT_TRUE(codes.insert(info.format).second) << info.name << " twice";
    EXPECT_TRUE(names.insert(info.name).second) << info.name << " twice";
    EXPECT_EQ(format_info(info.format), &info);
    ASSERT_GE(info.plane_count, 1) << info.name;
    ASSERT_LE(info.plane_count, max_planes) << info.name;
    if (info.is_opaque) {
      EXPECT_EQ(info.bits_per_pixel, 0) << info.name;
      continue;
    }
    double bits = 0;
    for (std::size_t i = 0; i < info.plane_count; ++i) {
      const PlaneInfo& plane = info.planes[i];
      ASSERT_GT(plane.block_bytes, 0) << info.name;
      ASSERT_GT(plane.block_width * plane.horizontal_sub * plane.vertical_sub, 0) << info.name;
      bits += plane.block_bytes * 8.0 / (plane.block_width * plane.horizontal_sub * plane.vertical_sub);
    }
    EXPECT_EQ(info.bits_per_pixel, static_cast<int>(bits)) << info.name;
    EXPECT_GT(info.bits_per_component, 0) << info.name;
  }
}

TEST(Format, PlanesSubsamplingAndBitsOfTheFormatsPeopleUse) {
  struct Expected {
    PixelFormat format;
    int planes, bits, component_bits, horizontal, vertical;
    bool yuv, alpha;
  };
  const Expected expected[] = {
      {formats::xrgb8888, 1, 32, 8, 1, 1, false, false},     {formats::argb8888, 1, 32, 8, 1, 1, false, true},
      {formats::xbgr8888, 1, 32, 8, 1, 1, false, false},     {formats::rgb565, 1, 16, 5, 1, 1, false, false},
      {formats::rgb888, 1, 24, 8, 1, 1, false, false},       {formats::yuyv, 1, 16, 8, 1, 1, true, false},
      {formats::uyvy, 1, 16, 8, 1, 1, true, false},          {formats::nv12, 2, 12, 8, 2, 2, true, false},
      {formats::nv21, 2, 12, 8, 2, 2, true, false},          {formats::nv16, 2, 16, 8, 2, 1, true, false},
      {formats::yuv420, 3, 12, 8, 2, 2, true, false},        {formats::yvu420, 3, 12, 8, 2, 2, true, false},
      {formats::p010, 2, 24, 10, 2, 2, true, false},         {formats::r8, 1, 8, 8, 1, 1, false, false},
      {formats::xrgb2101010, 1, 32, 10, 1, 1, false, false},
  };
  for (const Expected& want : expected) {
    const FormatInfo* info = format_info(want.format);
    ASSERT_NE(info, nullptr) << want.format.code();
    EXPECT_EQ(info->plane_count, want.planes) << info->name;
    EXPECT_EQ(info->bits_per_pixel, want.bits) << info->name;
    EXPECT_EQ(info->bits_per_component, want.component_bits) << info->name;
    EXPECT_EQ(info->planes[info->plane_count - 1U].horizontal_sub, want.horizontal) << info->name;
    EXPECT_EQ(info->planes[info->plane_count - 1U].vertical_sub, want.vertical) << info->name;
    EXPECT_EQ(info->is_yuv, want.yuv) << info->name;
    EXPECT_EQ(info->has_alpha, want.alpha) << info->name;
    EXPECT_FALSE(info->is_opaque) << info->name;
  }
  for (const PixelFormat format : {formats::mjpeg, formats::h264}) {
    ASSERT_NE(format_info(format), nullptr);
    EXPECT_TRUE(format_info(format)->is_opaque);
  }
}

TEST(Format, UnknownCodesAreCarriedAndNamedByTheirLetters) {
  const PixelFormat unknown = PixelFormat::of('Z', 'z', '9', '~');
  EXPECT_EQ(format_info(unknown), nullptr);
  EXPECT_EQ(unknown.name(), "Zz9~");
  EXPECT_EQ(PixelFormat{0x01020304}.code(), "????");
  EXPECT_EQ(PixelFormat{}.code(), "????");
  EXPECT_EQ(drm(DRM_FORMAT_XRGB8888 | DRM_FORMAT_BIG_ENDIAN).name(), "XR2?");
}

TEST(Format, ParseTakesNamesAndCodesInAnyCase) {
  EXPECT_EQ(PixelFormat::parse("XRGB8888"), formats::xrgb8888);
  EXPECT_EQ(PixelFormat::parse("xrgb8888"), formats::xrgb8888);
  EXPECT_EQ(PixelFormat::parse("xr24"), formats::xrgb8888);
  EXPECT_EQ(PixelFormat::parse("nv12"), formats::nv12);
  EXPECT_EQ(PixelFormat::parse("R8"), formats::r8);
  EXPECT_EQ(PixelFormat::parse("R8  "), formats::r8);
  EXPECT_EQ(PixelFormat::parse("mjpeg"), formats::mjpeg);
  EXPECT_EQ(PixelFormat::parse("MJPG"), formats::mjpeg);
  for (const char* text : {"", "XR2", "XR245", "RGB", "no such format", "\xff\xff\xff\xff"}) {
    EXPECT_EQ(PixelFormat::parse(text), std::nullopt) << text;
  }
  for (const FormatInfo& info : known_formats()) EXPECT_EQ(PixelFormat::parse(info.name), info.format);
}

TEST(Format, EveryCodeParsesToItselfUnlessItIsAnotherFormatsName) {
  for (const FormatInfo& info : known_formats()) {
    EXPECT_EQ(PixelFormat::parse(info.format.code()), info.format) << info.name;
  }
}

// --- modifiers ------------------------------------------------------------------------------------------------------

TEST(Modifier, LinearImplicitAndVendorAreThreeThings) {
  EXPECT_EQ(Modifier::linear().value(), DRM_FORMAT_MOD_LINEAR);
  EXPECT_EQ(Modifier::implicit().value(), DRM_FORMAT_MOD_INVALID);
  EXPECT_NE(Modifier::linear(), Modifier::implicit());
  EXPECT_TRUE(Modifier().is_implicit()) << "what nobody stated is implicit, never linear";
  EXPECT_EQ(Modifier::from_value(DRM_FORMAT_MOD_LINEAR), Modifier::linear());
  EXPECT_EQ(Modifier::from_value(DRM_FORMAT_MOD_INVALID), Modifier::implicit());
  const Modifier tiled = Modifier::from_value(I915_FORMAT_MOD_X_TILED);
  EXPECT_TRUE(tiled.is_vendor() && !tiled.is_linear() && !tiled.is_implicit());
  EXPECT_TRUE(Modifier::linear().is_linear() && !Modifier::linear().is_vendor() && !Modifier::linear().is_implicit());
}

TEST(Modifier, HasAName) {
  EXPECT_EQ(Modifier::linear().name(), "LINEAR");
  EXPECT_EQ(Modifier::implicit().name(), "INVALID");
  EXPECT_EQ(Modifier::from_value(I915_FORMAT_MOD_X_TILED).name(), "0x0100000000000001");
}

// --- V4L2 -----------------------------------------------------------------------------------------------------------

struct Pair {
  std::uint32_t v4l2;
  std::uint32_t drm;
};

TEST(V4l2, NamesThatDifferMeanTheSameBytes) {
  // V4L2's names list the bytes in memory order. DRM's list a little-endian word from its most significant byte:
  // reversed.
  const Pair pairs[] = {
      {V4L2_PIX_FMT_XBGR32, DRM_FORMAT_XRGB8888},  {V4L2_PIX_FMT_ABGR32, DRM_FORMAT_ARGB8888},
      {V4L2_PIX_FMT_RGBX32, DRM_FORMAT_XBGR8888},  {V4L2_PIX_FMT_RGBA32, DRM_FORMAT_ABGR8888},
      {V4L2_PIX_FMT_BGRX32, DRM_FORMAT_RGBX8888},  {V4L2_PIX_FMT_BGRA32, DRM_FORMAT_RGBA8888},
      {V4L2_PIX_FMT_XRGB32, DRM_FORMAT_BGRX8888},  {V4L2_PIX_FMT_ARGB32, DRM_FORMAT_BGRA8888},
      {V4L2_PIX_FMT_BGR24, DRM_FORMAT_RGB888},     {V4L2_PIX_FMT_RGB24, DRM_FORMAT_BGR888},
      {V4L2_PIX_FMT_RGB565, DRM_FORMAT_RGB565},    {V4L2_PIX_FMT_RGB332, DRM_FORMAT_RGB332},
      {V4L2_PIX_FMT_XRGB444, DRM_FORMAT_XRGB4444}, {V4L2_PIX_FMT_BGRA444, DRM_FORMAT_BGRA4444},
      {V4L2_PIX_FMT_XRGB555, DRM_FORMAT_XRGB1555}, {V4L2_PIX_FMT_BGRA555, DRM_FORMAT_BGRA5551},
      {V4L2_PIX_FMT_GREY, DRM_FORMAT_R8},          {V4L2_PIX_FMT_Y10, DRM_FORMAT_R10},
      {V4L2_PIX_FMT_Y12, DRM_FORMAT_R12},          {V4L2_PIX_FMT_Y16, DRM_FORMAT_R16},
      {V4L2_PIX_FMT_YUYV, DRM_FORMAT_YUYV},        {V4L2_PIX_FMT_YVYU, DRM_FORMAT_YVYU},
      {V4L2_PIX_FMT_UYVY, DRM_FORMAT_UYVY},        {V4L2_PIX_FMT_VYUY, DRM_FORMAT_VYUY},
      {V4L2_PIX_FMT_YUV24, DRM_FORMAT_VUY888},     {V4L2_PIX_FMT_VUYA32, DRM_FORMAT_AYUV},
      {V4L2_PIX_FMT_VUYX32, DRM_FORMAT_XYUV8888},  {V4L2_PIX_FMT_NV12, DRM_FORMAT_NV12},
      {V4L2_PIX_FMT_NV21, DRM_FORMAT_NV21},        {V4L2_PIX_FMT_NV16, DRM_FORMAT_NV16},
      {V4L2_PIX_FMT_NV61, DRM_FORMAT_NV61},        {V4L2_PIX_FMT_NV24, DRM_FORMAT_NV24},
      {V4L2_PIX_FMT_NV42, DRM_FORMAT_NV42},        {V4L2_PIX_FMT_P010, DRM_FORMAT_P010},
      {V4L2_PIX_FMT_YUV420, DRM_FORMAT_YUV420},    {V4L2_PIX_FMT_YVU420, DRM_FORMAT_YVU420},
      {V4L2_PIX_FMT_YUV422P, DRM_FORMAT_YUV422},   {V4L2_PIX_FMT_YUV411P, DRM_FORMAT_YUV411},
      {V4L2_PIX_FMT_YUV410, DRM_FORMAT_YUV410},    {V4L2_PIX_FMT_YVU410, DRM_FORMAT_YVU410},
  };
  for (const Pair& pair : pairs) {
    const V4l2Meaning meaning = from_v4l2(pair.v4l2);
    const std::string name = PixelFormat{pair.v4l2}.code();
    EXPECT_TRUE(meaning.known) << name;
    EXPECT_EQ(meaning.format, drm(pair.drm)) << name;
    EXPECT_TRUE(meaning.modifier.is_linear()) << name;
    EXPECT_FALSE(meaning.separate_objects) << name;
    EXPECT_EQ(to_v4l2(drm(pair.drm), Modifier::linear()), pair.v4l2) << name;
  }
}

TEST(V4l2, PackedYuvWithLumaFirstMeansTheSameBytes) {
  EXPECT_EQ(from_v4l2(V4L2_PIX_FMT_YUVA32).format, PixelFormat::of('A', 'V', 'U', 'Y')) << "[31:0] A:Cr:Cb:Y";
  EXPECT_EQ(from_v4l2(V4L2_PIX_FMT_YUVX32).format, PixelFormat::of('X', 'V', 'U', 'Y'));
  EXPECT_FALSE(from_v4l2(V4L2_PIX_FMT_AYUV32).known) << "alpha first: DRM has no such format";
  EXPECT_FALSE(from_v4l2(V4L2_PIX_FMT_XYUV32).known);
}

TEST(V4l2, EveryKnownCodeIsListedOnce) {
  std::set<std::uint32_t> codes;
  for (const std::uint32_t code : known_v4l2_codes()) {
    EXPECT_TRUE(from_v4l2(code).known);
    EXPECT_TRUE(codes.insert(code).second) << PixelFormat{code}.code() << " twice";
  }
  EXPECT_GT(codes.size(), 80U);
}

TEST(V4l2, DeprecatedRgbCodesReadButAreNeverChosen) {
  EXPECT_EQ(from_v4l2(V4L2_PIX_FMT_BGR32).format, formats::xrgb8888);
  EXPECT_EQ(from_v4l2(V4L2_PIX_FMT_RGB32).format, formats::bgrx8888);
  EXPECT_EQ(from_v4l2(V4L2_PIX_FMT_RGB555).format, drm(DRM_FORMAT_XRGB1555));
  EXPECT_EQ(to_v4l2(formats::xrgb8888, Modifier::linear()), V4L2_PIX_FMT_XBGR32);
  EXPECT_EQ(to_v4l2(formats::bgrx8888, Modifier::linear()), V4L2_PIX_FMT_XRGB32);
}

TEST(V4l2, MultiPlanarCodesAreTheSameFormatInSeparateBuffers) {
  const Pair pairs[] = {
      {V4L2_PIX_FMT_NV12M, DRM_FORMAT_NV12},     {V4L2_PIX_FMT_NV21M, DRM_FORMAT_NV21},
      {V4L2_PIX_FMT_NV16M, DRM_FORMAT_NV16},     {V4L2_PIX_FMT_NV61M, DRM_FORMAT_NV61},
      {V4L2_PIX_FMT_YUV420M, DRM_FORMAT_YUV420}, {V4L2_PIX_FMT_YVU420M, DRM_FORMAT_YVU420},
      {V4L2_PIX_FMT_YUV422M, DRM_FORMAT_YUV422}, {V4L2_PIX_FMT_YVU422M, DRM_FORMAT_YVU422},
      {V4L2_PIX_FMT_YUV444M, DRM_FORMAT_YUV444}, {V4L2_PIX_FMT_YVU444M, DRM_FORMAT_YVU444},
  };
  for (const Pair& pair : pairs) {
    const V4l2Meaning meaning = from_v4l2(pair.v4l2);
    EXPECT_EQ(meaning.format, drm(pair.drm));
    EXPECT_TRUE(meaning.known && meaning.separate_objects && meaning.modifier.is_linear());
    EXPECT_EQ(to_v4l2(drm(pair.drm), Modifier::linear(), true), pair.v4l2);
  }
  EXPECT_EQ(to_v4l2(formats::xrgb8888, Modifier::linear(), true), std::nullopt);
}

TEST(V4l2, TiledCodesCarryTheirModifier) {
  struct Tiled {
    std::uint32_t v4l2;
    std::uint64_t modifier;
    bool separate;
  };
  const Tiled tiled[] = {
      {V4L2_PIX_FMT_SUNXI_TILED_NV12, DRM_FORMAT_MOD_ALLWINNER_TILED, false},
      {V4L2_PIX_FMT_NV12MT, DRM_FORMAT_MOD_SAMSUNG_64_32_TILE, true},
      {V4L2_PIX_FMT_NV12MT_16X16, DRM_FORMAT_MOD_SAMSUNG_16_16_TILE, true},
      {V4L2_PIX_FMT_QC08C, DRM_FORMAT_MOD_QCOM_COMPRESSED, false},
      {V4L2_PIX_FMT_MM21, 0x0b00000000000001ULL /* DRM_FORMAT_MOD_MTK_16L_32S_TILE, Linux 6.14 */, true},
  };
  for (const Tiled& want : tiled) {
    const V4l2Meaning meaning = from_v4l2(want.v4l2);
    EXPECT_TRUE(meaning.known);
    EXPECT_EQ(meaning.format, formats::nv12);
    EXPECT_EQ(meaning.modifier.value(), want.modifier);
    EXPECT_EQ(meaning.separate_objects, want.separate);
    EXPECT_EQ(to_v4l2(formats::nv12, meaning.modifier, want.separate), want.v4l2);
    EXPECT_EQ(to_v4l2(formats::nv12, meaning.modifier, !want.separate), std::nullopt);
  }
}

TEST(V4l2, TilingsWithoutAModifierAreCarriedNeverTakenForLinear) {
  for (const std::uint32_t code :
       {V4L2_PIX_FMT_NV12_4L4, V4L2_PIX_FMT_NV12_16L16, V4L2_PIX_FMT_P010_4L4, V4L2_PIX_FMT_NV12M_8L128,
        V4L2_PIX_FMT_NV12M_10BE_8L128, V4L2_PIX_FMT_MT21C, V4L2_PIX_FMT_QC10C}) {
    const V4l2Meaning meaning = from_v4l2(code);
    EXPECT_FALSE(meaning.known);
    EXPECT_TRUE(meaning.modifier.is_implicit());
    EXPECT_EQ(meaning.format.fourcc, code);
  }
}

TEST(V4l2, CompressedCodesAreOpaqueAndKeepTheirCode) {
  for (const std::uint32_t code : {V4L2_PIX_FMT_MJPEG, V4L2_PIX_FMT_JPEG, V4L2_PIX_FMT_H264, V4L2_PIX_FMT_H264_NO_SC,
                                   V4L2_PIX_FMT_HEVC, V4L2_PIX_FMT_VP8, V4L2_PIX_FMT_VP9, V4L2_PIX_FMT_MPEG2}) {
    const V4l2Meaning meaning = from_v4l2(code);
    EXPECT_TRUE(meaning.known);
    EXPECT_EQ(meaning.format.fourcc, code);
    ASSERT_NE(format_info(meaning.format), nullptr);
    EXPECT_TRUE(format_info(meaning.format)->is_opaque);
    EXPECT_EQ(to_v4l2(meaning.format, meaning.modifier), code);
  }
}

/// V4L2 codes that DRM uses too, but for other pixels.
TEST(V4l2, CodesThatDrmUsesForOtherPixelsAreNotTakenForThem) {
  for (const std::uint32_t code :
       {V4L2_PIX_FMT_SRGGB16, V4L2_PIX_FMT_SGRBG12, V4L2_PIX_FMT_AYUV32, V4L2_PIX_FMT_XYUV32}) {
    ASSERT_NE(format_info(drm(code)), nullptr) << "DRM has this code: " << drm(code).code();
    const V4l2Meaning meaning = from_v4l2(code);
    EXPECT_FALSE(meaning.known);
    EXPECT_EQ(format_info(meaning.format), nullptr) << meaning.format.code();
    EXPECT_EQ(to_v4l2(meaning.format, meaning.modifier), code);
  }
}

TEST(V4l2, EveryPossibleCodeIsCarriedAndComesBack) {
  // There are too many codes of capitals and digits. Every second pair of letters is enough to find those of the table.
  std::size_t known = 0;
  const auto check = [&](std::uint32_t code) {
    const V4l2Meaning meaning = from_v4l2(code);
    if (meaning.known) {
      ++known;
      const auto back = to_v4l2(meaning.format, meaning.modifier, meaning.separate_objects);
      ASSERT_TRUE(back) << drm(code).code();
      const V4l2Meaning again = from_v4l2(*back);  // deprecated codes are converted to their successors
      EXPECT_EQ(again.format, meaning.format);
      EXPECT_EQ(again.modifier, meaning.modifier);
      EXPECT_EQ(again.separate_objects, meaning.separate_objects);
      ASSERT_NE(format_info(meaning.format), nullptr) << drm(code).code();
    } else {
      EXPECT_EQ(to_v4l2(meaning.format, meaning.modifier), code) << drm(code).code();
      EXPECT_EQ(format_info(meaning.format), nullptr) << drm(code).code() << " would be taken for a DRM format";
      EXPECT_TRUE(meaning.modifier.is_implicit());
    }
  };
  for (const FormatInfo& info : known_formats()) check(info.format.fourcc);
  constexpr std::string_view letters = "ABCGHJLMNPQRSTUVXYZ0123456789 ";
  for (const char a : letters) {
    for (const char b : letters) {
      for (const char c : std::string_view("12456BGRUVYX")) {
        for (const char d : std::string_view("0124568 PVM")) {
          const std::uint32_t code = PixelFormat::of(a, b, c, d).fourcc;
          check(code);
        }
      }
    }
  }
  EXPECT_GT(known, 50U);
}

TEST(V4l2, WhatV4l2CannotSayHasNoCode) {
  EXPECT_EQ(to_v4l2(formats::xrgb8888, Modifier::implicit()), std::nullopt) << "INVALID is not LINEAR";
  EXPECT_EQ(to_v4l2(formats::xrgb8888, Modifier::from_value(I915_FORMAT_MOD_X_TILED)), std::nullopt);
  EXPECT_EQ(to_v4l2(drm(DRM_FORMAT_XRGB16161616), Modifier::linear()), std::nullopt);
  EXPECT_EQ(to_v4l2(PixelFormat{}, Modifier::linear()), std::nullopt);
  EXPECT_EQ(to_v4l2(PixelFormat{}, Modifier::implicit()), std::nullopt);
}

// --- the page -------------------------------------------------------------------------------------------------------

/// The bytes of a sample of each plane, with its subsampling: "1, 2 (2x2)". "5/4": five bytes for four samples.
std::string planes_of(const FormatInfo& info) {
  std::string text;
  for (std::size_t i = 0; i < info.plane_count; ++i) {
    const PlaneInfo& plane = info.planes[i];
    text += (i == 0 ? "" : ", ") + std::to_string(plane.block_bytes);
    if (plane.block_width != 1) text += "/" + std::to_string(plane.block_width);
    if (plane.horizontal_sub * plane.vertical_sub == 1) continue;
    text += " (" + std::to_string(plane.horizontal_sub) + "x" + std::to_string(plane.vertical_sub) + ")";
  }
  return text;
}

std::string v4l2_codes_of(PixelFormat format) {
  std::string text;
  for (const std::uint32_t code : known_v4l2_codes()) {
    const V4l2Meaning meaning = from_v4l2(code);
    if (meaning.format != format) continue;
    text += (text.empty() ? "`" : ", `") + PixelFormat{code}.code() + "`";
    std::string notes = meaning.separate_objects ? ", separate" : "";
    if (!meaning.modifier.is_linear()) notes += ", " + meaning.modifier.name();
    if (to_v4l2(format, meaning.modifier, meaning.separate_objects) != code) notes += ", read only";
    if (!notes.empty()) text += " (" + notes.substr(2) + ")";
  }
  return text;
}

std::string table_of_formats() {
  std::string text = "| name | DRM | kind | bytes of a sample, by plane | bits | V4L2 |\n|---|---|---|---|---|---|\n";
  for (const FormatInfo& info : known_formats()) {
    const std::string kind = info.is_opaque ? "bytes" : info.is_yuv ? "YUV" : "RGB";
    text +=
        "| " + std::string(info.name) + " | " + (info.is_opaque ? "" : "`" + info.format.code() + "`") + " | " + kind +
        (info.has_alpha ? ", alpha" : "") + " | " + (info.is_opaque ? "" : planes_of(info)) + " | " +
        (info.is_opaque ? "" : std::to_string(info.bits_per_pixel) + ", " + std::to_string(info.bits_per_component)) +
        " | " + v4l2_codes_of(info.format) + " |\n";
  }
  return text;
}

// If DMAFLOW_WRITE_DOCS is set in the environment, it writes the table to the page.
TEST(FormatPage, ItsTableIsThatOfTheLibrary) {
  const std::string path = DMAFLOW_DOCS_DIR "/formats.md";
  std::ifstream file(path);
  ASSERT_TRUE(file) << path;
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  const std::string begin = "<!-- table: made by FormatPage in tests/unit/format_test.cpp -->\n";
  const auto at = page.find(begin);
  ASSERT_NE(at, std::string::npos);
  const auto first = at + begin.size();
  const auto end = page.find("<!-- end -->", first);
  ASSERT_NE(end, std::string::npos);
  const std::string table = table_of_formats();
  const bool same = page.substr(first, end - first) == table;
  if (std::getenv("DMAFLOW_WRITE_DOCS") != nullptr && !same) {  // NOLINT(concurrency-mt-unsafe): one thread
    std::ofstream(path) << page.substr(0, first) << table << page.substr(end);
    return;
  }
  EXPECT_TRUE(same) << "run this test with DMAFLOW_WRITE_DOCS=1; the table is\n" << table;
}

// --- colour ---------------------------------------------------------------------------------------------------------

TEST(Color, DefaultsFollowTheKernelsMacros) {
  using C = ColorInfo;
  for (std::uint32_t cs = V4L2_COLORSPACE_SMPTE170M; cs <= V4L2_COLORSPACE_DCI_P3; ++cs) {
    for (const bool is_rgb : {false, true}) {
      const ColorInfo left_open = color_from_v4l2(cs, 0, 0, 0, is_rgb);
      const std::uint32_t encoding = V4L2_MAP_YCBCR_ENC_DEFAULT(cs);
      const std::uint32_t range = V4L2_MAP_QUANTIZATION_DEFAULT(is_rgb, cs, encoding);
      const ColorInfo spelled_out = color_from_v4l2(cs, encoding, range, V4L2_MAP_XFER_FUNC_DEFAULT(cs), is_rgb);
      EXPECT_EQ(left_open, spelled_out) << "colorspace " << cs << " rgb " << is_rgb;
      EXPECT_NE(left_open.range, C::Range::unspecified);
      EXPECT_NE(left_open.transfer, C::Transfer::unspecified);
      EXPECT_EQ(left_open.matrix == C::Matrix::identity, is_rgb);
    }
  }
}

TEST(Color, TheUsualOnes) {
  using C = ColorInfo;
  const ColorInfo hd = color_from_v4l2(V4L2_COLORSPACE_REC709, 0, 0, 0, false);
  EXPECT_EQ(hd.matrix, C::Matrix::bt709);
  EXPECT_EQ(hd.range, C::Range::limited);
  EXPECT_EQ(hd.transfer, C::Transfer::bt709);
  EXPECT_EQ(hd.primaries, C::Primaries::bt709);
  const ColorInfo webcam = color_from_v4l2(V4L2_COLORSPACE_SRGB, 0, 0, 0, false);
  EXPECT_EQ(webcam.matrix, C::Matrix::bt601);
  EXPECT_EQ(webcam.range, C::Range::limited);
  EXPECT_EQ(webcam.transfer, C::Transfer::srgb);
  EXPECT_EQ(webcam.primaries, C::Primaries::bt709);
  const ColorInfo jpeg = color_from_v4l2(V4L2_COLORSPACE_JPEG, 0, 0, 0, false);
  EXPECT_EQ(jpeg.range, C::Range::full);
  EXPECT_EQ(jpeg.matrix, C::Matrix::bt601);
  const ColorInfo hdr = color_from_v4l2(V4L2_COLORSPACE_BT2020, 0, 0, V4L2_XFER_FUNC_SMPTE2084, false);
  EXPECT_EQ(hdr.transfer, C::Transfer::pq);
  EXPECT_EQ(hdr.matrix, C::Matrix::bt2020);
  EXPECT_EQ(hdr.primaries, C::Primaries::bt2020);
}

TEST(Color, NobodySaidMeansUnspecified) {
  const ColorInfo open = color_from_v4l2(V4L2_COLORSPACE_DEFAULT, 0, 0, 0, false);
  EXPECT_EQ(open, ColorInfo{});
  const ColorInfo range_only = color_from_v4l2(V4L2_COLORSPACE_DEFAULT, 0, V4L2_QUANTIZATION_FULL_RANGE, 0, false);
  EXPECT_EQ(range_only.range, ColorInfo::Range::full);
  EXPECT_EQ(range_only.matrix, ColorInfo::Matrix::unspecified);
}

/// Every code of videodev2.h that a camera may report, by the kind of its values.
TEST(Color, EveryCodeIsOfItsKind) {
  const std::pair<V4l2Values, std::vector<std::uint32_t>> kinds[] = {
      {V4l2Values::rgb,
       {V4L2_PIX_FMT_XBGR32, V4L2_PIX_FMT_BGR24, V4L2_PIX_FMT_RGB565, V4L2_PIX_FMT_RGB565X, V4L2_PIX_FMT_RGB332,
        V4L2_PIX_FMT_RGB444, V4L2_PIX_FMT_RGB555X, V4L2_PIX_FMT_ARGB555X, V4L2_PIX_FMT_BGR666, V4L2_PIX_FMT_PAL8}},
      {V4l2Values::rgb,  // Bayer
       {V4L2_PIX_FMT_SBGGR8, V4L2_PIX_FMT_SRGGB8, V4L2_PIX_FMT_SGRBG10, V4L2_PIX_FMT_SBGGR10P, V4L2_PIX_FMT_SGRBG12,
        V4L2_PIX_FMT_SRGGB12P, V4L2_PIX_FMT_SGBRG14, V4L2_PIX_FMT_SRGGB16, V4L2_PIX_FMT_SBGGR16,
        V4L2_PIX_FMT_SGRBG10DPCM8, V4L2_PIX_FMT_SGBRG10ALAW8, V4L2_PIX_FMT_IPU3_SGRBG10}},
      {V4l2Values::hsv, {V4L2_PIX_FMT_HSV24, V4L2_PIX_FMT_HSV32}},
      {V4l2Values::yuv,  // grey
       {V4L2_PIX_FMT_GREY, V4L2_PIX_FMT_Y4, V4L2_PIX_FMT_Y10, V4L2_PIX_FMT_Y10P, V4L2_PIX_FMT_Y12, V4L2_PIX_FMT_Y14,
        V4L2_PIX_FMT_Y16, V4L2_PIX_FMT_Y16_BE, V4L2_PIX_FMT_Y8I, V4L2_PIX_FMT_IPU3_Y10}},
      {V4l2Values::yuv,
       {V4L2_PIX_FMT_YUYV, V4L2_PIX_FMT_UYVY, V4L2_PIX_FMT_NV12, V4L2_PIX_FMT_NV12M, V4L2_PIX_FMT_YUV420,
        V4L2_PIX_FMT_P010, V4L2_PIX_FMT_YUV24, V4L2_PIX_FMT_AYUV32, V4L2_PIX_FMT_YUV565, V4L2_PIX_FMT_NV12_16L16,
        V4L2_PIX_FMT_NV12MT, V4L2_PIX_FMT_QC08C, V4L2_PIX_FMT_NV12M_10BE_8L128}},
      {V4l2Values::jpeg, {V4L2_PIX_FMT_MJPEG, V4L2_PIX_FMT_JPEG, V4L2_PIX_FMT_PJPG}},
      {V4l2Values::video,
       {V4L2_PIX_FMT_H264, V4L2_PIX_FMT_H264_NO_SC, V4L2_PIX_FMT_H264_SLICE, V4L2_PIX_FMT_H264_MVC, V4L2_PIX_FMT_HEVC,
        V4L2_PIX_FMT_HEVC_SLICE, V4L2_PIX_FMT_VP8, V4L2_PIX_FMT_VP8_FRAME, V4L2_PIX_FMT_VP9, V4L2_PIX_FMT_VP9_FRAME,
        V4L2_PIX_FMT_MPEG1, V4L2_PIX_FMT_MPEG2, V4L2_PIX_FMT_MPEG4, V4L2_PIX_FMT_H263, V4L2_PIX_FMT_XVID,
        V4L2_PIX_FMT_DV, V4L2_PIX_FMT_FWHT}},
      {V4l2Values::unknown, {V4L2_PIX_FMT_Z16, v4l2_fourcc('?', '?', '?', '?')}},
  };
  for (const auto& [kind, codes] : kinds) {
    for (const std::uint32_t code : codes) EXPECT_EQ(v4l2_values(code), kind) << PixelFormat{code}.code();
  }
  for (const std::uint32_t code : known_v4l2_codes()) {
    const V4l2Values values = v4l2_values(code);
    const FormatInfo& info = *format_info(from_v4l2(code).format);
    EXPECT_NE(values, V4l2Values::unknown) << PixelFormat{code}.code();
    EXPECT_EQ(info.is_opaque, values == V4l2Values::jpeg || values == V4l2Values::video) << info.name;
    if (info.is_yuv) {
      EXPECT_EQ(values, V4l2Values::yuv) << info.name;
    }
  }
}

/// All kinds with all colorspaces, encodings and ranges: what the driver states is used, and the kernel's default for
/// the rest.
TEST(Color, EveryKindWithEveryDescription) {
  using C = ColorInfo;
  for (const auto values :
       {V4l2Values::unknown, V4l2Values::rgb, V4l2Values::hsv, V4l2Values::yuv, V4l2Values::jpeg, V4l2Values::video}) {
    const bool has_matrix = values != V4l2Values::rgb && values != V4l2Values::hsv;
    for (std::uint32_t cs = V4L2_COLORSPACE_DEFAULT; cs <= V4L2_COLORSPACE_DCI_P3; ++cs) {
      const std::string where = "values " + std::to_string(static_cast<int>(values)) + ", cs " + std::to_string(cs);
      for (std::uint32_t enc = V4L2_YCBCR_ENC_601; enc <= V4L2_YCBCR_ENC_SMPTE240M; ++enc) {
        const C said = color_from_v4l2(cs, enc, V4L2_QUANTIZATION_FULL_RANGE, 0, values);
        EXPECT_EQ(said.matrix, has_matrix                  ? color_from_v4l2(cs, enc, 0, 0, false).matrix
                               : values == V4l2Values::rgb ? C::Matrix::identity
                                                           : C::Matrix::unspecified)
            << where << ", encoding " << enc;
        EXPECT_EQ(said.range, C::Range::full) << where;
        EXPECT_EQ(color_from_v4l2(cs, enc, V4L2_QUANTIZATION_LIM_RANGE, 0, values).range, C::Range::limited) << where;
      }
      const C open = color_from_v4l2(cs, 0, 0, 0, values);
      const bool silent = cs == V4L2_COLORSPACE_DEFAULT;
      const bool full_by_colorspace = cs == V4L2_COLORSPACE_JPEG;
      switch (values) {
        case V4l2Values::unknown:
          EXPECT_EQ(open.matrix, C::Matrix::unspecified) << where;
          EXPECT_EQ(open.range, C::Range::unspecified) << where;
          break;
        case V4l2Values::rgb:
        case V4l2Values::hsv:
          EXPECT_EQ(open.range, silent ? C::Range::unspecified : C::Range::full) << where;
          break;
        case V4l2Values::yuv:
          EXPECT_EQ(open, color_from_v4l2(cs, 0, 0, 0, false)) << where;
          break;
        case V4l2Values::jpeg:
          EXPECT_EQ(open.matrix, C::Matrix::bt601) << where;
          EXPECT_EQ(open.range, C::Range::full) << where;
          break;
        case V4l2Values::video:
          EXPECT_EQ(open.matrix, color_from_v4l2(cs, 0, 0, 0, false).matrix) << where;
          EXPECT_EQ(open.range, full_by_colorspace ? C::Range::full : C::Range::limited) << where;
          break;
      }
      EXPECT_EQ(open.primaries, color_from_v4l2(cs, 0, 0, 0, false).primaries) << where;
      EXPECT_EQ(open.transfer, color_from_v4l2(cs, 0, 0, 0, false).transfer) << where;
    }
  }
}

TEST(Color, UnknownValuesBecomeUnspecified) {
  EXPECT_EQ(color_from_v4l2(99, 99, 99, 99, false), ColorInfo{});
  const ColorInfo constant_luminance =
      color_from_v4l2(V4L2_COLORSPACE_BT2020, V4L2_YCBCR_ENC_BT2020_CONST_LUM, 0, 0, false);
  EXPECT_EQ(constant_luminance.matrix, ColorInfo::Matrix::unspecified);
}

TEST(Color, EveryValueHasAName) {
  EXPECT_EQ(name(ColorInfo::Matrix::bt709), "bt709");
  EXPECT_EQ(name(ColorInfo::Range::limited), "limited");
  EXPECT_EQ(name(ColorInfo::Transfer::pq), "pq");
  EXPECT_EQ(name(ColorInfo::Primaries::bt601_625), "bt601_625");
  EXPECT_EQ(name(ColorInfo{}.matrix), "unspecified");
  std::set<std::string_view> names;
  for (std::uint8_t i = 0; i <= static_cast<std::uint8_t>(ColorInfo::Transfer::hlg); ++i) {
    names.insert(name(static_cast<ColorInfo::Transfer>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(ColorInfo::Transfer::hlg) + 1);
}

}  // namespace
}  // namespace dmaflow
