#include "fit.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace dmaflow::gbm {
namespace {

std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) noexcept { return (value + by - 1) / by; }

/// 0 and 1 mean that no alignment is needed.
std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  return alignment <= 1 ? value : divide_up(value, alignment) * alignment;
}

bool is_aligned(std::uint64_t value, std::uint64_t alignment) noexcept { return align_up(value, alignment) == value; }

Error misfit() noexcept { return Error::os(EINVAL, "gbm_bo_create"); }

std::optional<Error> misfit_of_plane(const Layout& layout, std::uint32_t index, const Constraints& wanted) noexcept {
  const PlaneLayout& plane = layout.planes[index];
  if (plane.stride < wanted.min_stride[index] || !is_aligned(plane.stride, wanted.stride_alignment)) {
    return misfit().detail("plane %u: the driver makes rows of %u bytes; wanted are %u or more, a multiple of %u",
                           index, plane.stride, wanted.min_stride[index], std::max(1U, wanted.stride_alignment));
  }
  if (!is_aligned(plane.offset, wanted.offset_alignment)) {
    return misfit().detail("plane %u: the driver puts it at byte %u, which is no multiple of %u", index, plane.offset,
                           wanted.offset_alignment);
  }
  for (std::uint32_t other = 0; wanted.separate_objects && other < index; ++other) {
    if (layout.planes[other].object == plane.object) {
      return misfit().detail("planes %u and %u are one dma-buf, and separate ones are wanted", other, index);
    }
  }
  return std::nullopt;
}

}  // namespace

bool are_alignments(const Constraints& constraints) noexcept {
  const auto is_alignment = [](std::uint32_t value) { return value == 0 || std::has_single_bit(value); };
  return is_alignment(constraints.stride_alignment) && is_alignment(constraints.offset_alignment);
}

std::optional<Error> misfit_of(const Layout& layout, std::span<const std::uint64_t> object_sizes,
                               const Constraints& constraints) noexcept {
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    if (auto found = misfit_of_plane(layout, p, constraints)) return found;
  }
  for (std::size_t i = 0; i < object_sizes.size(); ++i) {
    const std::uint64_t least = constraints.min_object_size[i];
    if (object_sizes[i] < least || !is_aligned(object_sizes[i], constraints.size_alignment)) {
      return misfit().detail("the driver makes %llu bytes; wanted are %llu or more, a multiple of %u",
                             static_cast<unsigned long long>(object_sizes[i]), static_cast<unsigned long long>(least),
                             std::max(1U, constraints.size_alignment));
    }
  }
  return std::nullopt;
}

std::optional<Size> larger_size(const Layout& layout, std::span<const std::uint64_t> object_sizes,
                                const Constraints& constraints, Size asked) noexcept {
  if (!layout.modifier.is_linear()) return std::nullopt;  // a larger tiled buffer has another arrangement
  constexpr std::uint64_t most = std::uint64_t{4} * max_dimension;
  std::uint64_t width = asked.width;
  std::uint64_t height = asked.height;
  Layout as_asked = layout;
  as_asked.size = asked;
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    const std::uint64_t stride = layout.planes[p].stride;
    const std::uint64_t wanted =
        align_up(std::max<std::uint64_t>(stride, constraints.min_stride[p]), constraints.stride_alignment);
    const std::uint64_t row = as_asked.row_bytes(p);
    if (wanted > stride && row > 0) width = std::max(width, divide_up(wanted * asked.width, row));
    const std::uint32_t object = layout.planes[p].object;
    if (object >= object_sizes.size() || stride == 0) continue;
    const std::uint64_t bytes =
        align_up(std::max(object_sizes[object], constraints.min_object_size[object]), constraints.size_alignment);
    const std::uint64_t missing = bytes - object_sizes[object];
    height = std::max(height, asked.height + divide_up(missing, std::max(stride, wanted)));
  }
  if (width > most || height > most || (width == asked.width && height == asked.height)) return std::nullopt;
  return Size{static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height)};
}

}  // namespace dmaflow::gbm
