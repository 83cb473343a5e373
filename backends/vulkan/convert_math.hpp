// The arithmetic of a conversion, without Vulkan: which samples a format has, how they are converted to RGB, and where
// on the source each pixel of the target lies.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/format.hpp>
#include <dmaflow/layout.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <array>
#include <cstdint>
#include <optional>

namespace dmaflow::vulkan {

/// How the shader reads a source; the values are the shader's.
enum class SourceKind : std::int32_t { rgb = 0, semi_planar = 1, planar = 2, packed = 3 };

/// Which byte of a texel holds what: for each of the shader's components (luma, chroma, luma, chroma; or red, green,
/// blue, alpha) the component of the texel, 0 to 3, or 4 for "one".
using Order = std::array<std::uint8_t, 4>;

/// How a format is read. Every source has up to three planes, in the shader's order.
struct SourceFormat {
  SourceKind kind = SourceKind::rgb;
  std::uint32_t plane_count = 1;
  std::array<std::uint32_t, 3> planes{0, 1, 2};  ///< indices in the layout
  std::array<Order, 3> orders{{{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}}};
  std::uint32_t chroma_across = 1;
  std::uint32_t chroma_down = 1;
};

/// nullopt for formats that the shader cannot read.
[[nodiscard]] std::optional<SourceFormat> source_format(PixelFormat format) noexcept;

/// One row each for red, green and blue: factors for a sample's three values as the GPU reads them (0 to 1), and a
/// constant.
using ColorMatrix = std::array<std::array<double, 4>, 3>;

/// @p color with unstated values filled in: limited BT.601 below 720 lines, else BT.709; RGB full range.
[[nodiscard]] ColorInfo with_defaults(const ColorInfo& color, PixelFormat format, Size size) noexcept;
/// ITU-R BT.601, BT.709, BT.2020 (non-constant luminance), SMPTE 240M.
[[nodiscard]] ColorMatrix color_matrix(PixelFormat format, Size size, const ColorInfo& color) noexcept;

/// What the shader gets with each frame, in the arrangement of its push constants.
struct Parameters {
  std::array<std::array<float, 4>, 3> matrix{};
  std::array<float, 4> steps{};
  std::array<float, 2> origin{};
  std::array<std::int32_t, 2> low{};
  std::array<std::int32_t, 2> high{};
  std::array<std::int32_t, 2> size{};
  std::array<std::int32_t, 4> inside{};
  std::array<std::int32_t, 4> picture{};
};
static_assert(sizeof(Parameters) == 128);  // every device supports that many bytes

/// Where a source lies on a target.
struct Placement {
  Rect visible{};  ///< of the source
  Size target{};
  Fit fit = Fit::contain;
  Rotation rotation = Rotation::none;
};

/// The size after the rotation.
[[nodiscard]] Size turned(Size size, Rotation rotation) noexcept;
/// The part of the target that shows the source.
[[nodiscard]] Rect inside_of(const Placement& placement) noexcept;
/// Fills steps, origin, low, high and inside.
void place(const Placement& placement, Parameters& parameters) noexcept;
/// Whether any target pixel lies between source pixels.
[[nodiscard]] bool scales(const Placement& placement) noexcept;

}  // namespace dmaflow::vulkan
