#include "convert_math.hpp"

#include <algorithm>
#include <cmath>

namespace dmaflow::vulkan {
namespace {

struct PackedOrder {
  PixelFormat format;
  Order order{};
};

// The positions of luma, Cb, luma and Cr among the four bytes of two pixels.
constexpr PackedOrder packed_orders[] = {
    {PixelFormat::of('Y', 'U', 'Y', 'V'), {0, 1, 2, 3}},
    {PixelFormat::of('Y', 'V', 'Y', 'U'), {0, 3, 2, 1}},
    {PixelFormat::of('U', 'Y', 'V', 'Y'), {1, 0, 3, 2}},
    {PixelFormat::of('V', 'Y', 'U', 'Y'), {1, 2, 3, 0}},
};

bool is_any(PixelFormat format, std::initializer_list<PixelFormat> of) noexcept {
  return std::ranges::find(of, format) != of.end();
}

/// True if Cr is stored before Cb.
bool is_swapped(PixelFormat format) noexcept {
  return is_any(format, {PixelFormat::of('N', 'V', '2', '1'), PixelFormat::of('N', 'V', '6', '1'),
                         PixelFormat::of('N', 'V', '4', '2'), PixelFormat::of('Y', 'V', '1', '2'),
                         PixelFormat::of('Y', 'V', '1', '6'), PixelFormat::of('Y', 'V', '2', '4')});
}

std::optional<SourceFormat> yuv_source(const FormatInfo& info) noexcept {
  SourceFormat source;
  if (info.plane_count == 1) {
    const auto* const found = std::ranges::find(packed_orders, info.format, &PackedOrder::format);
    if (found == std::end(packed_orders)) return std::nullopt;
    source.kind = SourceKind::packed;
    source.orders[0] = found->order;
    source.chroma_across = 2;
    return source;
  }
  const PlaneInfo& luma = info.planes[0];
  const PlaneInfo& chroma = info.planes[1];
  const std::uint8_t bytes = info.bits_per_component > 8 ? 2 : 1;
  if (luma.block_width != 1 || chroma.block_width != 1 || luma.block_bytes != bytes) return std::nullopt;
  source.chroma_across = chroma.horizontal_sub;
  source.chroma_down = chroma.vertical_sub;
  source.plane_count = info.plane_count;
  if (info.plane_count == 2 && chroma.block_bytes == 2 * bytes) {
    source.kind = SourceKind::semi_planar;
    if (is_swapped(info.format)) source.orders[1] = {1, 0, 2, 3};
    return source;
  }
  if (info.plane_count != 3 || bytes != 1) return std::nullopt;  // deeper formats have their bits at the low end
  source.kind = SourceKind::planar;
  if (is_swapped(info.format)) source.planes = {0, 2, 1};
  return source;
}

/// Kr and Kb.
struct Weights {
  double red;
  double blue;
};

Weights weights_of(ColorInfo::Matrix matrix) noexcept {
  switch (matrix) {
    case ColorInfo::Matrix::bt709:
      return {0.2126, 0.0722};
    case ColorInfo::Matrix::bt2020:
      return {0.2627, 0.0593};
    case ColorInfo::Matrix::smpte240m:
      return {0.212, 0.087};
    default:
      return {0.299, 0.114};
  }
}

/// Converts a sample as the GPU reads it to 0 to 1, or for chroma to -0.5 to 0.5: factor * sample + offset.
struct Scale {
  double factor;
  double offset;
};

struct Scales {
  Scale luma;
  Scale chroma;
};

Scales scales_of(int bits, bool is_limited) noexcept {
  // The GPU reads an 8-bit value n as n / 255, and a deeper one as a 16-bit word with the bits at its high end. (A
  // sampler that reads P010's ten bits as n / 1023, as the Vulkan specification has it, would give a thousandth more.
  // lavapipe's reads the word.)
  const double unit = bits > 8 ? 65535.0 / std::exp2(16 - bits) : 255.0;
  const double step = std::exp2(bits - 8);
  const double whole = std::exp2(bits) - 1;
  const double luma = is_limited ? 219 * step : whole;
  const double black = is_limited ? 16 * step : 0;
  const double chroma = is_limited ? 224 * step : whole;
  return {.luma = {.factor = unit / luma, .offset = -black / luma},
          .chroma = {.factor = unit / chroma, .offset = -128 * step / chroma}};
}

}  // namespace

std::optional<SourceFormat> source_format(PixelFormat format) noexcept {
  const FormatInfo* info = format_info(format);
  if (info == nullptr || info->is_opaque) return std::nullopt;
  if (info->is_yuv) return yuv_source(*info);
  if (info->plane_count != 1 || to_vulkan(format) == VK_FORMAT_UNDEFINED) return std::nullopt;
  SourceFormat source;
  if (format == formats::r8 || format == PixelFormat::of('R', '1', '6', ' ')) source.orders[0] = {0, 0, 0, 4};  // grey
  if (!info->has_alpha) source.orders[0][3] = 4;
  return source;
}

ColorInfo with_defaults(const ColorInfo& color, PixelFormat format, Size size) noexcept {
  ColorInfo known = color;
  const FormatInfo* info = format_info(format);
  const bool is_yuv = info != nullptr && info->is_yuv;
  if (known.range == ColorInfo::Range::unspecified) {
    known.range = is_yuv ? ColorInfo::Range::limited : ColorInfo::Range::full;
  }
  if (is_yuv && (known.matrix == ColorInfo::Matrix::unspecified || known.matrix == ColorInfo::Matrix::identity)) {
    known.matrix = size.height < 720 ? ColorInfo::Matrix::bt601 : ColorInfo::Matrix::bt709;
  }
  return known;
}

ColorMatrix color_matrix(PixelFormat format, Size size, const ColorInfo& color) noexcept {
  const FormatInfo* info = format_info(format);
  const ColorInfo known = with_defaults(color, format, size);
  const bool is_limited = known.range == ColorInfo::Range::limited;
  if (info == nullptr || !info->is_yuv) {
    const Scale scale = is_limited ? scales_of(8, true).luma : Scale{1, 0};
    return {
        {{scale.factor, 0, 0, scale.offset}, {0, scale.factor, 0, scale.offset}, {0, 0, scale.factor, scale.offset}}};
  }
  const auto [luma, chroma] = scales_of(info->bits_per_component, is_limited);
  const auto [kr, kb] = weights_of(known.matrix);
  const double kg = 1 - kr - kb;
  // R = Y + 2 (1 - Kr) Cr, B = Y + 2 (1 - Kb) Cb, and G from Y = Kr R + Kg G + Kb B.
  const std::array<std::array<double, 2>, 3> of_chroma{
      {{0, 2 * (1 - kr)}, {-2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg}, {2 * (1 - kb), 0}}};
  ColorMatrix matrix{};
  for (std::size_t row = 0; row < 3; ++row) {
    const auto [cb, cr] = of_chroma[row];
    matrix[row] = {luma.factor, cb * chroma.factor, cr * chroma.factor, luma.offset + (cb + cr) * chroma.offset};
  }
  return matrix;
}

Size turned(Size size, Rotation rotation) noexcept {
  const bool sideways = rotation == Rotation::by_90 || rotation == Rotation::by_270;
  return sideways ? Size{size.height, size.width} : size;
}

Rect inside_of(const Placement& placement) noexcept {
  const Size target = placement.target;
  const Size source = turned({placement.visible.width, placement.visible.height}, placement.rotation);
  if (placement.fit == Fit::stretch) return {0, 0, target.width, target.height};
  const double factor = std::min(double{1} * target.width / source.width, double{1} * target.height / source.height);
  const auto scaled = [factor](std::uint32_t side, std::uint32_t limit) {
    return std::clamp(static_cast<std::uint32_t>(std::lround(side * factor)), 1U, limit);
  };
  const Size shown{scaled(source.width, target.width), scaled(source.height, target.height)};
  return {static_cast<std::int32_t>((target.width - shown.width) / 2),
          static_cast<std::int32_t>((target.height - shown.height) / 2), shown.width, shown.height};
}

// Where a point (x, y) of the rotated source, of size W' x H', lies on the source: without rotation at (x, y); by 90
// degrees, when the right edge becomes the top, at (W - y, x); by 180 at (W - x, H - y); by 270 at (y, H - x).
void place(const Placement& placement, Parameters& parameters) noexcept {
  const Rect inside = inside_of(placement);
  const Rect visible = placement.visible;
  const Size source = turned({visible.width, visible.height}, placement.rotation);
  const double across = double{1} * source.width / inside.width;  // steps on the rotated source
  const double down = double{1} * source.height / inside.height;
  const double left = -inside.x * across;  // the target's corner on the rotated source
  const double top = -inside.y * down;
  double x = 0;
  double y = 0;
  std::array<double, 4> steps{};
  switch (placement.rotation) {
    case Rotation::none:
      x = left, y = top;
      steps = {across, 0, 0, down};
      break;
    case Rotation::by_90:
      x = visible.width - top, y = left;
      steps = {0, across, -down, 0};
      break;
    case Rotation::by_180:
      x = visible.width - left, y = visible.height - top;
      steps = {-across, 0, 0, -down};
      break;
    case Rotation::by_270:
      x = top, y = visible.height - left;
      steps = {0, -across, down, 0};
      break;
  }
  std::ranges::transform(steps, parameters.steps.begin(), [](double step) { return static_cast<float>(step); });
  parameters.origin = {static_cast<float>(x + visible.x), static_cast<float>(y + visible.y)};
  parameters.low = {visible.x, visible.y};
  parameters.high = {visible.x + static_cast<std::int32_t>(visible.width),
                     visible.y + static_cast<std::int32_t>(visible.height)};
  parameters.inside = {inside.x, inside.y, inside.x + static_cast<std::int32_t>(inside.width),
                       inside.y + static_cast<std::int32_t>(inside.height)};
}

bool scales(const Placement& placement) noexcept {
  const Rect inside = inside_of(placement);
  return Size{inside.width, inside.height} !=
         turned({placement.visible.width, placement.visible.height}, placement.rotation);
}

}  // namespace dmaflow::vulkan
