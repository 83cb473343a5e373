#include <dmaflow/layout.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <limits>
#include <numeric>

namespace dmaflow {
namespace {

constexpr std::uint64_t max32 = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint64_t max64 = std::numeric_limits<std::uint64_t>::max();

constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) noexcept {
  return value / by + (value % by != 0 ? 1 : 0);
}

/// The next multiple of @p alignment, or the highest number if there is none. 0 and 1 mean no alignment.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  const std::uint64_t remainder = alignment == 0 ? 0 : value % alignment;
  if (remainder == 0) return value;
  const std::uint64_t missing = alignment - remainder;
  return value > max64 - missing ? max64 : value + missing;
}

bool fits(Size size) noexcept {
  return size.width >= 1 && size.height >= 1 && size.width <= max_dimension && size.height <= max_dimension;
}

Error invalid(const char* operation) noexcept { return Error::os(EINVAL, operation); }

Error bad_size(const char* operation, Size size) noexcept {
  return invalid(operation).detail("size %ux%u; each side must be 1 to %u pixels", size.width, size.height,
                                   max_dimension);
}

/// The kernel's smallest stride (drm_format_info_min_pitch() in drivers/gpu/drm/drm_fourcc.c): NV15 and P030 pack their
/// samples, so a last block that is not full needs only the bytes of its samples. Two pixels of YUYV and similar
/// formats share their chroma, which ends with the block, so these formats need the whole block; the kernel counts half
/// a block for the last pixel of an odd width.
std::uint64_t row_bytes_of(const FormatInfo& info, std::size_t index, std::uint32_t width) noexcept {
  const PlaneInfo& plane = info.planes[index];
  const std::uint64_t samples = divide_up(width, plane.horizontal_sub);
  const bool shares_chroma = info.plane_count == 1;
  if (shares_chroma) return divide_up(samples, plane.block_width) * plane.block_bytes;
  return divide_up(samples * plane.block_bytes, plane.block_width);
}

/// True if the rows can be taken to follow one another. They do in a linear buffer, and the kernel checks a buffer with
/// an implicit modifier in the same way.
bool has_rows(const Layout& layout, const FormatInfo* info) noexcept {
  return info != nullptr && !info->is_opaque && !layout.modifier.is_vendor();
}

// --- strides --------------------------------------------------------------------------------------------------------

/// A plane's stride is luma's stride times this. V4L2 derives it this way if all planes share a buffer and the driver
/// reports one bytesperline.
struct Ratio {
  std::uint64_t numerator;
  std::uint64_t denominator;
};

Ratio stride_ratio(const PlaneInfo& plane, const PlaneInfo& luma) noexcept {
  const std::uint64_t numerator = std::uint64_t{plane.block_bytes} * luma.block_width * luma.horizontal_sub;
  const std::uint64_t denominator = std::uint64_t{luma.block_bytes} * plane.block_width * plane.horizontal_sub;
  const std::uint64_t common = std::gcd(numerator, denominator);
  return {numerator / common, denominator / common};
}

using Strides = std::array<std::uint64_t, max_planes>;

/// Each plane's own smallest stride.
Strides tight_strides(const FormatInfo& info, std::uint32_t width, const Constraints& constraints) noexcept {
  Strides strides{};
  for (std::size_t i = 0; i < info.plane_count; ++i) {
    const std::uint64_t least = std::max<std::uint64_t>(row_bytes_of(info, i, width), constraints.min_stride[i]);
    strides[i] = align_up(least, constraints.stride_alignment);
  }
  return strides;
}

/// The smallest strides in V4L2's proportion, each aligned.
Strides proportional_strides(const FormatInfo& info, std::uint32_t width, const Constraints& constraints) noexcept {
  Strides strides = tight_strides(info, width, constraints);
  const std::uint64_t alignment = std::max<std::uint64_t>(constraints.stride_alignment, 1);
  std::uint64_t luma = strides[0];
  std::uint64_t step = alignment;
  for (std::size_t i = 1; i < info.plane_count; ++i) {
    const auto [numerator, denominator] = stride_ratio(info.planes[i], info.planes[0]);
    luma = std::max(luma, divide_up(strides[i] * denominator, numerator));
    step = std::lcm(step, alignment * denominator);  // then luma * ratio is an integer and aligned
  }
  luma = align_up(luma, step);
  for (std::size_t i = 0; i < info.plane_count; ++i) {
    const auto [numerator, denominator] = stride_ratio(info.planes[i], info.planes[0]);
    strides[i] = luma / denominator * numerator;
  }
  return strides;
}

bool is_alignment(std::uint32_t value) noexcept { return value == 0 || std::has_single_bit(value); }

// --- checks ---------------------------------------------------------------------------------------------------------

constexpr const char* checking = "Layout::validate";

Result<void> check_rows(const Layout& layout, std::uint32_t index, std::uint64_t object_size) noexcept {
  const PlaneLayout& plane = layout.planes[index];
  const std::uint64_t row = layout.row_bytes(index);
  const std::uint64_t rows = layout.rows(index);
  if (plane.stride < row) {
    return std::unexpected(invalid(checking).detail("plane %u: stride %u is less than a row's %llu bytes", index,
                                                    plane.stride, static_cast<unsigned long long>(row)));
  }
  const std::uint64_t end = plane.offset + (rows - 1) * plane.stride + row;
  if (end > object_size) {
    return std::unexpected(invalid(checking).detail(
        "plane %u ends at byte %llu (offset %u, %llu rows, stride %u), but its dma-buf %u has %llu bytes", index,
        static_cast<unsigned long long>(end), plane.offset, static_cast<unsigned long long>(rows), plane.stride,
        plane.object, static_cast<unsigned long long>(object_size)));
  }
  return {};
}

/// Checks what is known of opaque, vendor-arranged and unknown planes: where they begin, and how many bytes the first
/// holds.
Result<void> check_bytes(const Layout& layout, std::uint32_t index, std::uint64_t object_size) noexcept {
  const PlaneLayout& plane = layout.planes[index];
  const std::uint64_t bytes = index == 0 ? std::max<std::uint64_t>(layout.opaque_bytes, 1) : 1;
  if (plane.offset >= object_size || bytes > object_size - plane.offset) {
    return std::unexpected(
        invalid(checking).detail("plane %u: %llu bytes from offset %u do not fit its dma-buf %u of %llu bytes", index,
                                 static_cast<unsigned long long>(bytes), plane.offset, plane.object,
                                 static_cast<unsigned long long>(object_size)));
  }
  return {};
}

Result<void> check_plane_count(const Layout& layout, const FormatInfo* info) noexcept {
  if (layout.plane_count < 1 || layout.plane_count > max_planes) {
    return std::unexpected(
        invalid(checking).detail("%u planes; a layout has 1 to %zu", layout.plane_count, max_planes));
  }
  // A vendor's modifier may add planes (compression data), or hold all components in one.
  const bool fixed = info != nullptr && (info->is_opaque || !layout.modifier.is_vendor());
  if (fixed && layout.plane_count != info->plane_count) {
    return std::unexpected(invalid(checking).detail("%u planes; %.*s has %u", layout.plane_count,
                                                    static_cast<int>(info->name.size()), info->name.data(),
                                                    unsigned{info->plane_count}));
  }
  return {};
}

std::string join(const Layout& layout, std::uint32_t PlaneLayout::* member) {
  std::string text;
  for (std::uint32_t i = 0; i < layout.plane_count && i < max_planes; ++i) {
    text.append(i == 0 ? "" : ",").append(std::to_string(layout.planes[i].*member));
  }
  return text;
}

}  // namespace

Constraints merge(const Constraints& a, const Constraints& b) noexcept {
  Constraints both = a;
  both.stride_alignment = std::max(a.stride_alignment, b.stride_alignment);
  both.offset_alignment = std::max(a.offset_alignment, b.offset_alignment);
  if (a.size_alignment == 0 || b.size_alignment == 0) {
    both.size_alignment = std::max(a.size_alignment, b.size_alignment);
  } else {
    const auto multiple = std::lcm(std::uint64_t{a.size_alignment}, std::uint64_t{b.size_alignment});
    both.size_alignment = static_cast<std::uint32_t>(std::min(multiple, max32));
  }
  for (std::size_t i = 0; i < max_planes; ++i) {
    both.min_stride[i] = std::max(a.min_stride[i], b.min_stride[i]);
    both.min_object_size[i] = std::max(a.min_object_size[i], b.min_object_size[i]);
  }
  both.separate_objects = a.separate_objects || b.separate_objects;
  both.contiguous = a.contiguous || b.contiguous;
  both.cached = a.cached || b.cached;
  return both;
}

Result<Size> parse_size(std::string_view text) noexcept {
  const char* const end = text.data() + text.size();
  Size size;
  const auto width = std::from_chars(text.data(), end, size.width);
  if (width.ec == std::errc{} && width.ptr != end && (*width.ptr == 'x' || *width.ptr == 'X')) {
    const auto height = std::from_chars(width.ptr + 1, end, size.height);
    if (height.ec == std::errc{} && height.ptr == end && fits(size)) return size;
  }
  return std::unexpected(invalid("parse_size")
                             .detail("\"%.*s\" is no size; write WIDTHxHEIGHT, each 1 to %u, such as 1280x720",
                                     static_cast<int>(std::min<std::size_t>(text.size(), 80)), text.data(),
                                     max_dimension));
}

Result<Layout> Layout::linear(PixelFormat format, Size size, const Constraints& constraints) noexcept {
  constexpr const char* operation = "Layout::linear";
  const FormatInfo* info = format_info(format);
  if (!fits(size)) return std::unexpected(bad_size(operation, size));
  if (info == nullptr || info->is_opaque) {
    return std::unexpected(
        invalid(operation).detail("format %.4s has no rows that dmaflow knows of", format.code().c_str()));
  }
  if (!is_alignment(constraints.stride_alignment) || !is_alignment(constraints.offset_alignment)) {
    return std::unexpected(invalid(operation).detail("alignments must be powers of two: stride %u, offset %u",
                                                     constraints.stride_alignment, constraints.offset_alignment));
  }

  const Strides strides = constraints.separate_objects ? tight_strides(*info, size.width, constraints)
                                                       : proportional_strides(*info, size.width, constraints);
  Layout layout;
  layout.size = size;
  layout.format = format;
  layout.modifier = Modifier::linear();
  layout.plane_count = info->plane_count;
  std::uint64_t offset = 0;
  for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
    offset = constraints.separate_objects ? 0 : align_up(offset, constraints.offset_alignment);
    if (strides[i] > max32 || offset > max32) {
      return std::unexpected(invalid(operation).detail("plane %u: stride %llu at offset %llu; both must fit 32 bits", i,
                                                       static_cast<unsigned long long>(strides[i]),
                                                       static_cast<unsigned long long>(offset)));
    }
    layout.planes[i] = {.object = constraints.separate_objects ? i : 0,
                        .offset = static_cast<std::uint32_t>(offset),
                        .stride = static_cast<std::uint32_t>(strides[i])};
    offset += strides[i] * layout.rows(i);
  }
  return layout;
}

Result<Layout> Layout::opaque(PixelFormat format, Size size, std::uint64_t bytes) noexcept {
  constexpr const char* operation = "Layout::opaque";
  if (!fits(size)) return std::unexpected(bad_size(operation, size));
  if (bytes == 0) {
    return std::unexpected(invalid(operation).detail("format %.4s: a capacity of 0 bytes", format.code().c_str()));
  }
  Layout layout;
  layout.size = size;
  layout.format = format;
  layout.modifier = Modifier::linear();
  layout.plane_count = 1;
  layout.opaque_bytes = bytes;
  return layout;
}

std::array<std::uint64_t, max_planes> Layout::object_sizes(const Constraints& constraints) const noexcept {
  std::array<std::uint64_t, max_planes> sizes{};
  const bool rows_known = has_rows(*this, format_info(format));
  for (std::uint32_t i = 0; i < plane_count && i < max_planes; ++i) {
    const PlaneLayout& plane = planes[i];
    if (plane.object >= max_planes) continue;
    std::uint64_t bytes = i == 0 ? opaque_bytes : 0;
    // Devices count whole strides, including that of the last row, although only its pixels must exist.
    if (rows_known) bytes = std::max(bytes, std::uint64_t{plane.stride} * rows(i));
    const std::uint64_t end = bytes > max64 - plane.offset ? max64 : plane.offset + bytes;
    sizes[plane.object] = std::max(sizes[plane.object], end);
  }
  for (std::uint32_t i = 0; i < object_count() && i < max_planes; ++i) {
    sizes[i] = align_up(std::max(sizes[i], constraints.min_object_size[i]), constraints.size_alignment);
  }
  return sizes;
}

std::uint32_t Layout::object_count() const noexcept {
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < plane_count && i < max_planes; ++i) {
    const std::uint32_t object = planes[i].object;
    count = std::max(count, object == max32 ? object : object + 1);
  }
  return count;
}

std::uint32_t Layout::row_bytes(std::uint32_t plane) const noexcept {
  const FormatInfo* info = format_info(format);
  if (info == nullptr || info->is_opaque || plane >= info->plane_count) return 0;
  const std::uint64_t bytes = row_bytes_of(*info, plane, size.width);
  return static_cast<std::uint32_t>(std::min(bytes, max32));
}

std::uint32_t Layout::rows(std::uint32_t plane) const noexcept {
  const FormatInfo* info = format_info(format);
  if (info == nullptr || info->is_opaque || plane >= info->plane_count) return 0;
  return static_cast<std::uint32_t>(divide_up(size.height, info->planes[plane].vertical_sub));
}

std::uint64_t Layout::pixel_bytes() const noexcept {
  const FormatInfo* info = format_info(format);
  if (info == nullptr || info->is_opaque) return opaque_bytes;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < info->plane_count; ++i) bytes += std::uint64_t{row_bytes(i)} * rows(i);
  return bytes;
}

Result<void> Layout::validate(std::span<const std::uint64_t> object_sizes) const noexcept {
  const FormatInfo* info = format_info(format);
  if (!fits(size)) return std::unexpected(bad_size(checking, size));
  if (const auto counted = check_plane_count(*this, info); !counted) return counted;
  if (info != nullptr && info->is_opaque && opaque_bytes == 0) {
    return std::unexpected(invalid(checking).detail("plane 0: %s has a capacity of 0 bytes", format.code().c_str()));
  }
  for (std::uint32_t i = 0; i < plane_count; ++i) {
    const std::uint32_t object = planes[i].object;
    if (object >= object_sizes.size()) {
      return std::unexpected(
          invalid(checking).detail("plane %u: lies in dma-buf %u, but there are %zu", i, object, object_sizes.size()));
    }
    auto checked = has_rows(*this, info) ? check_rows(*this, i, object_sizes[object]) : Result<void>{};
    if (checked) checked = check_bytes(*this, i, object_sizes[object]);
    if (!checked) return checked;
  }
  return {};
}

std::string Layout::describe() const {
  std::string text = std::to_string(size.width) + "x" + std::to_string(size.height) + " " + format.name();
  const FormatInfo* info = format_info(format);
  if (info != nullptr && info->is_opaque) return text + " up to " + std::to_string(opaque_bytes) + " bytes";
  text += " " + modifier.name() + " stride " + join(*this, &PlaneLayout::stride);
  const bool plain = plane_count == 1 && planes[0].offset == 0;
  if (!plain) text += " offset " + join(*this, &PlaneLayout::offset);
  if (object_count() > 1) text += " object " + join(*this, &PlaneLayout::object);
  return text;
}

}  // namespace dmaflow
